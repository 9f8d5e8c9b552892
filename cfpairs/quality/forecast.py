"""What more pairs of the same kind would bring.

The strength of a direction over the noise does not depend on the number of pairs, only the ratio ``gamma =
d / k`` does; so the strength that is found now gives the expected misalignment at any k (Benaych-Georges
and Nadakuditi 2012). More pairs do not help against shortcuts that the pairs do not show, edits that change
the label, or artefacts that all pairs share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.reliability import implied_strength, squared_cosines
from cfpairs.quality.result import ForecastRow, SplitHalf

__all__ = ["expected_misalignment", "forecast_rows", "joined", "pairs_needed", "unspread"]

Floats = NDArray[np.float64]

_SURE, _UNSURE = 0.05, 0.10  # how far forecasts were off in simulation, for clear and for weak directions


def unspread(strengths: Floats, k: int) -> Floats:
    """Pull estimated strengths together by the spread that sampling alone gives them.

    Parameters
    ----------
    strengths : ndarray of shape (r,)
        ``x^2`` of the detected directions.
    k : int
        Number of pairs.

    Returns
    -------
    ndarray of shape (r,)
        ``m + f (x^2 - m)`` with ``f = sqrt(max(0, 1 - m^2 (r / k) / var))``.
    """
    if len(strengths) < 2:
        return strengths.copy()
    middle, variance = float(strengths.mean()), float(strengths.var())
    if variance <= 0.0:
        return strengths.copy()
    factor = np.sqrt(max(0.0, 1.0 - middle**2 * (len(strengths) / k) / variance))
    return np.asarray(middle + factor * (strengths - middle))


def expected_misalignment(strengths: Floats, k: int, d: int) -> float:
    """Root mean squared sine of directions of these strengths, found from `k` pairs."""
    return float(np.sqrt(np.mean(1.0 - squared_cosines(strengths, d / k))))


def pairs_needed(strength: float, d: int, misalignment: float) -> float:
    """Number of pairs at which a direction of strength ``x^2`` is `misalignment` off.

    ``k = d (1 + x^2 (1 - tau)) / (tau x^4)`` with ``tau = misalignment^2``; infinite for strength 0.

    Examples
    --------
    >>> k = pairs_needed(2.0, 768, 0.3)
    >>> round(expected_misalignment(np.array([2.0]), round(k), 768), 3)
    0.3
    """
    tau = misalignment**2
    if strength <= 0.0 or tau <= 0.0:
        return float("inf")
    return d * (1.0 + strength * (1.0 - tau)) / (tau * strength**2)


def joined(one: float, other: float) -> float:
    """Misalignment after two independent turns: the squared cosines multiply.

    Examples
    --------
    >>> round(joined(0.6, 0.8), 3), joined(0.3, 0.0)
    (0.877, 0.3)
    """
    return one if other == 0.0 else float(np.sqrt(max(0.0, 1.0 - (1.0 - one**2) * (1.0 - other**2))))


def forecast_rows(
    halves: SplitHalf | None, k: int, d: int, bend: float = 0.0, turn: float = 0.0
) -> tuple[ForecastRow, ...]:
    """Misalignment of the directions that halves were compared by, for up to eight times the pairs.

    Parameters
    ----------
    halves : SplitHalf or None
    k, d : int
    bend : float
        How far a few long pairs turn the directions; that falls as noise does.
    turn : float
        How far long axes of uneven noise do; that stays.

    Returns
    -------
    tuple of ForecastRow
        For k, 2k, 4k and 8k pairs; empty where the halves do not agree beyond chance.
    """
    if halves is None or implied_strength(halves.cosine, k, d, halves.r)[0] <= 0.0:
        return ()
    rows = []
    for factor in (1, 2, 4, 8):
        middle, worse, better = (
            joined(
                joined(
                    expected_misalignment(implied_strength(cosine, k, d, halves.r), factor * k, d),
                    bend / np.sqrt(factor),
                ),
                turn,
            )
            for cosine in (
                halves.cosine,
                max(0.0, halves.cosine - halves.spread),
                min(1.0, halves.cosine + halves.spread),
            )
        )
        margin = _SURE if halves.cosine > 0.5 else _UNSURE
        rows.append(
            ForecastRow(
                factor * k,
                middle,
                max(0.0, min(better, middle - margin)),
                min(1.0, max(worse, middle + margin)),
            )
        )
    return tuple(rows)
