"""Which item is edited next: candidates in seeded streams that take turns."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cfpairs.pairs.cells import Cell, TrainItems, cell_rng, edit_cells

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
    kind : int
        The label, where labels take turns by their shares; streams of one kind share its turns.
    share : int
        The share of that kind.
    outcomes : list of Outcome
    made_ids : set of str
        Ids of the items that were made.
    """

    candidates: NDArray[np.int64]
    start: int
    turns: NDArray[np.int64]
    kind: int = 0
    share: int = 1
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
    items: TrainItems,
    targets: frozenset[int],
    choose: Choose,
    per_item: int,
    seed: int,
    shares: Mapping[int, int] | None = None,
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
    shares : mapping of label to int, optional
        Labels take turns in this proportion, and `choose` holds within each; labels left out get none.
    """
    cells = [cell for cell in edit_cells(items) if cell.env_b in targets]
    kinds: dict[tuple[int, ...], list[Cell]] = {}
    for cell in cells:
        if shares is not None and not shares.get(cell.label):
            continue
        everything = () if shares is None else (cell.label,)
        key = {"balanced": tuple(cell), "minority": (cell.label, cell.env_b), "all": everything}[choose]
        kinds.setdefault(key, []).append(cell)
    streams = []
    for key, members in sorted(kinds.items()):
        rows = np.concatenate([_moves(items.groups[c.label, c.env_a], c.env_b) for c in members])
        laps = [cell_rng(seed, "edit", choose, key, lap).permutation(rows) for lap in range(per_item)]
        start = len(items.groups.get((key[0], key[1]), ())) if choose == "minority" else 0
        stream = Stream(np.concatenate(laps), start, np.zeros(len(rows) * per_item, np.int64))
        if shares is not None:
            stream.kind, stream.share = key[0], shares[key[0]]
        streams.append(stream)
    _number_turns(streams)
    return streams


class _Dealer:
    """Whose turn it is: of the kinds by their shares, within one the stream that has had the fewest.

    Kinds take turns by Sainte-Laguë's rule: the next is the one with the largest ``share / (2 had + 1)``. It
    meets the shares exactly where they divide the number of turns, and more turns begin with the fewer.
    """

    def __init__(self, streams: list[Stream], made: list[int]) -> None:
        self._streams = streams
        self._had: dict[int, int] = {}
        self._share: dict[int, int] = {}
        self._waiting: dict[int, list[tuple[int, int]]] = {}
        self._order: list[tuple[float, int]] = []
        for number, stream in enumerate(streams):
            self._had[stream.kind] = self._had.get(stream.kind, 0) + made[number]
            self._waiting.setdefault(stream.kind, [])
            self._share[stream.kind] = stream.share
        self._count = [stream.start + made[number] for number, stream in enumerate(streams)]

    def add(self, number: int) -> None:
        """Let a stream take turns; a kind comes in with its first stream."""
        kind = self._streams[number].kind
        heapq.heappush(self._waiting[kind], (self._count[number], number))
        if len(self._waiting[kind]) == 1:
            self._queue(kind)

    def take(self) -> int | None:
        """The stream whose turn it is, None if none is left; it takes no other turn until `back`."""
        if not self._order:
            return None
        kind = heapq.heappop(self._order)[1]
        return heapq.heappop(self._waiting[kind])[1]

    def back(self, number: int, *, made: bool, more: bool) -> None:
        """Say what became of the turn: whether it counts, and whether the stream can take others."""
        kind = self._streams[number].kind
        self._had[kind] += made
        self._count[number] += made
        if more:
            heapq.heappush(self._waiting[kind], (self._count[number], number))
        if self._waiting[kind]:
            self._queue(kind)

    def _queue(self, kind: int) -> None:
        heapq.heappush(self._order, ((2 * self._had[kind] + 1) / self._share[kind], kind))


def next_wave(streams: list[Stream], n: int) -> list[tuple[Stream, int]]:
    """What to try next so that `n` pairs may come out: streams and places of candidates; empty at the end.

    A wave never tries more of a stream than a run would that tried one candidate after another, so that
    the outcomes are the same however many are tried at once.
    """
    dealer = _Dealer(streams, [stream.made for stream in streams])
    tried = [len(stream.outcomes) for stream in streams]
    for at, stream in enumerate(streams):
        if stream.left:
            dealer.add(at)
    wave: list[tuple[Stream, int]] = []
    missing = n - sum(stream.made for stream in streams)
    while len(wave) < missing and (number := dealer.take()) is not None:
        stream = streams[number]
        wave.append((stream, tried[number]))
        tried[number] += 1
        dealer.back(number, made=True, more=tried[number] < len(stream.candidates))
    return wave


def in_order(streams: list[Stream]) -> Iterator[Outcome]:
    """The outcomes as if one candidate had been tried after another: a larger set begins with the smaller."""
    dealer = _Dealer(streams, [0] * len(streams))
    given = [0] * len(streams)
    for at, stream in enumerate(streams):
        if stream.outcomes:
            dealer.add(at)
    while (number := dealer.take()) is not None:
        stream = streams[number]
        outcome = stream.outcomes[given[number]]
        given[number] += 1
        yield outcome
        dealer.back(number, made=outcome.item is not None, more=given[number] < len(stream.outcomes))


def _moves(rows: NDArray[np.int64], env: int) -> NDArray[np.int64]:
    return np.column_stack([rows, np.full(len(rows), env, np.int64)])


def _number_turns(streams: list[Stream]) -> None:
    """Number the candidates with one target in the order of their turns, so that backgrounds go round."""
    dealer = _Dealer(streams, [0] * len(streams))
    for at, stream in enumerate(streams):
        if stream.left:
            dealer.add(at)
    taken = [0] * len(streams)
    counts: dict[int, int] = {}
    while (number := dealer.take()) is not None:
        stream, place = streams[number], taken[number]
        env = int(stream.candidates[place, 1])
        stream.turns[place] = counts.get(env, 0)
        counts[env] = counts.get(env, 0) + 1
        taken[number] += 1
        dealer.back(number, made=True, more=taken[number] < len(stream.candidates))
