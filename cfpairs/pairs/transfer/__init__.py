"""Items moved to another environment by a variational invariant autoencoder (VIAE)."""
