"""What removing the first r directions takes away: environment, label and variance, for every r at once.

The rank of the differences is not the number of directions to remove. Of the directions that pairs reveal,
the first few hold most of the environment; the later ones cost the label more than they take from the
shortcut. These curves show it.

*Environment* is the scatter of the environment means within each label, so that a label that is common in
one environment does not count as environment. *Label* is the squared Mahalanobis separation ``M^2`` of the
label means in a shrunk covariance S. What the directions Q leave of it is known exactly: with ``S = L L^T``
and ``u = L^-1 m`` it is ``|u|^2`` less its part in the span of ``L^-1 Q``, so one Cholesky factor and one
QR serve every r.

Both are corrected for the sampling noise of means, which in many dimensions is larger than the signal. For
a sum of squared means the correction is the sum of squared deviations of the items behind them (a
U-statistic); in the Mahalanobis norm each item is measured under the covariance of the other items (Sherman
and Morrison), which stays honest where there are few items for the dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, qr, solve_triangular

__all__ = [
    "LABEL_SHRINKAGE",
    "SPECTRUM_SHRINKAGE",
    "Contrast",
    "Metric",
    "Scatter",
    "environment_contrast",
    "label_contrast",
    "label_share",
    "pair_contrast",
    "shift_share",
    "variance_share",
    "within_groups",
]

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]

# Shrinkage where there are few items for the dimensions. For the label it is as strong as the ridge of a
# probe that
# does well on so few; for the spectrum, as weak as keeps the inverse from being noise.
LABEL_SHRINKAGE, SPECTRUM_SHRINKAGE = 0.5, 0.1
_NOISE_ITEMS = 3000  # so many items are enough to measure the sampling noise of means to a few per cent


@dataclass(frozen=True)
class Contrast:
    """Differences between group means, and the items that tell how noisy they are.

    Attributes
    ----------
    vectors : ndarray of shape (q, d)
        Weighted deviations of group means; the sum of their squared norms is signal plus noise.
    deviations : ndarray of shape (n, d)
        Items less the mean of their group.
    weights : ndarray of shape (n,)
        The noise is the weighted sum of the squared norms of the deviations.
    """

    vectors: Floats
    deviations: Floats
    weights: Floats


@dataclass(frozen=True)
class Metric:
    """Shrunk within-group covariance, ready to whiten.

    Attributes
    ----------
    factor : ndarray of shape (d, d)
        Lower Cholesky factor L of the covariance.
    shrinkage : float
        Weight of the multiple of the identity, 0 to 1.
    weight : float
        Weight of one item's outer product in the covariance.
    """

    factor: Floats
    shrinkage: float
    weight: float

    def whiten(self, columns: Floats) -> Floats:
        """``L^-1`` times the (d, m) `columns`."""
        return np.asarray(solve_triangular(self.factor, columns, lower=True, check_finite=False))


@dataclass(frozen=True)
class Scatter:
    """Within-group covariance before it is shrunk.

    Attributes
    ----------
    covariance : ndarray of shape (d, d)
    freedom : int
        Degrees of freedom.
    ledoit_wolf : float
        Ledoit and Wolf's (2004) weight of a multiple of the identity, 0 to 1.
    """

    covariance: Floats
    freedom: int
    ledoit_wolf: float

    def metric(self, shrinkage: float) -> Metric:
        """Shrink by Ledoit and Wolf's rule, and at least by ``shrinkage min(1, 2 d / n)``.

        The rule aims at the covariance and not at its inverse, and shrinks too little for that: with as many
        dimensions as items the inverse is noise in most directions (.4 % at n = 1800, d = 1280).
        """
        d = len(self.covariance)
        weight = max(self.ledoit_wolf, shrinkage * min(1.0, 2.0 * d / self.freedom))
        shrunk = (1.0 - weight) * self.covariance
        shrunk.flat[:: d + 1] += weight * float(np.trace(self.covariance)) / d
        factor = cholesky(shrunk, lower=True, overwrite_a=True, check_finite=False)
        return Metric(np.asarray(factor), weight, (1.0 - weight) / self.freedom)


@dataclass(frozen=True)
class _Groups:
    means: Floats
    counts: NDArray[np.int64]
    codes: NDArray[np.int64]
    deviations: Floats


def _group(X: Floats, *keys: Codes) -> tuple[NDArray[np.integer], _Groups]:
    """Distinct rows of the keys, and the items grouped by them."""
    cells, codes = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    codes = codes.ravel()
    counts = np.bincount(codes)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    means = np.add.reduceat(X[order], starts, axis=0) / counts[:, None]
    return cells, _Groups(means, counts, codes, X - means[codes])


def _contrast(groups: _Groups, coefficients: Floats, clusters: Codes | None = None) -> Contrast:
    """Contrast ``coefficients @ means`` with the weights that make its scatter's noise unbiased.

    Items of one cluster err alike, so the sum of a cluster's deviations takes the place of its items.
    """
    deviations, codes, counts = groups.deviations, groups.codes, groups.counts
    units = counts
    if clusters is not None:
        cells, deviations_of = np.unique(np.stack([codes, clusters], axis=1), axis=0, return_inverse=True)
        sums = np.zeros((len(cells), deviations.shape[1]))
        np.add.at(sums, deviations_of.ravel(), deviations)
        deviations, codes = sums, cells[:, 0]
        units = np.bincount(codes, minlength=len(counts))
    scale = units / (counts**2 * np.maximum(units - 1.0, 1.0))
    weights = ((coefficients**2).sum(axis=0) * scale)[codes]
    used = weights > 0.0
    return Contrast(coefficients @ groups.means, deviations[used], weights[used])


def environment_contrast(X: Floats, y: Codes, env: Codes) -> Contrast | None:
    """Differences of the environment means within each label.

    Each label that occurs in two environments or more adds the scatter of its environment means, weighted
    by the harmonic mean of their counts, so that tiny groups do not drown the others in noise. A group
    needs two items.

    Returns
    -------
    Contrast or None
        None where no label occurs in two environments.
    """
    cells, groups = _group(X, y, env)
    rows = []
    for label in np.unique(y):
        inside = (cells[:, 0] == label) & (groups.counts > 1)
        size = int(inside.sum())
        if size > 1:
            weight = np.sqrt(size / (1.0 / groups.counts[inside]).sum())
            for index in np.flatnonzero(inside):
                row = np.where(inside, -1.0 / size, 0.0)
                row[index] += 1.0
                rows.append(row * weight)
    return _contrast(groups, np.array(rows)) if rows else None


def pair_contrast(D: Floats, kinds: Codes, env_a: Codes, env_b: Codes, clusters: Codes) -> Contrast | None:
    """Mean differences of the pairs between environments, by kind of pair.

    This is the environment's shift as the pairs show it, for items of which no label occurs in two
    environments.

    Returns
    -------
    Contrast or None
        None where no kind has two pairs between environments.
    """
    crossing = np.flatnonzero(env_a != env_b)
    if len(crossing) < 2:
        return None
    cells, groups = _group(D[crossing], kinds[crossing])
    usable = groups.counts > 1
    if not usable.any():
        return None
    return _contrast(groups, np.diag(np.sqrt(groups.counts))[usable], clusters[crossing])


def label_contrast(
    X: Floats, y: Codes, env: Codes | None = None, *, clusters: Codes | None = None
) -> Contrast | None:
    """Differences of the label means; with `env`, of the label means averaged over environments.

    The second is free of the shortcut, as every label weighs the same in each environment. It needs two
    environments that hold every label at least twice. Items of one of the `clusters` are not independent of
    each other.

    Returns
    -------
    Contrast or None
        None where there are fewer than two labels, or no two such environments.
    """
    labels = np.unique(y)
    if len(labels) < 2:
        return None
    cells, groups = _group(X, y) if env is None else _group(X, y, env)
    usable = groups.counts > 1
    if env is not None:
        shared = [e for e in np.unique(env) if (usable & (cells[:, 1] == e)).sum() == len(labels)]
        if len(shared) < 2:
            return None
        usable &= np.isin(cells[:, 1], shared)
    elif not usable.all():
        return None
    member = (cells[:, :1] == labels[None, :]).T & usable
    average = member / member.sum(axis=1, keepdims=True)
    return _contrast(groups, average - average.mean(axis=0), clusters)


def within_groups(X: Floats, y: Codes, env: Codes | None = None) -> Scatter | None:
    """Covariance of the items within their label, or within their label and environment.

    Returns
    -------
    Scatter or None
        None where the items of a group do not differ.
    """
    cells, groups = _group(X, y) if env is None else _group(X, y, env)
    freedom = len(X) - len(cells)
    if freedom < 1:
        return None
    covariance = groups.deviations.T @ groups.deviations / freedom
    if np.trace(covariance) <= 0.0:
        return None
    return Scatter(covariance, freedom, _ledoit_wolf(groups.deviations, covariance))


def _ledoit_wolf(deviations: Floats, covariance: Floats) -> float:
    """Ledoit and Wolf's shrinkage weight, from a covariance that is known already."""
    n, d = deviations.shape
    squared = float((covariance**2).sum())
    distance = squared - float(np.trace(covariance)) ** 2 / d
    spread = (float(((deviations**2).sum(axis=1) ** 2).mean()) - squared) / n
    return min(1.0, max(0.0, spread / distance)) if distance > 0.0 else 1.0


