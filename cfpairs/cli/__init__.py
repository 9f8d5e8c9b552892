"""The commands. Every heavy import waits until a command needs it."""

from cfpairs.cli.commands import app
from cfpairs.cli.entry import main

__all__ = ["app", "main"]
