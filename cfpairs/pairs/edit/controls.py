"""Control pairs: items edited with nothing to change, which show the noise of the edits alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from cfpairs.pairs.edit.base import EditRejectedError, EditTask
from cfpairs.pairs.edit.making import Made

__all__ = ["make_controls"]

Row = dict[str, Any]


def make_controls(
    sources: Iterable[Mapping[str, Any]],
    n: int,
    make: Callable[[Sequence[EditTask]], Iterable[Made | EditRejectedError]],
    row: Callable[[EditTask, Made], Row],
) -> list[Row]:
    """Rows of the manifest for up to `n` control items.

    Parameters
    ----------
    sources : iterable of mapping
        Rows of the items that were edited, in the order of their pairs; each is taken once.
    n : int
    make : callable
        Makes the edits of some tasks.
    row : callable
        The row of an item that was made.

    Notes
    -----
    An item of which nothing comes gives its place to the next. Control items are not checked: their
    background is not to change, and where an editor spoils the foreground they are to show it.
    """
    tasks = _null_tasks(sources)
    found: list[Row] = []
    while len(found) < n and (batch := list(islice(tasks, n - len(found)))):
        for task, made in zip(batch, make(batch), strict=True):
            if isinstance(made, Made):
                found.append(row(task, made))
    return found


def _null_tasks(sources: Iterable[Mapping[str, Any]]) -> Iterator[EditTask]:
    seen: set[str] = set()
    for source in sources:
        if source["item_id"] not in seen:
            seen.add(source["item_id"])
            yield EditTask(source, int(source["env"]), len(seen) - 1)
