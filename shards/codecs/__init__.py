"""Frozen codecs: a waveform as a short sequence of latent vectors, and back; one file is one family of them."""
