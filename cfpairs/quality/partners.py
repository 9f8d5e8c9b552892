"""Whether the two sides of a pair are more alike than sides of different pairs.

The noise of a pair set cannot be read off its spectrum when the noise is as uneven as the signal: on
embeddings of photographs, edited pairs and random pairs of one label have nearly the same singular values.
What tells them apart is whether the sides of a pair find each other once the common directions are taken
out. Edits of one image do; two random images of one label do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.flags import Doubt
from cfpairs.quality.rank import winsorize
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.spectrum import spectrum

__all__ = ["Partners", "compare_partners", "match_places", "wrong_matches"]

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]

_ENOUGH = 5  # other pairs of the same kind to compare with
_USUALLY_NEAR, _FAR = 0.05, 0.2
_TAKEN_OUT = (2, 4, 8, 16, 32)
_FOLDS, _FEW = 10, 1000  # so many folds with fewer pairs than this, else two
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Partners:
    """How near the sides of pairs are to each other among pairs of the same kind.

    Attributes
    ----------
    likeness : float
        Probability that a side is nearer to its partner than to the same side of another pair with the same
        label and environments; 1 for clean edits, .5 for partners taken at random.
    error : float
        Its standard error.
    """

    likeness: float
    error: float


def compare_partners(
    a: Floats, D: Floats, kinds: Codes, clusters: Codes, r: int, rng: np.random.Generator
) -> Partners | None:
    """Compare each pair with the other pairs of its kind, the other half's first `r` directions taken out.

    Parameters
    ----------
    a, D : ndarray of shape (k, d)
    kinds : ndarray of shape (k,)
        Pairs are compared within a kind: equal label and environments.
    clusters : ndarray of shape (k,)
        Pairs of one cluster are not compared, as they may share a side.
    r : int
    rng : numpy.random.Generator

    Returns
    -------
    Partners or None
        None where no kind has enough pairs.
    """
    codes = by_appearance(clusters)
    count = int(codes.max(initial=-1)) + 1
    half = np.isin(codes, rng.permutation(count)[: count // 2])
    robust = winsorize(D)
    places = np.full(len(D), np.nan)
    for mask in (half, ~half):
        if not mask.any() or mask.all():
            continue
        directions = spectrum(robust[~mask]).top(r)
        one = a[mask] - (a[mask] @ directions) @ directions.T
        two = one - (D[mask] - (D[mask] @ directions) @ directions.T)
        comparable = (kinds[mask][:, None] == kinds[mask]) & (clusters[mask][:, None] != clusters[mask])
        places[mask] = _places(one, two, comparable)
    known = places[~np.isnan(places)]
    if len(known) < 2 * _ENOUGH:
        return None
    return Partners(float(1.0 - known.mean()), float(known.std() / np.sqrt(len(known))))


def _places(one: Floats, two: Floats, comparable: NDArray[np.bool_]) -> Floats:
    """Mean over both sides of the share of comparable pairs that stand nearer than the partner."""
    inner = one @ two.T
    squares = (one**2).sum(axis=1)[:, None] + (two**2).sum(axis=1)[None, :] - 2.0 * inner
    own = np.diag(squares)
    # Equal sides are as far off by rounding; what is nearer must be so by more than that.
    slack = 1e-9 * (squares.max(initial=0.0) + 1.0)
    count = comparable.sum(axis=1)
    enough = count >= _ENOUGH
    nearer_two = (comparable & (squares < own[:, None] - slack)).sum(axis=1)
    nearer_one = (comparable & (squares < own[None, :] - slack)).sum(axis=0)
    share = (nearer_one + nearer_two) / (2.0 * np.maximum(count, 1))
    return np.where(enough, share, np.nan)


def match_places(
    a: Floats, D: Floats, envs: tuple[Codes, Codes], clusters: Codes, rng: np.random.Generator
) -> Floats | None:
    """Share of the other pairs' sides that are more alike to a side than its partner is, (k,).

    Alike is the cosine, after the first directions of other pairs are taken out (of the nine other tenths, or
    of the other half where there are many) and each side less the mean of its environment's sides: what these
    share says nothing on who belongs to whom. How many directions hide who belongs to whom is not known, so
    that it is the mean over several numbers of them.

    Parameters
    ----------
    a, D, clusters, rng
        As for `compare_partners`.
    envs : tuple of two ndarray of shape (k,)
        Environments of the a and of the b side; zeros where they are not known.

    Returns
    -------
    ndarray of shape (k,) or None
        None of fewer than ten clusters.
    """
    codes = by_appearance(clusters)
    count = int(codes.max(initial=-1)) + 1
    if count < 2 * _ENOUGH:
        return None
    parts = _FOLDS if count < _FEW else 2
    fold = (rng.permutation(count) % parts)[codes]
    masks = [fold == part for part in range(parts)]
    most = min(_TAKEN_OUT[-1], D.shape[1] // 4, min(int((~mask).sum()) for mask in masks) // 4)
    leading = [(mask, _common_directions(D[~mask], most)) for mask in masks]
    others = clusters[:, None] != clusters
    places = []
    for r in sorted({min(r, most) for r in _TAKEN_OUT}):
        one, two = a.copy(), a - D
        for mask, directions in leading:
            top = directions[:, :r]
            one[mask] -= (one[mask] @ top) @ top.T
            two[mask] -= (two[mask] @ top) @ top.T
        one, two = _unit_less_mean(one, envs[0]), _unit_less_mean(two, envs[1])
        alike = one @ two.T
        own = np.diag(alike)[:, None] + _ROUNDING
        more_two = (others & (alike > own)).sum(axis=1)
        more_one = (others & (alike > own.T)).sum(axis=0)
        places.append((more_one + more_two) / (2.0 * np.maximum(others.sum(axis=1), 1)))
    return np.asarray(np.mean(places, axis=0))


def _common_directions(D: Floats, r: int) -> Floats:
    """First r directions of the pairs, none of which a pair or two can make alone.

    Beside the strongest direction long pairs are shortened once more: two pairs that have each other's
    partner show the same difference, and without it each would find its wrong partner right.
    """
    robust = winsorize(D)
    first = spectrum(robust).top(min(1, r))
    rest = winsorize(robust - (robust @ first) @ first.T)
    return np.concatenate([first, spectrum(rest).top(r - first.shape[1])], axis=1)


def _unit_less_mean(rows: Floats, kinds: Codes) -> Floats:
    found = rows.copy()
    for kind in np.unique(kinds):
        inside = kinds == kind
        found[inside] -= rows[inside].mean(axis=0)
    lengths = np.linalg.norm(found, axis=1)
    return np.asarray(found / np.where(lengths > 0.0, lengths, 1.0)[:, None])


def wrong_matches(places: Floats | None) -> list[Doubt]:
    """Pairs with many sides more alike than the partner, in a set whose partners usually are most alike."""
    if places is None or float(np.median(places)) > _USUALLY_NEAR:
        return []
    return [
        Doubt(
            int(j),
            "wrong match",
            float(places[j]),
            f"{places[j]:.0%} of the other pairs have a side that is more alike than its partner",
            float(places[j]) / _FAR,
        )
        for j in np.flatnonzero(places >= _FAR)
    ]
