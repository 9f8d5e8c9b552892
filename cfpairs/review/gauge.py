"""The spectrum of the pairs that are kept, up to date after every decision."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from cfpairs.subspace import SecondMoment

__all__ = ["Gauge"]

Floats = NDArray[np.float64]


class Gauge:
    """Singular values of the differences of the kept pairs.

    A pair that is dropped is taken out of the second moment, one that comes back is added to it: no other
    pair is looked at. Up to d pairs the k x k inner products are kept instead, where a pair is a row and a
    column.

    Parameters
    ----------
    pair_ids : sequence of str, length k
    differences : ndarray of shape (k, d)
    kept : iterable of str
        Those that count at first; ids that are not among `pair_ids` are passed over.
    """

    def __init__(
        self, pair_ids: Sequence[str], differences: NDArray[np.floating], kept: Iterable[str]
    ) -> None:
        self._place = {pair: i for i, pair in enumerate(pair_ids)}
        self._rows = np.asarray(differences, np.float64)
        self._kept = np.zeros(len(pair_ids), np.bool_)
        self._kept[[self._place[pair] for pair in kept if pair in self._place]] = True
        k, self.dim = self._rows.shape
        self._inner = self._rows @ self._rows.T if k <= self.dim else None
        self._moment = SecondMoment(self.dim)
        if self._inner is None:
            self._moment.update(self._rows[self._kept])

    @property
    def n_pairs(self) -> int:
        """Number of pairs that count."""
        return int(self._kept.sum())

    def keep(self, kept: Iterable[str]) -> None:
        """Let exactly these pairs count, at the cost of those that come or go."""
        wanted = np.zeros(len(self._kept), np.bool_)
        wanted[[self._place[pair] for pair in kept if pair in self._place]] = True
        if self._inner is None:
            self._moment.update(self._rows[wanted & ~self._kept])
            self._moment.remove(self._rows[self._kept & ~wanted])
        self._kept = wanted

    def singular_values(self) -> Floats:
        """Largest first, shape (min(n_pairs, dim),)."""
        if self._inner is None:
            gram, count = self._moment.gram, min(self.n_pairs, self.dim)
        else:
            own = np.flatnonzero(self._kept)
            gram, count = self._inner[np.ix_(own, own)], len(own)
        if count == 0:
            return np.zeros(0)
        squares = np.linalg.eigvalsh(gram)[::-1][:count]
        return np.asarray(np.sqrt(np.clip(squares, 0.0, None)))
