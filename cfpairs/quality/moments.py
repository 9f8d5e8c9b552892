"""Sums over pair differences from which spectrum, rank and reliability of any number of pairs follow.

The sums take the memory of a dozen d x d matrices however many pairs there are, are filled block by block,
and add up: parts that were read on different machines are merged into the same sums.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cfpairs.errors import DataError
from cfpairs.subspace import SecondMoment

__all__ = ["FOLDS", "PairMoments", "at_once", "blocks", "lengths_of", "side_by_side"]

Floats = NDArray[np.float64]
T = TypeVar("T")
Run = Callable[[Callable[[Any], None], Iterable[Any]], None]

FOLDS = 6
_BLOCK_BYTES = 48 << 20
_MOST_THREADS = 8
_NEAR = 1.05  # times the limit: shortening by less changes no direction that could be seen


def blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    """Slices of rows of a (k, d) matrix that take about 48 MiB each in float64."""
    step = max(256, _BLOCK_BYTES // (8 * max(1, shape[1])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


@contextmanager
def side_by_side() -> Iterator[Run]:
    """A way to do some work for every part, on as many threads as there are cores, each with one BLAS thread.

    A part writes where no other does, so that the result is the same on any number of cores.
    """
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, _MOST_THREADS)) as pool,
    ):

        def run(work: Callable[[Any], None], parts: Iterable[Any]) -> None:
            for _ in pool.map(work, parts):
                pass

        yield run


def at_once(works: Sequence[Callable[[], T]]) -> list[T]:
    """What each of some works gives, side by side."""
    found: list[Any] = [None] * len(works)

    def note(place: int) -> None:
        found[place] = works[place]()

    with side_by_side() as run:
        run(note, range(len(works)))
    return found


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
        with side_by_side() as run:
            run(measure, parts)
    return np.sqrt(squares)


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
        self.dim, self.limit = dim, limit
        self._parts = [SecondMoment(dim) for _ in range(FOLDS)]
        self._excess = [np.zeros((dim, dim), dtype=np.float32) for _ in range(FOLDS)]
        self._squares = np.zeros(2)  # of the shortened lengths: sum of squares and of fourth powers

    @property
    def n_pairs(self) -> int:
        """Number of pairs seen."""
        return sum(part.n_pairs for part in self._parts)

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
        with side_by_side() as run:
            for rows in blocks(D.shape):
                block = np.asarray(D[rows])
                length = lengths_of(block) if lengths is None else lengths[rows]
                if not np.isfinite(length).all():
                    raise DataError(
                        "pair differences are not finite", got=f"{int((~np.isfinite(length)).sum())} pairs"
                    )
                fold = self._drawn(len(block)) if folds is None else folds[rows]
                chosen = np.arange(len(block)) if keep is None else np.flatnonzero(keep[rows])
                self._add(block, length, np.asarray(fold), chosen, run)
        return self

    def _drawn(self, count: int) -> NDArray[np.int64]:
        rng = np.random.default_rng([FOLDS, self.n_pairs])
        return rng.permutation(np.arange(count) % FOLDS)

    def _add(
        self, block: NDArray[Any], lengths: Floats, folds: NDArray[Any], chosen: NDArray[np.int64], run: Run
    ) -> None:
        if self.limit is None:
            positive = lengths[chosen][lengths[chosen] > 0.0]
            self.limit = float(np.median(positive)) if positive.size else None
        limit = np.inf if self.limit is None else self.limit

        def add(fold: int) -> None:
            members = chosen[folds[chosen] == fold]
            if not len(members):
                return
            rows = block[members].astype(np.float64, copy=False)
            self._parts[fold].update(rows)
            own = lengths[members]
            long = own > _NEAR * limit
            if long.any():
                share = np.sqrt(1.0 - (limit / own[long]) ** 2)
                cut = (rows[long] * share[:, None]).astype(np.float32)
                self._excess[fold] += cut.T @ cut

        run(add, range(FOLDS))
        short = np.minimum(lengths[chosen], limit) ** 2
        self._squares += short.sum(), (short**2).sum()

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
        for mine, its in zip(self._parts, other._parts, strict=True):
            mine.merge(its)
        for excess, more in zip(self._excess, other._excess, strict=True):
            excess += more
        self._squares += other._squares
        return self

    def count(self, folds: Sequence[int]) -> int:
        """Number of pairs in some folds."""
        return sum(self._parts[fold].n_pairs for fold in folds)

    def gram(self, folds: Sequence[int] = range(FOLDS)) -> Floats:
        """``D^T D`` of the pairs of some folds, (d, d)."""
        return np.asarray(np.sum([self._parts[fold].gram for fold in folds], axis=0))

    def robust_gram(self, folds: Sequence[int] = range(FOLDS)) -> Floats:
        """The same with long pairs shortened."""
        gram = self.gram(folds)
        for fold in folds:
            gram -= self._excess[fold]
        return gram
