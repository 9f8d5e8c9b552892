"""Whether the noise of pairs is uneven where nothing tells signal from it.

Without items or control pairs the spectrum has to speak for itself. Uneven noise has long axes, which repeat
in every half of the pairs as signal does, and pass every count for even noise. What gives it away is the
rest of the spectrum: even noise fits the Marchenko-Pastur law to about three places of its order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.noise import bulk_misfit, fit_noise
from cfpairs.quality.spectrum import Spectrum, spectrum

__all__ = ["uneven_moments", "uneven_pairs"]

Floats = NDArray[np.float64]

# Kolmogorov-Smirnov distance times the number of values. In simulations even noise stays below 3.7; pairs of
# very different lengths below 3.5 once these are made equal, and 4.3 with an effective number of pairs.
_PLACES, _PLACES_OF_MOMENTS = 4.0, 5.0
_LEAST = 48


def uneven_pairs(winsorised: Floats) -> bool:
    """Whether what signal leaves of the differences (k, d), every pair at one length, is no even noise."""
    k, d = winsorised.shape
    if min(k, d) < _LEAST:
        return False
    found = spectrum(winsorised)
    r = _signal(found)
    directions = found.top(r)
    rest = winsorised - (winsorised @ directions) @ directions.T
    lengths = np.linalg.norm(rest, axis=1)
    rest = rest[lengths > 1e-9 * float(lengths.max(initial=0.0))]
    if min(len(rest), d) - r < _LEAST or found.numerical_rank < min(k, d):
        return False
    values = spectrum(rest / np.linalg.norm(rest, axis=1)[:, None]).values[: min(len(rest), d) - r]
    return bulk_misfit(values, len(rest) - r, d - r, 0) * len(values) > _PLACES


def uneven_moments(found: Spectrum, even_pairs: float) -> bool:
    """The same from the spectrum of shortened pairs that average noise as `even_pairs` equal ones do."""
    k, d = int(even_pairs), found.dim
    if min(k, d) < _LEAST or found.numerical_rank < d:
        return False
    r = _signal(found)
    return bulk_misfit(found.values, k, d, r) * (min(k, d) - r) > _PLACES_OF_MOMENTS


def _signal(found: Spectrum) -> int:
    """Directions to leave out: at most a quarter, or nothing would be left to judge by."""
    return min(fit_noise(found).rank, min(found.n_pairs, found.dim) // 4)
