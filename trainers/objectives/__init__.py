"""One file is one loss: a module that holds its model and turns a Batch into (loss, metrics)."""
