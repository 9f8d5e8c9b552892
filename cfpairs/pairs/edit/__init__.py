"""Pairs by editing: masks, editors, checks."""
