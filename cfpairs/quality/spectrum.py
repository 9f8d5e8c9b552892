"""Singular values and directions of the pair differences.

The differences are never centred: their mean is signal, and swapping the two sides of a pair must change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.subspace import Directions, SecondMoment, difference_directions

__all__ = ["Spectrum", "spectrum", "spectrum_of_moment"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Singular values and right singular vectors of (k, d) pair differences.

    Attributes
    ----------
    values : ndarray of shape (min(k, d),)
        Singular values, largest first.
    directions : ndarray of shape (d, numerical_rank)
        Orthonormal columns; the first r of them span what a rank-r projection removes.
    numerical_rank : int
        Number of singular values that rounding cannot explain.
    n_pairs : int
        Number of pairs k.
    """

    values: Floats
    directions: Floats
    numerical_rank: int
    n_pairs: int

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.directions.shape[0])

    def top(self, r: int) -> Floats:
        """The first `r` directions, (d, r)."""
        return self.directions[:, :r]


def spectrum(differences: NDArray[np.floating]) -> Spectrum:
    """Decompose the differences of pairs; see `cfpairs.subspace.difference_directions`.

    Parameters
    ----------
    differences : ndarray of shape (k, d)
        One row a pair; finite.

    Examples
    --------
    >>> import numpy as np
    >>> found = spectrum(np.array([[3.0, 0.0], [0.0, 0.0], [0.0, 4.0]]))
    >>> found.values.tolist(), found.numerical_rank
    ([4.0, 3.0], 2)
    """
    return _spectrum(difference_directions(differences))


def spectrum_of_moment(gram: Floats, n_pairs: int) -> Spectrum:
    """The same from ``D^T D``; squaring loses singular values under 1e-8 of the largest."""
    return _spectrum(SecondMoment.of_gram(gram, n_pairs).directions())


def _spectrum(found: Directions) -> Spectrum:
    return Spectrum(found.singular_values, found.vectors, found.rank, found.n_pairs)
