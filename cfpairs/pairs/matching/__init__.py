"""What builders that match real items share: constraints, neighbour search and one-to-one assignment."""
