"""Which item is edited next: candidates in seeded streams that take turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cfpairs.pairs.cells import Cell, TrainItems, cell_rng, deal, edit_cells

__all__ = ["Choose", "Outcome", "Stream", "in_order", "make_streams", "next_wave"]

Choose = Literal["balanced", "minority", "all"]


@dataclass(frozen=True)
class Outcome:
    """The row of a pair, and the row of the item that was made for it; None if it was rejected."""

    pair: dict[str, Any]
    item: dict[str, Any] | None


@dataclass
class Stream:
    """Candidates of one kind in their order, and what became of those that were tried.

    Attributes
    ----------
    candidates : ndarray of int, shape (n, 2)
        Row of the item, target environment.
    start : int
        What the stream is held to have had before its first turn.
    turns : ndarray of int, shape (n,)
        Number of each candidate among all with the same target, over all streams.
    outcomes : list of Outcome
    made_ids : set of str
        Ids of the items that were made.
    """

    candidates: NDArray[np.int64]
    start: int
    turns: NDArray[np.int64]
    outcomes: list[Outcome] = field(default_factory=list)
    made_ids: set[str] = field(default_factory=set)

    def add(self, outcome: Outcome) -> None:
        """Record what became of the next candidate."""
        self.outcomes.append(outcome)
        if outcome.item is not None:
            self.made_ids.add(outcome.item["item_id"])

    @property
    def made(self) -> int:
        """Number of pairs that came out well."""
        return len(self.made_ids)

    @property
    def left(self) -> int:
        """Number of candidates not yet tried."""
        return len(self.candidates) - len(self.outcomes)


def make_streams(
    items: TrainItems, targets: frozenset[int], choose: Choose, per_item: int, seed: int
) -> list[Stream]:
    """The candidates for edits.

    Parameters
    ----------
    items : TrainItems
    targets : frozenset of int
        Environments that items can be moved to.
    choose : {"balanced", "minority", "all"}
        One stream for every group and target, and all get as many turns; one for every group that edits
        end in, and the smallest groups are filled first; or a single one of all items.
    per_item : int
        Most edits of one item to one environment.
    seed : int
    """
    cells = [cell for cell in edit_cells(items) if cell.env_b in targets]
    kinds: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        key = {"balanced": tuple(cell), "minority": (cell.label, cell.env_b), "all": ()}[choose]
        kinds.setdefault(key, []).append(cell)
    ordered = []
    for key, members in sorted(kinds.items()):
        rows = np.concatenate([_moves(items.groups[c.label, c.env_a], c.env_b) for c in members])
        laps = [cell_rng(seed, "edit", choose, key, lap).permutation(rows) for lap in range(per_item)]
        start = len(items.groups.get((key[0], key[1]), ())) if choose == "minority" else 0
        ordered.append((start, np.concatenate(laps)))
    return _with_turns(ordered)


def next_wave(streams: list[Stream], n: int) -> list[tuple[Stream, int]]:
    """What to try next so that `n` pairs may come out: streams and places of candidates; empty at the end.

    A wave never tries more of a stream than a run would that tried one candidate after another, so that
    the outcomes are the same however many are tried at once.
    """
    missing = n - sum(stream.made for stream in streams)
    starts = [stream.start + stream.made for stream in streams]
    tried = [len(stream.outcomes) for stream in streams]
    wave = []
    for number in deal([stream.left for stream in streams], missing, starts):
        wave.append((streams[number], tried[number]))
        tried[number] += 1
    return wave


def in_order(streams: list[Stream]) -> Iterator[Outcome]:
    """The outcomes as if one candidate had been tried after another: a larger set begins with the smaller."""
    waiting = [iter(stream.outcomes) for stream in streams]
    # A stream that is used up had one more turn, in which its last candidates were all rejected.
    sizes = [stream.made + (stream.left == 0) for stream in streams]
    for number in deal(sizes, sum(sizes), [stream.start for stream in streams]):
        for outcome in waiting[number]:
            yield outcome
            if outcome.item is not None:
                break


def _moves(rows: NDArray[np.int64], env: int) -> NDArray[np.int64]:
    return np.column_stack([rows, np.full(len(rows), env, np.int64)])


def _with_turns(ordered: list[tuple[int, NDArray[np.int64]]]) -> list[Stream]:
    """Number the candidates with one target in the order of their turns, so that backgrounds go round."""
    streams = [Stream(rows, start, np.zeros(len(rows), np.int64)) for start, rows in ordered]
    sizes = [len(stream.candidates) for stream in streams]
    taken = [0] * len(streams)
    counts: dict[int, int] = {}
    for number in deal(sizes, sum(sizes), [stream.start for stream in streams]):
        place = taken[number]
        taken[number] += 1
        env = int(streams[number].candidates[place, 1])
        streams[number].turns[place] = counts.get(env, 0)
        counts[env] = counts.get(env, 0) + 1
    return streams
