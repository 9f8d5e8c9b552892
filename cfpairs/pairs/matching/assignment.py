"""Candidates of pairs, and the choice among them that uses every item once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DENSE", "Candidates", "greedy", "optimal"]

DENSE = 1_000_000
"""Largest number of entries of a cost matrix that is written out in full (8 MB)."""


@dataclass(frozen=True)
class Candidates:
    """Pairs that may be made.

    Attributes
    ----------
    a, b : ndarray of int, shape (k,)
        Rows of the items; no pair comes twice.
    score : ndarray of float64, shape (k,)
        Cosine similarity.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    score: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.a)

    def take(self, places: NDArray[np.int64] | NDArray[np.bool_]) -> Candidates:
        """Those at `places` (numbers or a mask), in that order."""
        return Candidates(self.a[places], self.b[places], self.score[places])

    def ranked(self) -> Candidates:
        """The same by falling similarity, ties by row."""
        return self.take(np.lexsort((self.b, self.a, -self.score)))


def greedy(candidates: Candidates) -> Candidates:
    """The closest pair first, then the closest of the items that are left, and so on.

    Returns
    -------
    Candidates
        Ranked; an item is in one pair at most, on whichever side.

    Examples
    --------
    >>> chain = Candidates(np.array([0, 0, 1]), np.array([5, 6, 5]), np.array([0.9, 0.8, 0.7]))
    >>> greedy(chain).b.tolist(), optimal(chain).b.tolist()
    ([5], [6, 5])
    """
    ranked = candidates.ranked()
    used: set[int] = set()
    kept = []
    for place, (one, other) in enumerate(zip(ranked.a.tolist(), ranked.b.tolist(), strict=True)):
        if one not in used and other not in used:
            used.add(one)
            used.add(other)
            kept.append(place)
    return ranked.take(np.asarray(kept, np.int64))


def optimal(candidates: Candidates) -> Candidates:
    """As many pairs as can be, and of all such choices the one of the smallest total distance.

    Parameters
    ----------
    candidates : Candidates
        No item may be on both sides.

    Returns
    -------
    Candidates
        Ranked; an item is in one pair at most.

    Notes
    -----
    A linear assignment (scipy): with a full cost matrix up to `DENSE` entries, above it on the candidates
    alone, where every item of the smaller side may also stay single at a cost that no distance outweighs.
    """
    if not len(candidates):
        return candidates
    a, row = np.unique(candidates.a, return_inverse=True)
    b, column = np.unique(candidates.b, return_inverse=True)
    # Distances lie in [0, 2]; one more single item must cost more than all of them together.
    single = 3.0 * (min(len(a), len(b)) + 1)
    solve = _dense if len(a) * len(b) <= DENSE else _sparse
    pairs = (
        solve(row, column, 1 - candidates.score, single)
        if len(a) <= len(b)
        else solve(column, row, 1 - candidates.score, single)[::-1]
    )
    chosen = np.isin(row * len(b) + column, pairs[0] * len(b) + pairs[1])
    return candidates.take(chosen).ranked()


Assigned = tuple[NDArray[np.int64], NDArray[np.int64]]


def _dense(
    row: NDArray[np.int64], column: NDArray[np.int64], distance: NDArray[np.float64], single: float
) -> Assigned:
    from scipy.optimize import linear_sum_assignment

    cost = np.full((row.max() + 1, column.max() + 1), single)
    cost[row, column] = distance
    rows, columns = linear_sum_assignment(cost)
    real = cost[rows, columns] < single
    return rows[real], columns[real]


def _sparse(
    row: NDArray[np.int64], column: NDArray[np.int64], distance: NDArray[np.float64], single: float
) -> Assigned:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    n, m = int(row.max()) + 1, int(column.max()) + 1
    alone = np.arange(n)
    # An explicit zero would count as no edge, so that every distance is raised by one.
    weights = np.concatenate([distance + 1, np.full(n, single + 1)])
    places = np.concatenate([row, alone]), np.concatenate([column, m + alone])
    rows, columns = min_weight_full_bipartite_matching(coo_array((weights, places), shape=(n, m + n)).tocsr())
    real = columns < m
    return rows[real].astype(np.int64), columns[real].astype(np.int64)
