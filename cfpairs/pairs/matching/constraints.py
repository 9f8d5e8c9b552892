"""Which training items may be paired: columns that must be equal, columns that must differ.

The default, `same` label and `differ` in environment, makes one block a cell. Further columns in `same` split
a cell into blocks, those in `differ` forbid single pairs within a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from cfpairs.config import Strict
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.cells import Cell, TrainItems, missing_notes, pair_row, real_cells
from cfpairs.registry import suggest

__all__ = ["Block", "ConstraintOptions", "Constraints", "PairCell"]

NUMBERED = {"label_name": "label", "env_name": "env"}
"""Columns of names, and the columns of numbers that say the same."""


class ConstraintOptions(Strict):
    """Which items a builder may pair."""

    same: tuple[str, ...] = Field(
        default=("label",), description="columns of the manifest in which the two items are equal"
    )
    differ: tuple[str, ...] = Field(
        default=("env",), description="columns of the manifest in which the two items differ"
    )

    @field_validator("same", "differ")
    @classmethod
    def _numbered(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(NUMBERED.get(name, name) for name in value))

    @model_validator(mode="after")
    def _not_both(self) -> ConstraintOptions:
        both = [name for name in self.same if name in self.differ]
        if both:
            raise ValueError(f"column {both[0]!r} stands both in 'same' and in 'differ'")
        return self

    def in_words(self) -> str:
        """The constraints as a phrase, such as ``the same label and another env``."""
        parts = [f"the same {name}" for name in self.same] + [f"another {name}" for name in self.differ]
        return " and ".join(parts) or "no condition"

    def settings(self) -> dict[str, object]:
        """Every option and its value in words, for the card."""
        dumped: dict[str, Any] = self.model_dump()
        return {name: _in_words(value) for name, value in dumped.items()}


@dataclass(frozen=True)
class Block:
    """Items of two environments that are equal in every column of `same`.

    Attributes
    ----------
    a, b : ndarray of int
        Rows of the items, ascending; one array twice where both sides are of one environment.
    key : tuple of str
        The values of the columns of `same` other than label and env.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    key: tuple[str, ...]

    @property
    def within(self) -> bool:
        """Whether both sides are the same items."""
        return self.a is self.b


