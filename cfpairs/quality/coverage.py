"""Which labels and environments the pairs cover, and what only one of them shows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.inputs import Inputs
from cfpairs.quality.rank import winsorize
from cfpairs.quality.result import CellRow
from cfpairs.quality.spectrum import spectrum

__all__ = ["cell_rows"]

Floats = NDArray[np.float64]


def cell_rows(inputs: Inputs, r: int, sample: NDArray[np.int64] | None = None) -> tuple[CellRow, ...]:
    """Count the pairs of each label from one environment to another, and compare their directions.

    A label of the training items that has no pair between two environments, in neither direction, while
    others have is listed with 0 pairs.

    Parameters
    ----------
    inputs : Inputs
    r : int
        Number of directions above the noise; fewer are compared where the other cells are small.
    sample : ndarray of int, optional
        Pairs to compare directions by; by default all. All are counted.

    Returns
    -------
    tuple of CellRow
        Empty where the labels or environments of the pairs are unknown.
    """
    if inputs.labels is None or inputs.env_a is None or inputs.env_b is None:
        return ()
    keys = np.stack([inputs.labels, inputs.env_a, inputs.env_b], axis=1)
    chosen = np.arange(len(keys)) if sample is None else sample
    D = np.asarray(inputs.D[chosen], dtype=np.float64)
    rows = []
    for label, env_a, env_b in _wanted(inputs, keys):
        inside = (keys == (label, env_a, env_b)).all(axis=1)
        twin = inside | (keys == (label, env_b, env_a)).all(axis=1)
        items = None
        if inputs.y is not None and inputs.env is not None:
            items = int(((inputs.y == label) & (inputs.env == env_b)).sum())
        rows.append(
            CellRow(
                label, env_a, env_b, int(inside.sum()), items, _covered(D, inside[chosen], twin[chosen], r)
            )
        )
    return tuple(rows)


def _wanted(inputs: Inputs, keys: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    """Cells with pairs, and one for each label that has none between two environments that others join."""
    wanted = {(int(c), int(a), int(b)) for c, a, b in np.unique(keys, axis=0)}
    if inputs.y is None or inputs.env is None:
        return sorted(wanted)
    covered = {(label, frozenset((a, b))) for label, a, b in wanted}
    for low, high in sorted({(min(a, b), max(a, b)) for _, a, b in wanted if a != b}):
        for label in np.unique(inputs.y):
            counts = [int(((inputs.y == label) & (inputs.env == env)).sum()) for env in (low, high)]
            if any(counts) and (int(label), frozenset((low, high))) not in covered:
                ends = (low, high) if counts[0] >= counts[1] else (high, low)
                wanted.add((int(label), *ends))
    return sorted(wanted)


def _covered(D: Floats, inside: NDArray[np.bool_], twin: NDArray[np.bool_], r: int) -> float | None:
    """Share of the cell's mean difference, its noise set aside, in the directions of all other cells."""
    own, others = D[inside], D[~twin]
    count = len(own)
    if r < 1 or count < 8 or len(others) < 8:
        return None
    directions = spectrum(winsorize(others)).top(min(r, len(others) // 4))
    mean = own.mean(axis=0)
    noise = (own - mean).T / np.sqrt(count * (count - 1.0))
    whole = float(mean @ mean) - float((noise**2).sum())
    if whole <= float((noise**2).sum()):
        return None
    part = float(((mean @ directions) ** 2).sum()) - float(((noise.T @ directions) ** 2).sum())
    return min(1.0, max(0.0, part / whole))
