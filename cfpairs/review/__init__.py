"""The desk where people sort pairs: decisions that are kept, and a local page to make them."""