@dataclass(frozen=True)
class PairCell:
    """A label (None where `same` does not hold it), two environments, and the blocks between them."""

    label: int | None
    env_a: int
    env_b: int
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Constraints:
    """The constraints on given items.

    Attributes
    ----------
    items : TrainItems
        Those that have a value in every column of the constraints.
    cells : tuple of PairCell
        Every cell that has a block, in ascending order.
    codes : ndarray of int, shape (n, c)
        A column for each column of `differ` other than env: equal codes forbid a pair.
    notes : tuple of str
        Lines for the user.
    """

    items: TrainItems
    cells: tuple[PairCell, ...]
    codes: NDArray[np.int64]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, items: TrainItems, options: ConstraintOptions) -> Constraints:
        """Apply `options` to `items`.

        Raises
        ------
        ConfigError
            If the manifest has no such column, or one of no simple type.
        DataError
            If no two items stand in the same block, or a column has no value.
        """
        items, notes = _with_values(items, (*options.same, *options.differ))
        if options.same == ("label",) and options.differ == ("env",):
            real_cells(items)
        blocks = _Blocks(items, [name for name in options.same if name not in ("label", "env")])
        cells = tuple(blocks.cells(options))
        if not cells:
            raise DataError(
                "no two training items satisfy the constraints",
                got=items.describe_groups(),
                expected=f"items with {options.in_words()}",
                remedy="shorten the options 'same' or 'differ'",
            )
        codes = [_codes(items.table, name) for name in options.differ if name != "env"]
        if "label" in options.same and "env" in options.differ:
            notes += missing_notes(items)
        else:
            notes += _loose_notes(options)
        stacked = np.stack(codes, axis=1) if codes else np.empty((len(items.ids), 0), np.int64)
        return cls(items, cells, stacked, tuple(notes))

    def allowed(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the pairs ``(a[i], b[i])`` of rows of one block may be made; shape (k,)."""
        found: NDArray[np.bool_] = (a != b) & (self.codes[a] != self.codes[b]).all(axis=1)
        return found

    def forbidding(self, block: Block) -> NDArray[np.int64]:
        """Codes of all items, shape (n, c'), equal in some column where a pair of `block` is forbidden."""
        if not block.within:
            return self.codes
        return np.column_stack([np.arange(len(self.items.ids)), self.codes])

    def row(
        self, method: str, cell: PairCell, a: int, b: int, seed: int, score: float | None = None
    ) -> dict[str, Any]:
        """The row of a pair set; its label is null where the two items differ in it."""
        label = int(self.items.label[a])
        row = pair_row(self.items, method, Cell(label, cell.env_a, cell.env_b), a, b, seed, score)
        if label != int(self.items.label[b]):
            row["label"] = None
        return row

    def name(self, cell: PairCell) -> str:
        """A cell in words, such as ``lying, green-brown``."""
        envs = f"{self.items.env_names[cell.env_a]}-{self.items.env_names[cell.env_b]}"
        return envs if cell.label is None else f"{self.items.label_names[cell.label]}, {envs}"


class _Blocks:
    """Splits cells by the values of further columns."""

    def __init__(self, items: TrainItems, columns: Sequence[str]) -> None:
        self.items = items
        self.number = np.zeros(len(items.ids), np.int64)
        self.keys: list[tuple[str, ...]] = [()]
        if columns:
            codes = np.stack([_codes(items.table, name) for name in columns], axis=1)
            _, first, number = np.unique(codes, axis=0, return_index=True, return_inverse=True)
            self.number = number.reshape(-1)
            values = [items.table[name].take(pa.array(first)).to_pylist() for name in columns]
            self.keys = [tuple(str(value) for value in key) for key in zip(*values, strict=True)]

    def cells(self, options: ConstraintOptions) -> Iterator[PairCell]:
        labels = sorted(self.items.label_names) if "label" in options.same else [None]
        envs = sorted(self.items.env_names)
        if "env" in options.same:
            sides = [(env, env) for env in envs]
        elif "env" in options.differ:
            sides = list(combinations(envs, 2))
        else:
            sides = list(combinations_with_replacement(envs, 2))
        for label in labels:
            parts = {env: self._parts(label, env) for env in envs}
            for env_a, env_b in sides:
                blocks = tuple(self._between(parts[env_a], parts[env_b]))
                if blocks:
                    yield PairCell(label, env_a, env_b, blocks)

    def _parts(self, label: int | None, env: int) -> dict[int, NDArray[np.int64]]:
        chosen = self.items.env == env
        if label is not None:
            chosen &= self.items.label == label
        rows = np.flatnonzero(chosen)
        rows = rows[np.argsort(self.number[rows], kind="stable")]
        numbers, starts = np.unique(self.number[rows], return_index=True)
        return dict(zip(numbers.tolist(), np.split(rows, starts[1:]), strict=True)) if len(rows) else {}

    def _between(self, a: dict[int, NDArray[np.int64]], b: dict[int, NDArray[np.int64]]) -> Iterator[Block]:
        for number in sorted(a.keys() & b.keys()):
            if a is not b or len(a[number]) > 1:
                yield Block(a[number], b[number], self.keys[number])


def _with_values(items: TrainItems, columns: Sequence[str]) -> tuple[TrainItems, list[str]]:
    """The items that have a value in each column, and a line about the others."""
    empty = np.zeros(len(items.ids), bool)
    for name in columns:
        if name not in items.table.column_names:
            raise ConfigError(
                "the manifest has no such column",
                got=repr(name),
                expected=suggest(name, tuple(items.table.column_names)),
                remedy="correct the options 'same' and 'differ'",
            )
        missing = items.table[name].is_null().to_numpy()
        if missing.all():
            raise DataError(
                f"no training item has a value in column {name!r}",
                remedy="correct the options 'same' and 'differ'",
            )
        empty |= missing
    if not empty.any():
        return items, []
    if empty.all():
        raise DataError(
            "no training item has a value in every column of the constraints", got=", ".join(columns)
        )
    note = f"{int(empty.sum())} training items have no value in {' or '.join(columns)} and are left out"
    return TrainItems.of(items.table.filter(pa.array(~empty))), [note]


def _codes(table: pa.Table, name: str) -> NDArray[np.int64]:
    """A number for each value of a column without nulls, shape (n,)."""
    try:
        encoded = pc.dictionary_encode(table[name].combine_chunks())
    except pa.ArrowNotImplementedError as error:
        raise ConfigError(
            f"column {name!r} cannot be compared", got=table[name].type, expected="numbers or text"
        ) from error
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes


def _in_words(value: Any) -> object:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not set" if value is None else value


def _loose_notes(options: ConstraintOptions) -> list[str]:
    notes = []
    if "label" not in options.same:
        notes.append("the two items of a pair may differ in label: what the pairs reveal holds the label too")
    if "env" not in options.differ:
        notes.append("the two items of a pair may be of one environment: they reveal little of its direction")
    return notes
