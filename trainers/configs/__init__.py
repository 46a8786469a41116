"""One file is one system, one function in it one variant: size in, TrainConfig out, found by name."""
