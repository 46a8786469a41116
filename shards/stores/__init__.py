"""Datasets in object stores: uploads, ranged reads, the local cache."""
