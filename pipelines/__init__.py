"""Recordings on disk -> shards."""
