"""Speed beside a peer: each file measures one thing, paired in one run; run.py keeps the results."""
