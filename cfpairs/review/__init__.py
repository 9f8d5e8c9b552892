"""The local page on which pairs are kept or dropped."""
