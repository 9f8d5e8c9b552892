"""Embeddings as FAISS compares them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.vectors import Embeddings

__all__ = ["UnitVectors"]

ROWS = 8192
"""Vectors that are brought to unit length at a time."""


class UnitVectors:
    """Embeddings brought to unit length, a few at a time.

    Parameters
    ----------
    ids : sequence of str, length n
        Items that have a vector.
    embeddings : Embeddings

    Raises
    ------
    DataError
        If a vector is not finite or has length zero.
    """

    def __init__(self, ids: Sequence[str], embeddings: Embeddings) -> None:
        self._matrix = embeddings.matrix
        row = {item: place for place, item in enumerate(embeddings.item_ids)}
        self._row = np.fromiter((row[item] for item in ids), np.int64, len(ids))
        self._length = np.empty(len(ids), np.float64)
        for start in range(0, len(ids), ROWS):
            part = slice(start, start + ROWS)
            self._length[part] = np.linalg.norm(self._matrix[self._row[part]].astype(np.float64), axis=1)
        bad = np.flatnonzero(~np.isfinite(self._length) | (self._length == 0))
        if len(bad):
            raise DataError(
                "embeddings that are not finite or have length zero",
                got=f"{len(bad)}, such as that of {', '.join(repr(ids[int(i)]) for i in bad[:3])}",
                remedy="check those images and embed again, in fp32 if the encoder overflows",
            )

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Unit vectors of items `rows`, shape (k, d)."""
        found = np.empty((len(rows), self._matrix.shape[1]), np.float32)
        for start in range(0, len(rows), ROWS):
            some = rows[start : start + ROWS]
            vectors = self._matrix[self._row[some]].astype(np.float64)
            found[start : start + ROWS] = vectors / self._length[some, None]
        return found
