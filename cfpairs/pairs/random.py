"""Pairs of any two items with the same label in different environments: the cheapest baseline."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from math import lcm
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import check_options
from cfpairs.errors import DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import TrainItems, cell_rng, shortfall_note
from cfpairs.pairs.matching.constraints import Block, ConstraintOptions, Constraints, PairCell
from cfpairs.tables import PAIRS, make_table

__all__ = ["RandomBuilder", "RandomOptions"]

LIMITS = (
    "the two items differ in everything but the label, not in the environment alone",
    "a small group's items come again and again",
)

WALK = 4096
"""Pairs of a block that are looked at together."""


class RandomOptions(ConstraintOptions):
    """Settings of `RandomBuilder`."""

    reuse: bool = Field(default=True, description="may an item be in more than one pair of a cell")


class RandomBuilder:
    """Pair items of one label across environments at random.

    Parameters
    ----------
    options : RandomOptions

    Notes
    -----
    Both sides of a block are put in a seeded order and walked side by side, so that every item is used
    before any is used again, and no pair comes twice. The blocks of a cell take turns, as the cells do.
    """

    Options: ClassVar[type[BaseModel]] = RandomOptions
    needs_embeddings: ClassVar[bool] = False
    version: ClassVar[int] = 2

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(RandomOptions, options)

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs.

        Raises
        ------
        ConfigError
            If a constraint names no column of the manifest.
        DataError
            If no two training items satisfy the constraints.
        """
        limits = Constraints.of(TrainItems.of(inputs.manifest), self.options)
        rows = self._rows(limits, inputs)
        if not rows:
            raise DataError(
                "no two training items satisfy the constraints",
                expected=f"items with {self.options.in_words()}",
                remedy="shorten the options 'same' or 'differ'",
            )
        notes = [
            *limits.notes,
            *shortfall_note(
                inputs.n_pairs,
                len(rows),
                "the groups hold no more pairs" + ("" if self.options.reuse else " without reuse"),
            ),
        ]
        card = pair_card(
            inputs,
            limits.items,
            rows,
            method=f"Two training items of {self.options.in_words()}, drawn at random.",
            settings=self.options.settings(),
            limits=LIMITS if self.options.reuse else LIMITS[:1],
            notes=notes,
        )
        return PairSet(make_table(rows, PAIRS), None, card, tuple(notes))

    def _rows(self, limits: Constraints, inputs: BuildInputs) -> list[dict[str, Any]]:
        streams = [self._cell(limits, cell, inputs.seed) for cell in limits.cells]
        rows: list[dict[str, Any]] = []
        for turn, (a, b) in take_turns(streams):
            if len(rows) == inputs.n_pairs:
                break
            rows.append(limits.row("random", limits.cells[turn], a, b, inputs.seed))
        return rows

    def _cell(self, limits: Constraints, cell: PairCell, seed: int) -> Iterator[tuple[int, int]]:
        blocks = [self._block(limits, cell, block, seed) for block in cell.blocks]
        return (pair for _, pair in take_turns(blocks))

    def _block(
        self, limits: Constraints, cell: PairCell, block: Block, seed: int
    ) -> Iterator[tuple[int, int]]:
        rng = cell_rng(seed, "random", [cell.label, cell.env_a, cell.env_b], *block.key)
        a = rng.permutation(block.a)
        b = rng.permutation(block.b)
        used: set[int] = set()
        fewest = len(a) if block.within else 2 * min(len(a), len(b))
        for start in range(0, len(a) * len(b), WALK):
            one, other = nth_pair(a, b, np.arange(start, min(start + WALK, len(a) * len(b))))
            allowed = limits.allowed(one, other)
            if block.within:
                allowed &= one < other
            for pair in zip(one[allowed].tolist(), other[allowed].tolist(), strict=True):
                if self.options.reuse:
                    yield pair
                elif used.isdisjoint(pair):
                    used.update(pair)
                    yield pair
            if not self.options.reuse and len(used) > fewest - 2:
                return


def nth_pair(
    a: NDArray[np.int64], b: NDArray[np.int64], n: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of all ``len(a) * len(b)`` pairs those numbered `n`; every member is used before any is used again.

    Examples
    --------
    >>> one, other = nth_pair(np.array([0, 1]), np.array([7, 8]), np.arange(4))
    >>> one.tolist(), other.tolist()
    ([0, 1, 0, 1], [7, 8, 8, 7])
    """
    lap = n // lcm(len(a), len(b))
    return a[n % len(a)], b[(n + lap) % len(b)]


def take_turns(streams: Sequence[Iterator[tuple[int, int]]]) -> Iterator[tuple[int, tuple[int, int]]]:
    """Pairs of all streams, always from the one that has given the fewest, each with its stream's number.

    Examples
    --------
    >>> [turn for turn, _ in take_turns([iter([(0, 1)]), iter([(2, 3), (4, 5), (6, 7)])])]
    [0, 1, 1, 1]
    """
    heap = [(0, number) for number in range(len(streams))]
    while heap:
        given, number = heapq.heappop(heap)
        pair = next(streams[number], None)
        if pair is not None:
            heapq.heappush(heap, (given + 1, number))
            yield number, pair
