"""One file is one frozen function from Clip to array, with its contract; `load(contract)` returns it."""
