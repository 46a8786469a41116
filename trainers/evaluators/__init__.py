"""One file is one question asked of a frozen encoder, and one word for `sonograph evaluate`.

A file `x.py` offers `load(labels, seed)`, which returns the question: a callable that takes the encoder and a Reader
for each split and yields (name, value); a value is a number, a matplotlib Figure, or Scores that can be bootstrapped.
"""
