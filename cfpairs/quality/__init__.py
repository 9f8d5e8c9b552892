"""What a set of pairs is worth."""
