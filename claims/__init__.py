"""What the papers say, asked again: corpora, trainings and probes in a row, and a verdict with its interval."""
