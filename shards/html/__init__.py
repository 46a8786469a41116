"""The page of a dataset, and what it is made of."""
