"""Frozen image encoders and the runtimes that run them."""
