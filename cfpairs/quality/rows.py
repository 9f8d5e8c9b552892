"""Find equal rows of matrices, up to rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.moments import blocks

__all__ = ["by_appearance", "equal_rows", "equal_sides", "rows_of"]

Floats = NDArray[np.float64]

_TOLERANCE = 1e-6  # relative; rows that went through float32 differ by about 1e-7


def by_appearance(codes: NDArray[np.integer]) -> NDArray[np.int64]:
    """Number the values of `codes` from 0 in the order they first appear, whatever they were.

    Examples
    --------
    >>> by_appearance(np.array([7, 2, 7, 5])).tolist()
    [0, 1, 0, 2]
    """
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[inverse], dtype=np.int64)


def rows_of(needles: Floats, hay: Floats) -> NDArray[np.int64]:
    """Index of a row of `hay` that each needle equals, -1 where there is none.

    Examples
    --------
    >>> import numpy as np
    >>> rows_of(np.array([[3.0, 4.0], [9.0, 9.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [1, -1]
    """
    found = np.full(len(needles), -1, dtype=np.int64)
    if len(needles) == 0 or len(hay) == 0:
        return found
    order, keys, width = _sorted_keys(hay)
    wanted = needles @ _probe(hay.shape[1])
    low, high = np.searchsorted(keys, wanted - width), np.searchsorted(keys, wanted + width, side="right")
    for i, needle in enumerate(needles):
        for candidate in order[low[i] : high[i]]:
            if _same(needle, hay[candidate]):
                found[i] = candidate
                break
    return found


def equal_rows(matrix: Floats) -> NDArray[np.int64]:
    """A code for each row, the same for equal rows: the index of the first of them.

    Examples
    --------
    >>> import numpy as np
    >>> equal_rows(np.array([[1.0], [2.0], [1.0]])).tolist()
    [0, 1, 0]
    """
    order, keys, width = _sorted_keys(matrix)
    return _first_equal(order, keys, width, lambda i: matrix[i])


def equal_sides(a: NDArray[Any], D: NDArray[Any]) -> NDArray[np.int64]:
    """The same for the a sides followed by the b sides of pairs, read block by block."""
    k = len(a)
    probe = _probe(a.shape[1])
    keys, longest = np.empty(2 * k), 0.0
    for rows in blocks(a.shape):
        one = np.asarray(a[rows], dtype=np.float64)
        two = one - D[rows]
        keys[:k][rows], keys[k:][rows] = one @ probe, two @ probe
        longest = max(longest, *(float(np.einsum("ij,ij->i", side, side).max()) for side in (one, two)))
    order = np.argsort(keys, kind="stable")

    def row(i: int) -> Floats:
        return np.asarray(a[i] if i < k else np.asarray(a[i - k], dtype=np.float64) - D[i - k])

    return _first_equal(order, keys[order], _TOLERANCE * float(np.sqrt(longest)), row)


def _first_equal(
    order: NDArray[np.int64], keys: Floats, width: float, row: Callable[[int], Floats]
) -> NDArray[np.int64]:
    codes = np.arange(len(order))
    ends = np.searchsorted(keys, keys + width, side="right")
    for position in np.flatnonzero(ends > np.arange(len(order)) + 1):
        here = order[position]
        for other in order[position + 1 : ends[position]]:
            if codes[other] != codes[here] and _same(row(here), row(other)):
                codes[here] = codes[other] = min(codes[here], codes[other])
    return codes


def _probe(d: int) -> Floats:
    return np.random.default_rng(0).standard_normal(d)


def _sorted_keys(matrix: Floats) -> tuple[NDArray[np.int64], Floats, float]:
    """Rows in the order of one random projection, and how far equal rows may lie apart in it."""
    keys = matrix @ _probe(matrix.shape[1])
    order = np.argsort(keys, kind="stable")
    return order, keys[order], _TOLERANCE * float(np.linalg.norm(matrix, axis=1).max(initial=0.0))


def _same(one: Floats, other: Floats) -> bool:
    return float(np.linalg.norm(one - other)) <= _TOLERANCE * float(np.linalg.norm(one))
