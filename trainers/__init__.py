"""Batches become checkpoints, checkpoints become results: models, objectives, the loop, evaluators."""
