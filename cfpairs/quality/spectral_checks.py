"""Other answers to the question how many directions stand above the noise, and how well they point.

They are reported beside the rank of `cfpairs.quality.rank`. Gavish and Donoho's threshold, ScreeNOT and
bi-cross-validation minimise the error of the denoised matrix: they drop weak directions that can be
detected, which for a shortcut is the wrong loss. The eigenvalue ratio looks for the one largest gap, and a
single strong direction makes it.

References
----------
Gavish and Donoho 2014, The Optimal Hard Threshold for Singular Values is 4/sqrt(3).
Donoho, Gavish and Romanov 2023, ScreeNOT: exact MSE-optimal singular value thresholding in correlated noise.
Nadakuditi 2014, OptShrink: an algorithm for improved low-rank signal matrix denoising.
Ahn and Horenstein 2013, Eigenvalue Ratio Test for the Number of Factors.
Owen and Perry 2009, Bi-cross-validation of the SVD and the nonnegative matrix factorization.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from cfpairs.quality.noise import hard_threshold, median_marchenko_pastur
from cfpairs.quality.spectrum import spectrum

__all__ = [
    "bi_cross_validation_rank",
    "bulk_squared_cosines",
    "eigenvalue_ratio_rank",
    "gavish_donoho_rank",
    "screenot_rank",
    "screenot_threshold",
]

Floats = NDArray[np.float64]


def gavish_donoho_rank(values: Floats, k: int, d: int) -> int:
    """Singular values over Gavish and Donoho's threshold for unknown noise.

    Examples
    --------
    >>> gavish_donoho_rank(np.array([9.0, 1.1, 1.0, 0.9, 0.8, 0.7]), 6, 6)
    1
    """
    if not len(values):
        return 0
    beta = min(k, d) / max(k, d)
    limit = hard_threshold(beta) / np.sqrt(median_marchenko_pastur(beta)) * np.median(values)
    return int((values > limit).sum())


def screenot_threshold(values: Floats, k: int, d: int, most: int) -> float | None:
    """Threshold that is optimal for noise of any correlation, of which `most` values bound the signal.

    Parameters
    ----------
    values : ndarray of shape (min(k, d),)
        Singular values, largest first.
    most : int
        Upper bound of the rank.

    Returns
    -------
    float or None
        None without ``2 most + 1`` values to tell the shape of the noise by.
    """
    m = len(values)
    if most < 1 or 2 * most + 1 >= m or values[2 * most] <= 0.0:
        return None
    scale = float(values[0])
    values = values / scale
    bulk = values.copy()
    # The places of the signal are filled by going on as the edge of the bulk does.
    steps = np.arange(most) / most
    bulk[:most] = values[most] + (values[most] - values[2 * most]) * (1.0 - steps ** (2.0 / 3.0)) / (
        2.0 ** (2.0 / 3.0) - 1.0
    )
    beta = min(k, d) / max(k, d)

    def psi(z: float) -> float:
        short, slope = _transforms(z, bulk)
        long, long_slope = beta * short + (1.0 - beta) / z, beta * slope - (1.0 - beta) / z**2
        return float(z * (slope * long + short * long_slope) / (short * long))

    low = float(bulk[0]) * (1.0 + 1e-9)
    high = low * 2.0
    while psi(high) < -4.0:
        high *= 2.0
    found = low if psi(low) >= -4.0 else brentq(lambda z: psi(z) + 4.0, low, high, xtol=1e-9 * high)
    return float(found * scale)


def screenot_rank(values: Floats, k: int, d: int, most: int) -> int | None:
    """Singular values over `screenot_threshold`; None where that cannot be told."""
    limit = screenot_threshold(values, k, d, most)
    return None if limit is None else int((values > limit).sum())


def eigenvalue_ratio_rank(values: Floats) -> int:
    """Number of directions before the largest ratio of two eigenvalues that follow each other.

    Ahn and Horenstein's ER over the first half of the singular values that are not zero. It always finds a
    gap, in noise too: it never says that there is no direction.

    Examples
    --------
    >>> eigenvalue_ratio_rank(np.array([9.0, 8.0, 1.1, 1.0, 0.9, 0.8]))
    2
    """
    positive = values[values > 0.0]
    top = positive[: len(positive) // 2 + 1]
    return int(np.argmax(top[:-1] / top[1:])) + 1 if len(top) > 1 else len(top)


def bi_cross_validation_rank(D: Floats, most: int, rng: np.random.Generator) -> int | None:
    """Number of directions that best foretell a quarter of the entries from the three others.

    Rows and columns are halved at random; each quarter A of the matrix [A B; C E] is foretold as
    ``B E_r^+ C`` with the rank-r pseudoinverse of the opposite quarter (Owen and Perry's 2 x 2 folds).

    Parameters
    ----------
    D : ndarray of shape (k, d)
    most : int
        Largest number tried.
    rng : numpy.random.Generator

    Returns
    -------
    int or None
        None of fewer than eight rows or columns.
    """
    k, d = D.shape
    if min(k, d) < 8:
        return None
    rows = rng.permutation(k)
    columns = rng.permutation(d)
    row_halves, column_halves = (rows[: k // 2], rows[k // 2 :]), (columns[: d // 2], columns[d // 2 :])
    most = min(most, k // 2, d // 2)
    errors = np.zeros(most + 1)
    for i in (0, 1):
        for j in (0, 1):
            held, rest = row_halves[i], row_halves[1 - i]
            own, others = column_halves[j], column_halves[1 - j]
            errors += _foretold(
                D[np.ix_(held, own)],
                D[np.ix_(held, others)],
                D[np.ix_(rest, own)],
                D[np.ix_(rest, others)],
                most,
            )
    return int(np.argmin(errors))


def _foretold(A: Floats, B: Floats, C: Floats, E: Floats, most: int) -> Floats:
    """Squared error of ``B E_r^+ C`` for A with r = 0 .. most, less the squared length of A."""
    found = spectrum(E)
    r = min(most, found.numerical_rank)
    right, values = found.top(r), found.values[:r]
    left = E @ right / values  # (rows, r)
    one, two = B @ right / values, left.T @ C
    cross = np.cumsum(((A @ two.T) * one).sum(axis=0))
    gram = (one.T @ one) * (two @ two.T)
    squares = np.diag(np.cumsum(np.cumsum(gram, axis=0), axis=1))
    errors = np.concatenate(([0.0], squares - 2.0 * cross))
    return np.concatenate((errors, np.full(most - r, np.inf)))


def bulk_squared_cosines(values: Floats, rank: int, k: int, d: int) -> Floats | None:
    """Squared cosine of each of the first `rank` directions with the true one, for noise of any spectrum.

    The noise is known by the singular values after them alone (Nadakuditi 2014): with
    ``phi(z) = mean z / (z^2 - y^2)`` over these, its counterpart on the longer side and their product F, it
    is ``-2 phi F / F'`` for a direction on the shorter side of the matrix.

    Returns
    -------
    ndarray of shape (rank,) or None
        None where too little noise is left to tell.
    """
    if rank < 1 or len(values) - rank < max(8, rank) or values[rank] <= 0.0:
        return None
    values = values / values[0]
    bulk = values[rank:]
    beta = (min(k, d) - rank) / (max(k, d) - rank)
    found = []
    for z in values[:rank]:
        if z <= bulk[0] * (1.0 + 1e-9):
            found.append(0.0)
            continue
        short, slope = _transforms(float(z), bulk)
        long, long_slope = beta * short + (1.0 - beta) / z, beta * slope - (1.0 - beta) / z**2
        change = slope * long + short * long_slope
        # F = 1 / theta^2, so that phi / (theta^2 F') is phi F / F'.
        own = short if d <= k else long
        found.append(float(np.clip(-2.0 * own * short * long / change, 0.0, 1.0)))
    return np.array(found)


def _transforms(z: float, bulk: Floats) -> tuple[float, float]:
    """``mean z / (z^2 - y^2)`` and its derivative."""
    apart = z**2 - bulk**2
    return float((z / apart).mean()), float(-((z**2 + bulk**2) / apart**2).mean())
