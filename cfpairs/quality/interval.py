"""How sure the number of directions is.

Resampling pairs with replacement must not be used: repeated rows look like directions of their own (26
false ones at d = 768, k = 200; El Karoui and Purdom 2016). Instead, data with the strengths found are
simulated and counted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.forecast import unspread
from cfpairs.quality.moments import FOLDS, PairMoments
from cfpairs.quality.noise import edge
from cfpairs.quality.reliability import signal_strengths
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.streaming import top_directions

__all__ = [
    "count_above",
    "direction_frequency",
    "moment_frequency",
    "rank_interval",
    "simulate_squares",
    "wishart",
]

Floats = NDArray[np.float64]

_DENSE = 300
_CHANCE = 0.05
_KEPT, _REPEATS = 0.8, 10
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
    isotropic noise are drawn and counted; large ones by the `rank` x `rank` sketch of their signal. With 5 %
    and 95 % quantiles q of the counts it is ``[2 rank - q95, 2 rank - q5]``. The plain quantiles cover the
    truth 0-25 % of the time, the reflected ones 50-92 %.
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
        Number of simulations; by default 40, or 100 sketches for matrices over 300 on the short side. 0
        leaves the interval out: it is then `rank` alone.

    Returns
    -------
    tuple of int
        Always holds `rank`.
    """
    if sigma <= 0.0 or min(k, d) < 4 or draws == 0:
        return rank, rank
    strengths = unspread(signal_strengths(values[:rank], sigma, k, d), k)
    if min(k, d) <= _DENSE:
        counts = [count_above(simulate_squares(strengths, k, d, rng), k, d) for _ in range(draws or 40)]
    else:
        counts = [_sketched_count(strengths, k, d, rng) for _ in range(draws or 100)]
    low, high = np.quantile(counts, [0.05, 0.95])
    limit = min(k, d)
    return (
        int(max(0, min(rank, np.floor(2 * rank - high)))),
        int(min(limit, max(rank, np.ceil(2 * rank - low)))),
    )


def _sketched_count(strengths: Floats, k: int, d: int, rng: np.random.Generator) -> int:
    """Count in a simulation of the signal's coordinates alone.

    The noise beside them acts on their squared singular values l as it does in the limit of large matrices,
    ``l -> l (1 + gamma / (l - 1))`` in units of k (Benaych-Georges and Nadakuditi 2012).
    """
    r, gamma = len(strengths), d / k
    above = int(rng.random() < _CHANCE)  # the edge is passed by noise so often
    if r == 0:
        return above
    scale = np.sqrt(strengths + 1.0)
    seen = np.linalg.eigvalsh(np.outer(scale, scale) * wishart(r, k, rng) / k)[::-1] - 1.0
    found = seen > np.sqrt(gamma)
    squares = np.where(found, k * (1.0 + seen) * (1.0 + gamma / np.where(found, seen, 1.0)), 0.0)
    passed = [np.sqrt(square) > edge(k, d, i) for i, square in enumerate(squares)]
    return above + (int(np.flatnonzero(passed)[-1]) + 1 if any(passed) else 0)


def simulate_squares(strengths: Floats, k: int, d: int, rng: np.random.Generator) -> Floats:
    """Largest squared singular values of unit noise with planted directions, and the sum of all, last.

    Only the smaller side of the matrix is drawn: the noise beside the planted directions enters through its
    Wishart matrix, drawn by Bartlett's decomposition.
    """
    r = len(strengths)
    if k <= d:
        planted = rng.standard_normal((k, r)) * np.sqrt(strengths + 1.0)
        gram = planted @ planted.T + wishart(k, d - r, rng)
    else:
        gram = wishart(d, k, rng)
        scale = np.sqrt(np.concatenate([strengths + 1.0, np.ones(d - r)]))
        gram *= np.outer(scale, scale)
    return np.append(np.linalg.eigvalsh(gram)[::-1][: r + _MARGIN], np.trace(gram))


def wishart(size: int, freedom: int, rng: np.random.Generator) -> Floats:
    """Sum of outer products of `freedom` standard normal vectors, (size, size), by Bartlett's way."""
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


def direction_frequency(
    D: Floats, directions: Floats, level: float, clusters: NDArray[np.integer], rng: np.random.Generator
) -> Floats:
    """Share of subsamples of 80 % of the pairs, without replacement, in which each direction is found again.

    It is found where more than half of its squared length lies in what the subsample has above the level of
    noise (Taeb, Shah and Chandrasekaran 2020).

    Parameters
    ----------
    D : ndarray of shape (k, d)
    directions : ndarray of shape (d, r)
        Of all pairs.
    level : float
        Singular value that noise reaches in all pairs.
    clusters : ndarray of shape (k,)
        Pairs of one cluster share a source and stay together.
    rng : numpy.random.Generator
    """
    k, d = D.shape
    r = directions.shape[1]
    codes = by_appearance(clusters)
    count = int(codes.max(initial=-1)) + 1
    if r == 0 or count < 5:
        return np.zeros(0)
    scores = D @ directions
    gram = D @ D.T if k <= d else None
    hits = np.zeros(r)
    for _ in range(_REPEATS):
        rows = np.flatnonzero(np.isin(codes, rng.permutation(count)[: int(np.ceil(_KEPT * count))]))
        limit = level * edge(len(rows), d) / edge(k, d)
        if gram is not None:
            squares, weights = np.linalg.eigh(gram[np.ix_(rows, rows)])
            above = squares > max(limit**2, 1e-12 * float(squares[-1]))
            overlap = scores[rows].T @ (weights[:, above] / np.sqrt(squares[above]))
        else:
            squares, vectors = np.linalg.eigh(D[rows].T @ D[rows])
            overlap = directions.T @ vectors[:, squares > limit**2]
        hits += (overlap**2).sum(axis=1) > 0.5
    return hits / _REPEATS


def moment_frequency(moments: PairMoments, directions: Floats) -> Floats:
    """The same with each sixth of the pairs left out in turn, by as many directions as there are."""
    r = directions.shape[1]
    if r == 0:
        return np.zeros(0)
    hits = np.zeros(r)
    for fold in range(FOLDS):
        others = [other for other in range(FOLDS) if other != fold]
        found = top_directions(moments.robust_gram(others), r)
        hits += ((directions.T @ found) ** 2).sum(axis=1) > 0.5
    return hits / FOLDS
