"""Marks that pairs share for another reason than the environment: by their editor, source or making.

Such marks are perfectly reproducible, so halves of the pairs agree on them and more pairs do not help. They
show where pairs are split by what they come from, and in control pairs.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.inputs import Inputs
from cfpairs.quality.rank import winsorize
from cfpairs.quality.result import GroupSplit
from cfpairs.quality.rows import by_appearance

__all__ = ["group_splits", "mean_test", "oriented"]

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]

_DRAWS = 99
_ASSIGNMENTS = 5
_LEAST = 12  # pairs on either side


def oriented(inputs: Inputs) -> Floats:
    """Differences from the environment with the smaller code to the other; as given where unknown."""
    if inputs.env_a is None or inputs.env_b is None:
        return inputs.D
    return np.where((inputs.env_a > inputs.env_b)[:, None], -inputs.D, inputs.D)


def mean_test(D: Floats, rng: np.random.Generator) -> tuple[float | None, float | None]:
    """Share of the squared length that is the mean difference, and how often random signs give as much.

    Returns
    -------
    share, p : float or None
        None of fewer than five pairs, or where all are zero.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> share, p = mean_test(rng.normal(size=(50, 30)) + 1.0, rng)
    >>> bool(share > 0.4), p
    (True, 0.01)
    """
    energy = float(np.vdot(D, D))
    if len(D) < 5 or energy <= 0.0:
        return None, None
    mean = D.sum(axis=0)
    signs = rng.integers(0, 2, (_DRAWS, len(D))) * 2.0 - 1.0
    chance = ((signs @ D) ** 2).sum(axis=1)
    seen = float(mean @ mean)
    return seen / len(D) / energy, float((1 + (chance >= seen * (1.0 - 1e-9)).sum()) / (1 + _DRAWS))


def group_splits(
    inputs: Inputs, directions: Floats, r: int, rng: np.random.Generator
) -> tuple[GroupSplit, ...]:
    """Compare directions between groups of pairs with those between random parts of the same sizes.

    Parameters
    ----------
    inputs : Inputs
    directions : ndarray of shape (d, m)
        Leading directions of all pairs; the comparison stays within them, which is as fair to random parts
        as to groups.
    r : int
        Number of directions to compare.
    rng : numpy.random.Generator

    Returns
    -------
    tuple of GroupSplit
        For makers, sources, environments and labels, where pairs of at least two are known.
    """
    if r < 1 or len(inputs.D) < 2 * _LEAST:
        return ()
    keys = list(_keys(inputs, by_appearance(inputs.clusters)))
    if not keys:
        return ()
    sketch = winsorize(inputs.D) @ directions
    found = []
    for name, groups, units in keys:
        split = _compare(name, sketch, groups, units, r, rng)
        if split is not None:
            found.append(split)
    return tuple(found)


def _keys(inputs: Inputs, clusters: Codes) -> Iterator[tuple[str, Codes, Codes]]:
    """Name, group of each pair, and the units that random parts are drawn from."""
    single = np.arange(len(clusters))
    if inputs.makers is not None:
        yield "maker", inputs.makers, clusters
    if _LEAST <= int(clusters.max()) + 1 <= len(clusters) // 2:
        yield "source", clusters, single
    routes = inputs.routes
    if routes is not None and inputs.env_a is not None:
        several = len(np.unique(routes)) > 1
        yield "environment", routes if several else inputs.env_a, clusters
    if inputs.labels is not None:
        yield "label", inputs.labels, clusters


def _compare(
    name: str, sketch: Floats, groups: Codes, units: Codes, r: int, rng: np.random.Generator
) -> GroupSplit | None:
    codes = by_appearance(groups)
    count = int(codes.max()) + 1
    if count < 2:
        return None
    parts = []
    for _ in range(1 if count == 2 else _ASSIGNMENTS):
        first = codes == 0 if count == 2 else np.isin(codes, rng.permutation(count)[: count // 2])
        if min(first.sum(), (~first).sum()) >= max(_LEAST, 2 * r):
            parts.append(first)
    if not parts:
        return None
    seen = float(np.mean([_apart(sketch, first, r) for first in parts]))
    chance = []
    numbers = int(units.max()) + 1
    for draw in range(_DRAWS):
        like = parts[draw % len(parts)].mean()
        drawn = np.isin(units, rng.permutation(numbers)[: max(1, round(like * numbers))])
        if drawn.any() and not drawn.all():
            chance.append(_apart(sketch, drawn, r))
    if not chance:
        return None
    p = (1 + sum(value >= seen - 1e-12 for value in chance)) / (1 + len(chance))
    return GroupSplit(name, seen, float(np.mean(chance)), float(p))


def _apart(sketch: Floats, first: NDArray[np.bool_], r: int) -> float:
    """``sqrt(1 - mean cosine)`` between the leading directions of two parts."""
    one, other = (_leading(sketch[part], r) for part in (first, ~first))
    cosines = np.linalg.svd(one.T @ other, compute_uv=False)
    return float(np.sqrt(max(0.0, 1.0 - cosines.mean())))


def _leading(rows: Floats, r: int) -> Floats:
    return np.linalg.eigh(rows.T @ rows)[1][:, ::-1][:, :r]
