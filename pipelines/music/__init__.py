"""What rendered corpora are made of."""
