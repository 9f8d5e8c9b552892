"""Sums over pair differences from which spectrum, rank and reliability of any number of pairs follow.

The sums take the memory of a dozen d x d matrices however many pairs there are, are filled block by block,
and add up: parts that were read on different machines are merged into the same sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.quality.rank_update import add_products, fill_lower
from cfpairs.threads import one_blas_thread

__all__ = ["FOLDS", "PairMoments", "at_once", "blocks", "cores", "lengths_of", "products_of", "side_by_side"]

Floats = NDArray[np.float64]
T = TypeVar("T")
R = TypeVar("R")

FOLDS = 6
_BLOCK_BYTES = 48 << 20
_BLOCKS_AT_ONCE = 2  # so that a fold's share of them is worth a product
_CUT_ROWS = 1024  # of shortened pairs that are multiplied at once
_MOST_THREADS = 8
_NEAR = 1.05  # times the limit: shortening by less changes no direction that could be seen


def blocks(shape: tuple[int, ...], *, times: float = 1.0) -> Iterator[slice]:
    """Slices of rows of a (k, d) matrix that take about 48 MiB each in float64, or so many times that."""
    step = max(256, int(times * _BLOCK_BYTES) // (8 * max(1, shape[1])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


@contextmanager
def cores() -> Iterator[ThreadPoolExecutor]:
    """As many threads as there are cores, each with one BLAS thread."""
    with one_blas_thread(), ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as pool:
        yield pool


def side_by_side(work: Callable[[T], R], parts: Iterable[T]) -> list[R]:
    """Do some work for every part, on all cores.

    A part writes where no other does, so that the result is the same on any number of cores.
    """
    with cores() as pool:
        return list(pool.map(work, parts))


def at_once(works: Sequence[Callable[[], R]]) -> list[R]:
    """What each of some works gives, side by side."""
    return side_by_side(lambda work: work(), works)


def lengths_of(D: NDArray[Any]) -> Floats:
    """Lengths of the rows of D, (k,), read block by block; not finite where a row is not."""
    squares = np.empty(len(D))

    def measure(rows: slice) -> None:
        block = np.asarray(D[rows], dtype=np.float64)
        np.einsum("ij,ij->i", block, block, out=squares[rows])

    parts = list(blocks(D.shape))
    if len(parts) == 1:
        measure(parts[0])
    else:
        side_by_side(measure, parts)
    return np.sqrt(squares)


def products_of(D: NDArray[Any], weights: Floats) -> Floats:
    """``D @ weights.T``, (k, C), of rows (k, d) that are read block by block and weights (C, d)."""
    found = np.empty((len(D), len(weights)))

    def multiply(rows: slice) -> None:
        np.matmul(np.asarray(D[rows], dtype=np.float64), weights.T, out=found[rows])

    side_by_side(multiply, blocks(D.shape))
    return found


def _wait(works: Sequence[Future[None]]) -> None:
    for work in works:
        work.result()


class _Fold:
    """Sums over the pairs of one fold, as they are, and what shortening takes from these.

    What shortening takes has few rows a block; they are multiplied some hundreds at a time.
    """

    def __init__(self, dim: int) -> None:
        self.n_pairs = 0
        self.gram = np.zeros((dim, dim))
        self.excess = np.zeros((dim, dim), dtype=np.float32)
        self._cuts: list[NDArray[np.float32]] = []

    def add(self, block: NDArray[Any], members: NDArray[np.int64], lengths: Floats, limit: float) -> None:
        """Add some rows of a block, whose rows have these lengths; the sums hold after `settle`."""
        self.n_pairs += len(members)
        add_products(self.gram, block[members].astype(np.float64, copy=False))
        long = members[lengths[members] > _NEAR * limit]
        if len(long):
            share = np.sqrt(1.0 - (limit / lengths[long]) ** 2)
            self._cuts.append((block[long] * share[:, None]).astype(np.float32))
            if sum(map(len, self._cuts)) >= _CUT_ROWS:
                self._multiply()

    def settle(self) -> None:
        """Make the sums whole."""
        fill_lower(self.gram)
        self._multiply()

    def _multiply(self) -> None:
        if self._cuts:
            cut = np.concatenate(self._cuts)
            self.excess += cut.T @ cut
            self._cuts = []

    def merge(self, other: _Fold) -> None:
        self.n_pairs += other.n_pairs
        self.gram += other.gram
        self.excess += other.excess


class PairMoments:
    """Streaming second moments of pair differences, plain and with long pairs shortened, by fold of pairs.

    Parameters
    ----------
    dim : int
        Number of dimensions d.
    limit : float, optional
        Length that longer pairs are shortened to, so that none dominates; by default the median length of
        the first rows that come. Parts that are to be merged need the same.

    Attributes
    ----------
    n_pairs : int
    limit : float or None

    Notes
    -----
    Pairs that are longer than the limit by less than a twentieth are left as they are. A pair's fold decides
    which half it goes to when halves are compared; pairs of one fold are drawn at random from each block, or
    as given.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> D = rng.normal(size=(600, 3))
    >>> one, other = PairMoments(3, limit=2.0).update(D[:200]), PairMoments(3, limit=2.0).update(D[200:])
    >>> bool(np.allclose(one.merge(other).gram(), D.T @ D))
    True
    """

    def __init__(self, dim: int, *, limit: float | None = None) -> None:
        if dim < 1:
            raise DataError("differences need dimensions", got=dim, expected="1 or more")
        self.dim, self.limit = dim, limit
        self._folds = [_Fold(dim) for _ in range(FOLDS)]
        self._read = 0  # rows that came, in blocks
        self._squares = np.zeros(2)  # of the shortened lengths: sum of squares and of fourth powers

    @property
    def n_pairs(self) -> int:
        """Number of pairs seen."""
        return sum(fold.n_pairs for fold in self._folds)

    @property
    def even_pairs(self) -> float:
        """Number of pairs of equal length that would average noise as well as the shortened pairs do."""
        square, fourth = self._squares
        return float(square**2 / fourth) if fourth > 0.0 else float(self.n_pairs)

    def update(
        self,
        D: NDArray[Any],
        *,
        folds: NDArray[np.integer] | None = None,
        lengths: Floats | None = None,
        keep: NDArray[np.bool_] | None = None,
    ) -> PairMoments:
        """Add rows of shape (k, d), read block by block.

        Parameters
        ----------
        D : array of shape (k, d)
            In any float type; a memory map is read once.
        folds : ndarray of shape (k,), optional
            Fold of each pair, 0 to 5; pairs that share a source belong together.
        lengths : ndarray of shape (k,), optional
            Of the rows, if they are known.
        keep : ndarray of bool, shape (k,), optional
            Rows to add; by default all.

        Raises
        ------
        DataError
            If the dimension is another, or a value is not finite.
        """
        if D.ndim != 2 or D.shape[1] != self.dim:
            raise DataError(
                "differences have another dimension", got=f"shape {D.shape}", expected=f"(k, {self.dim})"
            )
        # Two blocks at a time: no core waits for another at the end of a block. A fold's sums grow in order.
        block_before: list[Future[None]] = []
        with cores() as pool:
            try:
                for rows in blocks(D.shape, times=_BLOCKS_AT_ONCE):
                    added = self._add(pool, block_before, *self._checked(D, rows, folds, lengths, keep))
                    _wait(block_before)
                    block_before = added
            finally:
                _wait(block_before)
                _wait([pool.submit(fold.settle) for fold in self._folds])
        return self

    def _checked(
        self,
        D: NDArray[Any],
        rows: slice,
        folds: NDArray[np.integer] | None,
        lengths: Floats | None,
        keep: NDArray[np.bool_] | None,
    ) -> tuple[NDArray[Any], Floats, NDArray[np.integer], NDArray[np.int64]]:
        """A block, the lengths and folds of its rows, and which of them to add."""
        block = np.asarray(D[rows])
        length = lengths_of(block) if lengths is None else lengths[rows]
        if not np.isfinite(length).all():
            raise DataError(
                "pair differences are not finite", got=f"{int((~np.isfinite(length)).sum())} pairs"
            )
        fold = self._drawn(len(block)) if folds is None else np.asarray(folds[rows])
        if len(fold) != len(block) or not ((fold >= 0) & (fold < FOLDS)).all():
            raise DataError("folds do not fit the pairs", got=fold, expected=f"0 to {FOLDS - 1} for each")
        return block, length, fold, np.arange(len(block)) if keep is None else np.flatnonzero(keep[rows])

    def _drawn(self, count: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([FOLDS, self._read])
        return rng.permutation(np.arange(count) % FOLDS)

    def _add(
        self,
        pool: ThreadPoolExecutor,
        before: list[Future[None]],
        block: NDArray[Any],
        lengths: Floats,
        folds: NDArray[np.integer],
        chosen: NDArray[np.int64],
    ) -> list[Future[None]]:
        """Begin to add the chosen rows of a block, each fold as soon as it has the block before."""
        if self.limit is None:
            positive = lengths[chosen][lengths[chosen] > 0.0]
            self.limit = float(np.median(positive)) if positive.size else None
        limit = np.inf if self.limit is None else self.limit

        def add(fold: int) -> None:
            if before:
                before[fold].result()
            self._folds[fold].add(block, chosen[folds[chosen] == fold], lengths, limit)

        short = np.minimum(lengths[chosen], limit) ** 2
        self._squares += short.sum(), (short**2).sum()
        self._read += len(block)
        return [pool.submit(add, fold) for fold in range(FOLDS)]

    def merge(self, other: PairMoments) -> PairMoments:
        """Add the sums of `other`.

        Raises
        ------
        DataError
            If dimensions or limits differ.
        """
        if other.dim != self.dim:
            raise DataError("moments differ in dimension", got=other.dim, expected=self.dim)
        if other.n_pairs and self.n_pairs and other.limit != self.limit:
            raise DataError(
                "moments differ in the length that pairs are shortened to",
                got=other.limit,
                expected=self.limit,
                remedy="give both the same limit",
            )
        self.limit = other.limit if self.limit is None else self.limit
        for mine, its in zip(self._folds, other._folds, strict=True):
            mine.merge(its)
        self._read += other._read
        self._squares += other._squares
        return self

    def count(self, folds: Sequence[int]) -> int:
        """Number of pairs in some folds."""
        return sum(self._folds[fold].n_pairs for fold in folds)

    def gram(self, folds: Sequence[int] = range(FOLDS)) -> Floats:
        """``D^T D`` of the pairs of some folds, (d, d)."""
        total = np.zeros((self.dim, self.dim))
        for fold in folds:
            total += self._folds[fold].gram
        return total

    def robust_gram(self, folds: Sequence[int] = range(FOLDS)) -> Floats:
        """The same with long pairs shortened."""
        total = self.gram(folds)
        for fold in folds:
            total -= self._folds[fold].excess
        return total
