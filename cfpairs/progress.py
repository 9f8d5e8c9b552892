"""How long work reports its progress, without knowing who looks.

The stages call a `Progress`; the command line passes one that draws rich bars on a terminal, tests and
libraries pass nothing and get `SILENT`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

__all__ = ["SILENT", "Advance", "Progress", "Silent"]

Advance = Callable[[int], None]


class Progress(Protocol):
    """Something that can show a running task and say a line."""

    def task(self, description: str, total: int) -> AbstractContextManager[Advance]:
        """Show `description` until the block ends; call the yielded function with each step's size."""
        ...

    def say(self, line: str) -> None:
        """Tell the user one line."""
        ...


class Silent:
    """A `Progress` that shows nothing."""

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Do nothing at each step."""
        yield lambda _step: None

    def say(self, line: str) -> None:
        """Swallow the line."""


SILENT = Silent()
