"""Which pairs are possible, and how a number of them is dealt evenly to the cells.

A *cell* is a label and two environments. Candidates of each cell stand in a seeded order that does not
depend on how many pairs are asked for, and the cells take turns: so a larger set begins with the smaller one.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.tables import STATUSES, fingerprint
from cfpairs.vectors import Embeddings

__all__ = [
    "Cell",
    "TrainItems",
    "cell_counts",
    "cell_rng",
    "deal",
    "edit_cells",
    "embedded_items",
    "missing_notes",
    "pair_id",
    "pair_row",
    "real_cells",
    "shortfall_note",
]


GROUPS_TOLD = 12
"""More groups than this are not told one by one."""


class Cell(NamedTuple):
    """A label, the environment of the pair's first item and that of its second."""

    label: int
    env_a: int
    env_b: int


@dataclass(frozen=True)
class TrainItems:
    """The training items that pairs are made of, in the order of their ids.

    Attributes
    ----------
    table : pyarrow.Table
        Rows of the manifest, split train.
    ids : tuple of str, length n
    label, env : ndarray of int, shape (n,)
    label_names, env_names : dict of int to str
    groups : dict of (label, env) to ndarray of int
        Row numbers of each group that has items.
    """

    table: pa.Table
    ids: tuple[str, ...]
    label: NDArray[np.int64]
    env: NDArray[np.int64]
    label_names: dict[int, str]
    env_names: dict[int, str]
    groups: dict[tuple[int, int], NDArray[np.int64]]

    @classmethod
    def of(cls, manifest: pa.Table) -> TrainItems:
        """The training items of a manifest.

        Raises
        ------
        DataError
            If there is none, or all are of one environment.
        """
        table = manifest.filter(pc.equal(manifest["split"], "train")).sort_by("item_id")
        if not table.num_rows:
            raise DataError(
                "no item to make pairs of",
                got=f"{manifest.num_rows} items, none in split train",
                expected="training items in two environments or more",
            )
        label = table["label"].to_numpy().astype(np.int64)
        env = table["env"].to_numpy().astype(np.int64)
        env_names = dict(zip(env.tolist(), table["env_name"].to_pylist(), strict=True))
        if len(env_names) < 2:
            raise DataError(
                "pairs need two environments in split train",
                got=f"one, {next(iter(env_names.values()))!r}",
                expected="two or more",
                remedy="check the environment column of the data set",
            )
        keys = sorted(set(zip(label.tolist(), env.tolist(), strict=True)))
        return cls(
            table=table,
            ids=tuple(table["item_id"].to_pylist()),
            label=label,
            env=env,
            label_names=dict(zip(label.tolist(), table["label_name"].to_pylist(), strict=True)),
            env_names=env_names,
            groups={(y, e): np.flatnonzero((label == y) & (env == e)) for y, e in keys},
        )

    def group_name(self, label: int, env: int) -> str:
        """A group in words, such as ``0-4 on grass``."""
        return f"{self.label_names[label]} on {self.env_names[env]}"

    def describe_groups(self, most: int = GROUPS_TOLD) -> str:
        """Every group and its size in words; of more than `most` only the smallest, and the others' range."""
        sizes = {group: len(rows) for group, rows in self.groups.items()}
        told = set(sorted(sizes, key=lambda group: (sizes[group], group))[:most])
        words = ", ".join(f"{self.group_name(*g)}: {n}" for g, n in sizes.items() if g in told)
        left = [n for group, n in sizes.items() if group not in told]
        if not left:
            return words
        span = f"{min(left)} to {max(left)}" if min(left) < max(left) else f"{left[0]}"
        return f"{words} and {len(left)} larger groups of {span}"


def real_cells(items: TrainItems) -> list[Cell]:
    """Cells whose two groups both have items; the lower environment stands first.

    Raises
    ------
    DataError
        If there is none: no label occurs in two environments.
    """
    cells = [
        Cell(label, low, high)
        for label in sorted(items.label_names)
        for low, high in combinations(sorted(items.env_names), 2)
        if (label, low) in items.groups and (label, high) in items.groups
    ]
    if not cells:
        raise DataError(
            "no two training items share a label and differ in environment",
            got=items.describe_groups(),
            expected="a label that occurs in two environments",
            remedy="method edit needs no such items",
        )
    return cells


def embedded_items(items: TrainItems, embeddings: Embeddings) -> tuple[TrainItems, list[str]]:
    """The items that have an embedding, and a line about the others."""
    keep = [item in embeddings for item in items.ids]
    missing = keep.count(False)
    if not missing:
        return items, []
    if missing == len(keep):
        raise DataError(
            "no training item has an embedding",
            got=f"{len(embeddings)} embeddings",
            remedy="run 'cfpairs embed'",
        )
    note = f"{missing} training items have no embedding and are left out"
    return TrainItems.of(items.table.filter(keep)), [note]


