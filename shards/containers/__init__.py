"""What the bytes of an audio file say of themselves, by container: read without any decoder."""
