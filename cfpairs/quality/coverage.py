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


def cell_rows(inputs: Inputs, r: int) -> tuple[CellRow, ...]:
    """Count the pairs of each label from one environment to another, and compare their directions.

    Labels and environments of the training items that no pair joins are listed with 0 pairs.

    Parameters
    ----------
    inputs : Inputs
    r : int
        Number of directions to compare.

    Returns
    -------
    tuple of CellRow
        Empty where the labels or environments of the pairs are unknown.
    """
    if inputs.labels is None or inputs.env_a is None or inputs.env_b is None:
        return ()
    keys = np.stack([inputs.labels, inputs.env_a, inputs.env_b], axis=1)
    rows = []
    for label, env_a, env_b in _wanted(inputs, keys):
        inside = (keys == (label, env_a, env_b)).all(axis=1)
        twin = inside | (keys == (label, env_b, env_a)).all(axis=1)
        items = None
        if inputs.y is not None and inputs.env is not None:
            items = int(((inputs.y == label) & (inputs.env == env_b)).sum())
        rows.append(
            CellRow(label, env_a, env_b, int(inside.sum()), items, _covered(inputs.D, inside, twin, r))
        )
    return tuple(rows)


def _wanted(inputs: Inputs, keys: NDArray[np.int64]) -> list[tuple[int, int, int]]:
    wanted = {(int(c), int(a), int(b)) for c, a, b in np.unique(keys, axis=0)}
    if inputs.y is not None and inputs.env is not None:
        joined = {(a, b) for _, a, b in wanted if a != b}
        for label, env in np.unique(np.stack([inputs.y, inputs.env], axis=1), axis=0):
            wanted |= {(int(label), a, b) for a, b in joined if a == env}
    return sorted(wanted)


def _covered(D: Floats, inside: NDArray[np.bool_], twin: NDArray[np.bool_], r: int) -> float | None:
    """Share of the cell's mean difference, its noise set aside, in the directions of all other cells."""
    own, others = D[inside], D[~twin]
    count = len(own)
    if r < 1 or count < 8 or len(others) < max(8, 2 * r):
        return None
    directions = spectrum(winsorize(others)).top(r)
    mean = own.mean(axis=0)
    noise = (own - mean).T / np.sqrt(count * (count - 1.0))
    whole = float(mean @ mean) - float((noise**2).sum())
    if whole <= float((noise**2).sum()):
        return None
    part = float(((mean @ directions) ** 2).sum()) - float(((noise.T @ directions) ** 2).sum())
    return min(1.0, max(0.0, part / whole))
