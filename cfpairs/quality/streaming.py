"""Spectrum, rank and reliability from sums over the pairs, without the pairs themselves.

Many pairs (tens of thousands) are read in blocks. What depends on their spectrum follows exactly from
second moments; the sign flips that the rank is counted against have a limit for many pairs that needs only
the variance of every coordinate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.sparse.linalg import ArpackError, eigsh

from cfpairs.quality.moments import FOLDS, PairMoments, at_once
from cfpairs.quality.rank import ONE_COORDINATE, FlipRank, flip_margin
from cfpairs.quality.reliability import Halves
from cfpairs.quality.spectrum import Spectrum

__all__ = ["halves_of_moments", "many_flips_rank", "spread_edge", "top_directions"]

Floats = NDArray[np.float64]

_HALVINGS = 3
_MOST = 64  # directions that halves are compared by
_FEW_DIMENSIONS, _TOLERANCE = 128, 1e-6


def many_flips_rank(
    found: Spectrum, gram: Floats, even_pairs: float, *, above_edge: int = 0, widening: float = 1.0
) -> FlipRank:
    """Count the directions stronger than the limit of infinitely many sign flips, taken out one by one.

    With coordinate variances v of what r directions leave, flipped differences have their largest squared
    singular value at ``k min_w [1 / w + mean of v_i / (1 - v_i w) summed over i, over k]``, 0 < w < 1 / max v
    (Silverstein and Choi 1995).

    Parameters
    ----------
    found : Spectrum
        Of `gram`.
    gram : ndarray of shape (d, d)
        Of the shortened pairs, in the metric that the rank is counted in.
    even_pairs : float
        See `PairMoments.even_pairs`.
    above_edge, widening
        As in `cfpairs.quality.rank.flip_rank`.
    """
    k, d = found.n_pairs, found.dim
    squares, energy = found.values**2, np.diag(gram).copy()
    limit = min(found.numerical_rank, d - 1, k - 1)
    level, plain = 0.0, 0
    for r in range(limit + 1):
        free = k - r
        # What is left has d - r dimensions, and its energy lies in d coordinates.
        variances = np.clip(energy, 0.0, None) / free * (d / max(d - r, 1))
        level = np.sqrt(free * spread_edge(variances, even_pairs * free / k * (d / max(d - r, 1))))
        level *= widening * flip_margin(k, d, r)
        if r == 0:
            plain = int((found.values[: max(limit, 0)] > level).sum())
        if r == limit:
            return FlipRank(r, float(level), plain)
        lone = r < above_edge and float((found.directions[:, r] ** 4).sum()) > ONE_COORDINATE
        if not lone and found.values[r] <= level:
            return FlipRank(r, float(level), plain)
        energy -= squares[r] * found.directions[:, r] ** 2
    return FlipRank(limit, float(level), plain)


def spread_edge(variances: Floats, k: float) -> float:
    """Largest eigenvalue of the covariance of k noisy rows with these coordinate variances."""
    v = variances[variances > 0.0]
    if not len(v):
        return 0.0
    top = float(v.max())

    def slope(w: float) -> float:
        return float(-1.0 / w**2 + (v**2 / (1.0 - v * w) ** 2).sum() / k)

    low, high = 1e-9 / top, (1.0 - 1e-9) / top
    w = brentq(slope, low, high, xtol=1e-12 / top) if slope(low) < 0.0 < slope(high) else high
    return float(1.0 / w + (v / (1.0 - v * w)).sum() / k)


def top_directions(gram: Floats, r: int) -> Floats:
    """First r eigenvectors of a positive semidefinite matrix (d, d), as columns (d, r).

    A few of many are found by Lanczos iteration (ARPACK), which converges where plain subspace iteration from
    a common start would leave the directions of two halves more alike than they are.
    """
    d = len(gram)
    if _FEW_DIMENSIONS < d and 0 < r <= d // 8:
        try:
            start = np.random.default_rng(0).standard_normal(d)
            values, vectors = eigsh(gram, k=r, v0=start, tol=_TOLERANCE)
            return np.asarray(vectors[:, np.argsort(values)[::-1]])
        except ArpackError:  # such as for a matrix of zeros
            pass
    return np.asarray(np.linalg.eigh(gram)[1][:, ::-1][:, :r])


def halves_of_moments(
    moments: PairMoments,
    rng: np.random.Generator,
    max_rank: int,
    whiten: Callable[[Floats], Floats] | None = None,
) -> Halves:
    """Overlaps of the directions of two halves of the folds, for three halvings.

    Parameters
    ----------
    moments : PairMoments
    rng : numpy.random.Generator
    max_rank : int
        Largest r that will be asked for; more than 64 are not compared.
    whiten : callable, optional
        Brings sums of outer products into the metric that directions are compared in.
    """

    def leading(sums: Sequence[Floats]) -> Floats:
        gram = np.asarray(reduce(np.add, sums))
        return top_directions(gram if whiten is None else whiten(gram), r)

    splits = [(0, *rest) for rest in combinations(range(1, FOLDS), FOLDS // 2 - 1)]
    r = max(0, min(max_rank, _MOST, moments.dim))
    overlaps = []
    if r:
        chosen = [splits[index] for index in rng.permutation(len(splits))[:_HALVINGS]]
        others = [tuple(sorted(set(range(FOLDS)) - set(one))) for one in chosen]
        sums = at_once([partial(moments.robust_gram, [fold]) for fold in range(FOLDS)])
        every = at_once([partial(leading, [sums[fold] for fold in half]) for half in (*chosen, *others)])
        pairs = zip(every[: len(chosen)], every[len(chosen) :], strict=True)
        overlaps = [np.clip(one.T @ other, -1.0, 1.0) for one, other in pairs]
    return Halves(overlaps, moments.n_pairs, moments.dim)
