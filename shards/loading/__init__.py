"""What a loader is made of: rows and orders of a dataset, bulk reads, memory that is used again."""
