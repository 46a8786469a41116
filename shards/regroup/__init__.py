"""Examples of some datasets become those of another: what merge and split are made of."""
