"""How well the found directions point the right way.

Two views. The *model* view takes isotropic noise and gives the cosine between each found direction and the
true one from its singular value. The *split-half* view assumes nothing: it finds the directions twice, in
two halves of the pairs, and compares them. It measures reproducibility, not validity: an artefact that
every pair shares looks perfect.

References
----------
Benaych-Georges and Nadakuditi 2012, The singular values and vectors of low rank perturbations of large
rectangular random matrices.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.noise import fit_noise
from cfpairs.quality.rank import winsorize
from cfpairs.quality.result import SplitHalf, Wedin
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.spectrum import spectrum

__all__ = [
    "HalfSplitter",
    "Halves",
    "artefact",
    "cosines",
    "distance",
    "implied_strength",
    "signal_strengths",
    "squared_cosines",
    "wedin",
]

Floats = NDArray[np.float64]

_WEDIN = 1.0 - 1.0 / np.sqrt(2.0)


def signal_strengths(values: Floats, sigma: float, k: int, d: int) -> Floats:
    """Signal-to-noise ratio of each direction, ``x^2 = E c^2 / sigma^2``; 0 where it cannot be detected.

    Parameters
    ----------
    values : ndarray of shape (r,)
        Singular values of the (k, d) differences.
    sigma : float
        Noise per dimension, more than 0.

    Returns
    -------
    ndarray of shape (r,)
    """
    gamma = d / k
    t = values**2 / (k * sigma**2) - 1.0 - gamma
    inside = np.where(t > 2.0 * np.sqrt(gamma), t, 0.0)
    root = np.sqrt(np.clip(inside**2 - 4.0 * gamma, 0.0, None))
    return np.asarray(np.where(inside > 0.0, (inside + root) / 2.0, 0.0))


def squared_cosines(strengths: Floats, gamma: float) -> Floats:
    """Expected squared cosine between found and true direction, at ``gamma = d / k`` (0 if undetectable).

    Examples
    --------
    >>> import numpy as np
    >>> squared_cosines(np.array([100.0, 1.0]), 4.0).round(3).tolist()
    [0.961, 0.0]
    """
    x2 = np.asarray(strengths, dtype=np.float64)
    safe = np.where((x2 > 0.0) & np.isfinite(x2), x2, 1.0)
    known = np.where(x2 > np.sqrt(gamma), (1.0 - gamma / safe**2) / (1.0 + gamma / safe), 0.0)
    return np.asarray(np.where(np.isinf(x2), 1.0, known))


def cosines(values: Floats, sigma: float, k: int, d: int) -> Floats:
    """Expected cosine of each found direction with the true one; 1 without noise."""
    if sigma <= 0.0:
        return np.ones(len(values))
    return np.sqrt(squared_cosines(signal_strengths(values, sigma, k, d), d / k))


def distance(cosine: Floats) -> float | None:
    """Root mean squared sine, 0 for the right subspace and 1 for an unrelated one; None of no direction."""
    if len(cosine) == 0:
        return None
    return float(np.sqrt(np.mean(np.clip(1.0 - np.asarray(cosine) ** 2, 0.0, None))))


class Halves:
    """Agreement of the directions of random halves of the pairs, for any number r of them.

    Parameters
    ----------
    overlaps : list of ndarray
        For each halving, cosines between the directions of one half (rows) and of the other (columns).
    k, d : int
        Number of pairs and of dimensions.
    """

    def __init__(self, overlaps: list[Floats], k: int, d: int) -> None:
        self._overlaps, self.shape, self.repeats = overlaps, (k, d), len(overlaps)
        self.max_rank = min((min(overlap.shape) for overlap in overlaps), default=0)

    def at(self, r: int) -> SplitHalf | None:
        """Agreement of the first `r` directions; None if a half cannot hold so many."""
        if r < 1 or r > self.max_rank:
            return None
        parts = [overlap[:r, :r] for overlap in self._overlaps]
        agreements = [min(1.0, float(np.linalg.svd(part, compute_uv=False).mean())) for part in parts]
        squares = np.mean([((part**2).sum(axis=0) + (part**2).sum(axis=1)) / 2.0 for part in parts], axis=0)
        agreement = float(np.mean(agreements))
        k, d = self.shape
        return SplitHalf(
            r=r,
            cosine=agreement,
            distance=float(np.sqrt(1.0 - agreement)),
            misalignment=float(
                np.sqrt(1.0 - squared_cosines(implied_strength(agreement, k, d, r), d / k)[0])
            ),
            spread=float(np.std(agreements)),
            cosines=tuple(float(c) for c in np.sqrt(np.clip(squares, 0.0, 1.0))),
            repeats=self.repeats,
        )

    def alignment(self, r: int) -> Floats | None:
        """Cosine of each of the first `r` directions of all pairs with the true ones; None as in `at`."""
        found = self.at(r)
        if found is None:
            return None
        k, d = self.shape
        strengths = np.concatenate([implied_strength(cosine, k, d, r) for cosine in found.cosines])
        return np.sqrt(squared_cosines(strengths, d / k))


class HalfSplitter(Halves):
    """Directions of random halves of the pairs, for any r, from one Gram matrix of the pairs.

    Parameters
    ----------
    differences : ndarray of shape (k, d)
        They are winsorised first.
    rng : numpy.random.Generator
    clusters : ndarray of shape (k,), optional
        Pairs of one cluster share a source; they go to the same half.
    repeats : int, optional
        Number of halvings; by default 10, or 4 for more than 800 pairs.
    max_rank : int
        Largest r that will be asked for.
    """

    def __init__(
        self,
        differences: NDArray[np.floating],
        rng: np.random.Generator,
        *,
        clusters: NDArray[np.integer] | None = None,
        repeats: int | None = None,
        max_rank: int = 64,
    ) -> None:
        matrix = winsorize(differences)
        repeats = repeats if repeats is not None else 10 if len(matrix) <= 800 else 4
        k, d = matrix.shape
        codes = np.arange(k) if clusters is None else by_appearance(clusters)
        count = int(codes.max()) + 1 if k else 0
        most = min(max_rank, d, count // 2)
        if count < 4 or most < 1:
            super().__init__([], k, d)
            return
        gram = matrix @ matrix.T if k <= 4 * d else None
        overlaps = []
        for _ in range(repeats):
            first = np.isin(codes, rng.permutation(count)[: count // 2])
            one, two = np.flatnonzero(first), np.flatnonzero(~first)
            if gram is None:
                overlap = _top(matrix[one], most).T @ _top(matrix[two], most)
            else:
                left, right = _weights(gram, one, most), _weights(gram, two, most)
                overlap = left.T @ gram[np.ix_(one, two)] @ right
            overlaps.append(np.clip(overlap, -1.0, 1.0))
        super().__init__(overlaps, k, d)


def _weights(gram: Floats, rows: NDArray[np.integer], r: int) -> Floats:
    """Coefficients that make the rows' top directions of their differences, at most `r` of them."""
    squares, vectors = np.linalg.eigh(gram[np.ix_(rows, rows)])
    squares, vectors = squares[::-1][:r], vectors[:, ::-1][:, :r]
    positive = squares > max(squares[0], 0.0) * len(rows) * 1e-14
    return np.asarray(vectors[:, positive] / np.sqrt(squares[positive]))


