"""Ways of finding the foreground of an image."""