def edit_cells(items: TrainItems) -> list[Cell]:
    """Every group with every other environment as the target of an edit."""
    return [
        Cell(label, source, target)
        for label in sorted(items.label_names)
        for source, target in permutations(sorted(items.env_names), 2)
        if (label, source) in items.groups
    ]


def cell_rng(seed: int, *purpose: object) -> np.random.Generator:
    """A generator that depends on the seed and on what it is for, and on nothing else."""
    return np.random.default_rng([seed, int(fingerprint(*purpose), 16)])


def deal(sizes: Sequence[int], n: int, start: Sequence[int] | None = None) -> list[int]:
    """Deal up to `n` turns to streams of candidates, always to the one that has had the fewest.

    Parameters
    ----------
    sizes : sequence of int
        How many candidates each stream has.
    n : int
    start : sequence of int, optional
        What each stream is held to have had before the first turn; default 0.

    Returns
    -------
    list of int
        The stream of each turn; shorter than `n` if all are used up. The first `m` turns are those that
        ``deal(sizes, m, start)`` gives.

    Examples
    --------
    >>> deal([1, 5, 5], 6)
    [0, 1, 2, 1, 2, 1]
    """
    had = list(start) if start is not None else [0] * len(sizes)
    left = list(sizes)
    heap = [(had[i], i) for i, size in enumerate(sizes) if size > 0]
    heapq.heapify(heap)
    turns: list[int] = []
    while heap and len(turns) < n:
        count, stream = heapq.heappop(heap)
        turns.append(stream)
        left[stream] -= 1
        if left[stream]:
            heapq.heappush(heap, (count + 1, stream))
    return turns


def cell_counts(pairs: pa.Table | Sequence[Mapping[str, Any]], manifest: pa.Table) -> list[dict[str, Any]]:
    """Pairs of every cell by status.

    Parameters
    ----------
    pairs : pyarrow.Table or sequence of mapping
        Rows of a pair set; their ``label``, ``env_a``, ``env_b`` and ``status`` are looked at.
    manifest : pyarrow.Table
        Has the names.

    Returns
    -------
    list of dict
        ``label, label_name, env_a, env_a_name, env_b, env_b_name, ok, rejected, dropped``, in ascending order
        of label and environments; nulls last where a pair's label or environment is unknown.
    """
    labels = dict(zip(manifest["label"].to_pylist(), manifest["label_name"].to_pylist(), strict=True))
    envs = dict(zip(manifest["env"].to_pylist(), manifest["env_name"].to_pylist(), strict=True))
    rows = (
        pairs.select(["label", "env_a", "env_b", "status"]).to_pylist()
        if isinstance(pairs, pa.Table)
        else pairs
    )
    counts = Counter((row.get("label"), row.get("env_a"), row.get("env_b"), row["status"]) for row in rows)
    cells = sorted({key[:3] for key in counts}, key=lambda cell: tuple((v is None, v or 0) for v in cell))
    return [
        {
            "label": label,
            "label_name": labels.get(label),
            "env_a": env_a,
            "env_a_name": envs.get(env_a),
            "env_b": env_b,
            "env_b_name": envs.get(env_b),
            **{status: counts[label, env_a, env_b, status] for status in STATUSES},
        }
        for label, env_a, env_b in cells
    ]


def pair_id(method: str, a_id: str, b_id: str) -> str:
    """The id of the pair of two items: the same whenever and in whatever set it is made."""
    return f"{method}-{fingerprint(method, a_id, b_id)}"


def pair_row(
    items: TrainItems, method: str, cell: Cell, a: int, b: int, seed: int, score: float | None = None
) -> dict[str, Any]:
    """One row of a pair set: the pair of two training items, given by their rows."""
    a_id, b_id = items.ids[a], items.ids[b]
    return {
        "pair_id": pair_id(method, a_id, b_id),
        "a_id": a_id,
        "b_id": b_id,
        "method": method,
        "label": cell.label,
        "env_a": cell.env_a,
        "env_b": cell.env_b,
        "score": score,
        "seed": seed,
        "status": "ok",
        "reason": None,
    }


def missing_notes(items: TrainItems) -> list[str]:
    """A line for each label that has no training item in some environment, and one if there is one label."""
    lines = []
    if len(items.label_names) == 1:
        lines.append(f"only one label in split train, {next(iter(items.label_names.values()))!r}")
    empty = [
        items.group_name(y, e)
        for y in sorted(items.label_names)
        for e in sorted(items.env_names)
        if (y, e) not in items.groups
    ]
    if empty:
        shown = ", ".join(empty[:4]) + (f" and {len(empty) - 4} more" if len(empty) > 4 else "")
        lines.append(f"no training item in {shown}")
    return lines


def shortfall_note(wanted: int, made: int, why: str) -> list[str]:
    """A line if fewer pairs were made than asked for."""
    return [f"asked for {wanted} pairs, made {made}: {why}"] if made < wanted else []
