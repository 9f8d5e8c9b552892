"""Pairs of any two items with the same label in different environments: the cheapest baseline."""

from __future__ import annotations

from math import lcm
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict
from cfpairs.errors import ConfigError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import (
    Cell,
    TrainItems,
    cell_rng,
    deal,
    missing_notes,
    pair_row,
    real_cells,
    shortfall_note,
)
from cfpairs.tables import PAIRS, make_table

__all__ = ["RandomBuilder", "RandomOptions"]

LIMITS = (
    "the two items differ in everything but the label, not in the environment alone",
    "a small group's items come again and again",
)


class RandomOptions(Strict):
    """Settings of `RandomBuilder`."""

    reuse: bool = Field(default=True, description="may an item be in more than one pair")


class RandomBuilder:
    """Pair items of one label across environments at random.

    Parameters
    ----------
    options : RandomOptions

    Notes
    -----
    Both groups of a cell are put in a seeded order and walked side by side, so that every item is used
    before any is used again, and no pair comes twice.
    """

    Options: ClassVar[type[BaseModel]] = RandomOptions
    needs_embeddings: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        if not isinstance(options, RandomOptions):
            raise ConfigError("wrong options", got=type(options).__name__, expected="RandomOptions")
        self.options = options

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs.

        Raises
        ------
        DataError
            If no label occurs in two environments of the training split.
        """
        items = TrainItems.of(inputs.manifest)
        cells = real_cells(items)
        sides = [self._sides(items, cell, inputs.seed) for cell in cells]
        sizes = [self._size(*side) for side in sides]
        taken = [0] * len(cells)
        rows: list[dict[str, Any]] = []
        for turn in deal(sizes, inputs.n_pairs):
            a, b = nth_pair(*sides[turn], taken[turn])
            taken[turn] += 1
            rows.append(pair_row(items, "random", cells[turn], a, b, inputs.seed))
        notes = missing_notes(items) + shortfall_note(
            inputs.n_pairs,
            len(rows),
            "the groups hold no more pairs" + ("" if self.options.reuse else " without reuse"),
        )
        card = pair_card(
            inputs,
            items,
            rows,
            method="Two training items of one label in two environments, drawn at random.",
            settings=self.options.model_dump(),
            limits=LIMITS,
            notes=notes,
        )
        return PairSet(make_table(rows, PAIRS), None, card, tuple(notes))

    def _sides(self, items: TrainItems, cell: Cell, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        rng = cell_rng(seed, "random", list(cell))
        a = rng.permutation(items.groups[cell.label, cell.env_a])
        return a, rng.permutation(items.groups[cell.label, cell.env_b])

    def _size(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
        return len(a) * len(b) if self.options.reuse else min(len(a), len(b))


def nth_pair(a: NDArray[np.int64], b: NDArray[np.int64], n: int) -> tuple[int, int]:
    """The n-th of all ``len(a) * len(b)`` pairs, in an order that uses every member before any again.

    Examples
    --------
    >>> [nth_pair(np.array([0, 1]), np.array([7, 8]), n) for n in range(4)]
    [(0, 7), (1, 8), (0, 8), (1, 7)]
    """
    lap = n // lcm(len(a), len(b))
    return int(a[n % len(a)]), int(b[(n + lap) % len(b)])
