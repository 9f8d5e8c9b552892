"""Builders of pairs, one file each."""
