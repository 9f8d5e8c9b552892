"""``python -m cfpairs`` is the command ``cfpairs``."""

from cfpairs.cli import main

main()