def _top(matrix: Floats, r: int) -> Floats:
    found = spectrum(matrix)
    return found.top(min(r, found.numerical_rank))


def artefact(control: Floats, directions: Floats) -> float | None:
    """Mean cosine between the directions and as many of the strongest directions of control pairs.

    Control pairs show what the making of pairs does by itself. A mark that it leaves on every pair is
    perfectly reproducible, so only this comparison can find it.

    Parameters
    ----------
    control : ndarray of shape (c, d)
    directions : ndarray of shape (d, r)

    Returns
    -------
    float or None
        None without a direction, or with control pairs of no direction above their noise.
    """
    found = spectrum(winsorize(control))
    r = min(directions.shape[1], fit_noise(found).rank)
    if r < 1:
        return None
    return float(np.linalg.svd(found.top(r).T @ directions, compute_uv=False).mean())


def implied_strength(agreement: float, k: int, d: int, r: int) -> Floats:
    """Signal-to-noise ratio x^2 at which halves of k pairs agree so well, as an array of one value.

    Inverts ``agreement = c^2(k / 2)`` (Benaych-Georges and Nadakuditi 2012), less what r random directions
    agree by chance; infinite for full agreement, 0 where chance alone may explain it.
    """
    chance = r / d
    if r >= d or agreement >= 1.0 - 1e-9:
        return np.array([np.inf])
    if agreement < min(np.sqrt(chance) * (1.0 + 1.0 / np.sqrt(r)), (1.0 + np.sqrt(chance)) / 2.0):
        return np.zeros(1)
    share = np.sqrt((agreement**2 - chance) / (1.0 - chance))
    g = 2.0 * d / k
    return np.array(
        [(share * g + np.sqrt(share**2 * g**2 + 4.0 * (1.0 - share) * g)) / (2.0 * (1.0 - share))]
    )


def wedin(strengths: Floats, sigma: float | None, k: int, d: int) -> Wedin | None:
    """Whether Wedin's theorem bounds the error of the directions found; usually the noise is too large.

    Where ``||noise|| <= (1 - 1 / sqrt(2)) gap``, the largest sine is at most ``2 ||noise|| / gap``.

    Parameters
    ----------
    strengths : ndarray of shape (r,)
        ``x^2`` of the directions.
    sigma : float or None
        Noise per dimension; None or 0 where there is none to compare with.
    k, d : int
    """
    if not sigma or not len(strengths):
        return None
    noise = sigma * (np.sqrt(d) + np.sqrt(k))
    gap = sigma * float(np.sqrt(k * strengths.min()))
    applies = bool(noise <= _WEDIN * gap)
    return Wedin(float(noise), gap, applies, float(2.0 * noise / gap) if applies else None)