def shift_share(contrast: Contrast, directions: Floats) -> Floats | None:
    """Share of a contrast's squared length that lies in the first r directions, for r = 1 .. R.

    Parameters
    ----------
    contrast : Contrast
    directions : ndarray of shape (d, R)
        Orthonormal columns.

    Returns
    -------
    ndarray of shape (R,) or None
        Between 0 and 1; None where the contrast does not exceed its sampling noise.
    """
    deviations, weights = contrast.deviations, contrast.weights
    noise = float(weights @ (deviations**2).sum(axis=1))
    total = float((contrast.vectors**2).sum()) - noise
    if total <= 0.1 * noise:
        return None
    inside = ((contrast.vectors @ directions) ** 2).sum(axis=0)
    inside -= weights @ (deviations @ directions) ** 2
    return np.clip(np.cumsum(inside) / total, 0.0, 1.0)


def label_share(contrast: Contrast, metric: Metric, directions: Floats, *, own_items: bool) -> Floats | None:
    """Share of the labels' squared Mahalanobis separation that goes with the first r directions, r = 1 .. R.

    Parameters
    ----------
    contrast : Contrast
        From `label_contrast`.
    metric : Metric
    directions : ndarray of shape (d, R)
        Orthonormal columns, found without the items of the contrast: directions and means that err alike
        look as if they shared signal.
    own_items : bool
        Whether the metric was computed from the items of the contrast.

    Returns
    -------
    ndarray of shape (R,) or None
        ``1 - M_r^2 / M^2`` between 0 and 1; None where the separation does not exceed its sampling noise.
    """
    step = -(-len(contrast.weights) // _NOISE_ITEMS)
    weights = contrast.weights[::step] * (contrast.weights.sum() / contrast.weights[::step].sum())
    basis = qr(metric.whiten(directions), mode="economic", check_finite=False)[0]
    means = metric.whiten(contrast.vectors.T)
    items = metric.whiten(contrast.deviations[::step].T)
    gone_means = _from_zero(((basis.T @ means) ** 2).sum(axis=1))
    norms = (items**2).sum(axis=0) - _from_zero((basis.T @ items) ** 2)
    if own_items:
        norms = norms / np.clip(1.0 - metric.weight * norms, 0.05, None)
    noise = norms @ weights
    left = float((means**2).sum()) - gone_means - noise
    deviation = np.sqrt(2.0) * noise[0] / np.sqrt(directions.shape[0])  # of a sum of d squares about its mean
    if left[0] <= 2.0 * deviation:
        return None
    return np.asarray(np.clip(1.0 - left[1:] / left[0], 0.0, 1.0))


def _from_zero(parts: Floats) -> Floats:
    """Cumulative sums along the first axis, with the empty sum in front."""
    return np.concatenate([np.zeros((1, *parts.shape[1:])), np.cumsum(parts, axis=0)])


def variance_share(X: Floats, directions: Floats) -> Floats:
    """Share of the items' variance in the first r directions, for r = 1 .. R."""
    centred = X - X.mean(axis=0)
    total = float((centred**2).sum())
    if total <= 0.0:
        return np.zeros(directions.shape[1])
    return np.clip(np.cumsum(((centred @ directions) ** 2).sum(axis=0)) / total, 0.0, 1.0)
