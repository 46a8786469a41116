"""One file = the claims of one system, and what it takes to ask them at each size."""
