"""One file is one architecture with its config; a model does not know how it is trained."""
