"""Singular values and directions of the pair differences.

The differences are never centred: their mean is signal, and swapping the two sides of a pair must change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Spectrum", "spectrum"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Singular value decomposition of (k, d) pair differences, ``D = left * values @ directions.T``.

    Attributes
    ----------
    values : ndarray of shape (m,)
        Singular values, largest first; ``m = min(k, d)``.
    directions : ndarray of shape (d, m)
        Orthonormal columns; the first r of them span what a rank-r projection removes.
    left : ndarray of shape (k, m)
        How much each pair contributes to each direction; columns of zero singular values are zero.
    numerical_rank : int
        Number of singular values that rounding cannot explain.
    """

    values: Floats
    directions: Floats
    left: Floats
    numerical_rank: int

    @property
    def n_pairs(self) -> int:
        """Number of pairs k."""
        return int(self.left.shape[0])

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.directions.shape[0])

    def top(self, r: int) -> Floats:
        """The first `r` directions, (d, r)."""
        return self.directions[:, :r]


def spectrum(differences: NDArray[np.floating]) -> Spectrum:
    """Decompose the differences of pairs.

    Up to d pairs the matrix is decomposed directly; beyond, through the float64 Gram matrix, which loses
    singular values below ``sqrt(eps)`` of the first (Halko et al. 2011, section 4).

    Parameters
    ----------
    differences : ndarray of shape (k, d)
        One row a pair, in any float type; finite. A float32 matrix is decomposed in float64, but its own
        rounding decides which singular values count as zero.

    Returns
    -------
    Spectrum

    Examples
    --------
    >>> import numpy as np
    >>> found = spectrum(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    >>> found.values.tolist(), found.numerical_rank
    ([4.0, 3.0], 2)
    """
    rounding = np.finfo(differences.dtype).eps if differences.dtype.kind == "f" else np.finfo(float).eps
    matrix = np.asarray(differences, dtype=np.float64)
    k, d = matrix.shape
    if min(k, d) == 0:
        return Spectrum(np.zeros(0), np.zeros((d, 0)), np.zeros((k, 0)), 0)
    if k <= d:
        left, values, rows = np.linalg.svd(matrix, full_matrices=False)
        directions = rows.T
        tolerance = values[0] * max(k, d) * rounding
    else:
        squares, vectors = np.linalg.eigh(matrix.T @ matrix)
        values = np.sqrt(np.clip(squares[::-1], 0.0, None))
        directions = np.ascontiguousarray(vectors[:, ::-1])
        tolerance = values[0] * max(max(k, d) * rounding, np.sqrt(d * np.finfo(float).eps))
        safe = np.where(values > tolerance, values, np.inf)
        left = matrix @ directions / safe
    return Spectrum(values, directions, left, int((values > tolerance).sum()))
