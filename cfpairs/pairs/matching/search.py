"""The nearest permitted rows of each query, the same whatever the threads and blocks of the search.

FAISS finds candidates in float32. Those that could be among the first `k` are measured again in float64 and
rounded, and a query whose last candidate may be tied is searched again, further.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.pairs.matching.indices import Index, IndexKind, SearchReport, make_index
from cfpairs.progress import Advance

__all__ = ["Neighbours", "inner_products", "nearest_neighbours"]

DECIMALS = 6
"""Similarities are compared after rounding to this many decimals: what float32 can tell apart."""

TIED = 4 * 10.0**-DECIMALS

SPARE = 8
"""Neighbours searched beyond those asked for, to see whether the last one is tied."""

QUERIES = 4096
"""Queries in one search."""

ENTRIES = 4_000_000
"""Most candidates of one search, and most numbers of one block of vectors that are measured again."""

FORBIDDEN = 256
"""Rows that a value may forbid and still be searched and passed over; above, the others get an index."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest rows of each query.

    Attributes
    ----------
    places : ndarray of int64, shape (n, k)
        Rows, nearest first, equal ones in ascending order; -1 where fewer were found.
    scores : ndarray of float64, shape (n, k)
        Inner products, rounded to six decimals; -inf where fewer were found.
    reports : tuple of SearchReport
        One for each approximate search that was made or tried.
    """

    places: NDArray[np.int64]
    scores: NDArray[np.float64]
    reports: tuple[SearchReport, ...] = ()


def nearest_neighbours(
    queries: NDArray[np.float32],
    others: NDArray[np.float32],
    k: int,
    *,
    query_codes: NDArray[np.int64] | None = None,
    other_codes: NDArray[np.int64] | None = None,
    kind: IndexKind = "auto",
    recall: float = 0.95,
    seed: int = 0,
    advance: Advance | None = None,
) -> Neighbours:
    """The `k` rows of `others` with the largest inner product with each query.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
        Unit vectors.
    others : ndarray of shape (m, d)
        Unit vectors, in the order in which ties are to be broken.
    k : int
        At most m neighbours are given.
    query_codes, other_codes : ndarray of int, shapes (n, c) and (m, c), optional
        A row that has the same code as the query in any column is not its neighbour.
    kind, recall, seed
        See `make_index`.
    advance : callable, optional
        Called with the number of queries done.

    Examples
    --------
    >>> axes = np.eye(3, dtype=np.float32)
    >>> nearest_neighbours(axes[:1], axes, 2).places
    array([[0, 1]])
    >>> nearest_neighbours(axes[:1], axes, 1, query_codes=np.ones((1, 1), int),
    ...                    other_codes=np.array([[1], [1], [2]])).places
    array([[2]])
    """
    k = min(k, len(others))
    step = advance or (lambda _done: None)
    places = np.full((len(queries), k), -1, np.int64)
    scores = np.full((len(queries), k), -np.inf)
    reports: list[SearchReport] = []
    if query_codes is None or other_codes is None or not query_codes.shape[1]:
        query_codes, other_codes = np.empty((len(queries), 0), np.int64), np.empty((len(others), 0), np.int64)
    for rows, permitted, few in _alike(query_codes, other_codes):
        if len(permitted):
            whole = len(permitted) == len(others)
            theirs, codes = (others, other_codes) if whole else (others[permitted], other_codes[permitted])
            sought = queries if len(rows) == len(queries) else queries[rows]
            index = make_index(theirs, sought, k + few, kind, recall, seed)
            reports += [index.report] if index.report else []
            search = _Search(index, queries, theirs, query_codes, codes, k)
            for block in _blocks(rows, QUERIES):
                for done, near, score in search.settle(block, k + SPARE + few):
                    places[done, : near.shape[1]] = np.where(near < 0, -1, permitted[near])
                    scores[done, : near.shape[1]] = score
                step(len(block))
        else:
            step(len(rows))
    return Neighbours(places, scores, tuple(reports))


@dataclass(frozen=True)
class _Search:
    """One index and what its findings are checked against."""

    index: Index
    queries: NDArray[np.float32]
    others: NDArray[np.float32]
    query_codes: NDArray[np.int64]
    other_codes: NDArray[np.int64]
    k: int

    def settle(
        self, rows: NDArray[np.int64], width: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
        """Queries (numbers `rows`), their neighbours and scores, until each is sure."""
        width = min(width, len(self.others))
        k = min(self.k, len(self.others))
        for block in _blocks(rows, max(1, ENTRIES // width)):
            rough, near = self.index.search(self.queries[block], width)
            last = rough[:, -1].copy()
            if self.query_codes.shape[1]:
                same = (self.other_codes[near] == self.query_codes[block][:, None]).any(axis=2)
                rough[same] = -np.inf
            kth = np.partition(rough, width - k, axis=1)[:, width - k]
            sure = (last < kth - TIED) | (width == len(self.others)) | (not self.index.exact)
            yield block[sure], *self._ranked(block[sure], rough[sure], near[sure], kth[sure], k)
            if not sure.all():
                yield from self.settle(block[~sure], 4 * width)

    def _ranked(
        self,
        block: NDArray[np.int64],
        rough: NDArray[np.float32],
        near: NDArray[np.int64],
        kth: NDArray[np.float32],
        k: int,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        row, column = np.nonzero(np.isfinite(rough) & (rough >= kth[:, None] - TIED))
        exact = np.full(rough.shape, -np.inf)
        exact[row, column] = inner_products(self.queries, self.others, block[row], near[row, column])
        order = np.lexsort((near, -exact), axis=1)[:, :k]
        scores = np.take_along_axis(exact, order, axis=1)
        return np.where(np.isfinite(scores), np.take_along_axis(near, order, axis=1), -1), scores


def inner_products(
    a: NDArray[np.float32], b: NDArray[np.float32], rows: NDArray[np.int64], others: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Inner products of ``a[rows[i]]`` and ``b[others[i]]``, rounded to six decimals, shape (p,), float64."""
    found = np.empty(len(rows), np.float64)
    step = max(1, ENTRIES // max(1, a.shape[1]) // 4)
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        found[part] = np.einsum(
            "pd,pd->p", a[rows[part]].astype(np.float64), b[others[part]].astype(np.float64)
        )
    return np.round(found, DECIMALS)


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _alike(
    query_codes: NDArray[np.int64], other_codes: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int]]:
    """Queries that share what forbids many rows, the rows it permits, and how many more may be forbidden."""
    shared = np.full(query_codes.shape, -1, np.int64)
    few = np.zeros(len(query_codes), np.int64)
    for column, (mine, theirs) in enumerate(zip(query_codes.T, other_codes.T, strict=True)):
        size = int(max(mine.max(initial=0), theirs.max(initial=0))) + 1
        count = np.bincount(theirs, minlength=size)[mine]
        many = count > FORBIDDEN
        shared[many, column] = mine[many]
        few += np.where(many, 0, count)
    kinds, which = shared[:1], np.zeros(len(shared), np.int64)
    if query_codes.shape[1]:
        kinds, which = np.unique(shared, axis=0, return_inverse=True)
    for number, kind in enumerate(kinds):
        rows = np.flatnonzero(which.reshape(-1) == number)
        permitted = np.flatnonzero((other_codes != kind).all(axis=1))
        yield rows, permitted, int(few[rows].max())
