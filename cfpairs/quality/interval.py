"""How sure the number of directions is.

Resampling pairs with replacement must not be used: repeated rows look like directions of their own (26
false ones at d = 768, k = 200; El Karoui and Purdom 2016). Instead, data with the strengths found are
simulated and counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, eigsh

from cfpairs.quality.forecast import unspread
from cfpairs.quality.noise import edge
from cfpairs.quality.reliability import signal_strengths

__all__ = ["count_above", "rank_interval", "simulate_squares"]

Floats = NDArray[np.float64]

_DENSE = 300
_MARGIN = 12  # directions looked at beyond the planted ones


def rank_interval(
    values: Floats,
    sigma: float,
    k: int,
    d: int,
    rank: int,
    rng: np.random.Generator,
    *,
    draws: int | None = None,
) -> tuple[int, int]:
    """Reflected 90 % interval for the number of directions that k pairs can show.

    Differences with `rank` directions of the strengths found, less the spread that sampling gives them, and
    isotropic noise are drawn and counted; with 5 % and 95 % quantiles q of the counts it is ``[2 rank -
    q95, 2 rank - q5]``. The plain quantiles cover the truth 0-25 % of the time, the reflected ones 50-92 %.
    Directions too weak to be detected at this number of pairs are in neither.

    Parameters
    ----------
    values : ndarray of shape (m,)
        Singular values.
    sigma : float
        Noise per dimension.
    k, d : int
    rank : int
    rng : numpy.random.Generator
    draws : int, optional
        Number of simulations; by default 40, or 12 for matrices over 300 on the short side.

    Returns
    -------
    tuple of int
        Always holds `rank`.
    """
    if sigma <= 0.0 or min(k, d) < 4:
        return rank, rank
    strengths = unspread(signal_strengths(values[:rank], sigma, k, d), k)
    repeats = draws if draws is not None else 40 if min(k, d) <= _DENSE else 12
    counts = [count_above(simulate_squares(strengths, k, d, rng), k, d) for _ in range(repeats)]
    low, high = np.quantile(counts, [0.05, 0.95])
    limit = min(k, d)
    return (
        int(max(0, min(rank, np.floor(2 * rank - high)))),
        int(min(limit, max(rank, np.ceil(2 * rank - low)))),
    )


def simulate_squares(strengths: Floats, k: int, d: int, rng: np.random.Generator) -> Floats:
    """Largest squared singular values of unit noise with planted directions, and the sum of all, last.

    Only the smaller side of the matrix is drawn: the noise beside the planted directions enters through its
    Wishart matrix, drawn by Bartlett's decomposition.
    """
    r = len(strengths)
    if k <= d:
        planted = rng.standard_normal((k, r)) * np.sqrt(strengths + 1.0)
        gram = planted @ planted.T + _wishart(k, d - r, rng)
    else:
        gram = _wishart(d, k, rng)
        scale = np.sqrt(np.concatenate([strengths + 1.0, np.ones(d - r)]))
        gram *= np.outer(scale, scale)
    size = len(gram)
    wanted = r + _MARGIN
    if size > max(_DENSE, 3 * wanted):
        try:
            start = np.full(size, 1.0 / np.sqrt(size))
            top = eigsh(gram, k=wanted, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
            return np.append(np.sort(top)[::-1], np.trace(gram))
        except ArpackNoConvergence:
            pass
    return np.append(np.linalg.eigvalsh(gram)[::-1][:wanted], np.trace(gram))


def _wishart(size: int, freedom: int, rng: np.random.Generator) -> Floats:
    if freedom < size:
        rows = rng.standard_normal((size, max(freedom, 0)))
        return rows @ rows.T
    lower = np.tril(rng.standard_normal((size, size)), -1)
    lower.flat[:: size + 1] = np.sqrt(rng.chisquare(freedom - np.arange(size)))
    return lower @ lower.T


def count_above(squares: Floats, k: int, d: int) -> int:
    """Number of directions over the edge of the noise that is left after them.

    Each step goes to the next larger count whose weakest direction passes the edge, with sigma from the
    energy beyond that count; so a group of directions that hide each other is found together.

    Parameters
    ----------
    squares : ndarray
        Largest squared singular values, and the sum of all of them last.
    k, d : int
    """
    top, total = squares[:-1], float(squares[-1])
    taken = np.cumsum(top)
    count = 0
    for candidate in range(1, len(top) + 1):
        free = (d - candidate) * (k - candidate)
        if free <= 0:
            break
        sigma = np.sqrt(max(0.0, total - float(taken[candidate - 1])) / free)
        if np.sqrt(top[candidate - 1]) > sigma * edge(k, d, candidate - 1):
            count = candidate
    return count
