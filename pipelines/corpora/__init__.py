"""One file is one dataset's published layout, read and, where we can compose it, rendered."""
