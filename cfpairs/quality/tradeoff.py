"""What removing the first r directions takes away: environment, label and variance, for every r at once.

The rank of the differences is not the number of directions to remove. Of the directions that pairs reveal,
the first few hold most of the environment; the later ones cost the label more than they take from the
shortcut. These curves show it.

*Environment* is the scatter of the environment means within each label, so that a label that is common in
one environment does not count as environment. *Label* is the squared Mahalanobis separation ``M^2`` of the
label means in a shrunk covariance S. What the directions Q leave of it is known exactly: with ``S = L L^T``
and ``u = L^-1 m`` it is ``|u|^2`` less its part in the span of ``L^-1 Q``, so one Cholesky factor and one
QR serve every r.

Both are corrected for the sampling noise of means. In the Mahalanobis norm each item is measured under the
covariance of the other items (Sherman and Morrison), which stays honest where there are few items for the
dimensions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from cfpairs.quality.contrasts import Contrast
from cfpairs.quality.metric import Metric

__all__ = ["label_share", "shift_share", "squared_left", "variance_share"]

Floats = NDArray[np.float64]

_NOISE_ITEMS = 3000  # so many items are enough to measure the sampling noise of means to a few per cent


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
    left, noise = squared_left(contrast, metric, directions, own_items=own_items)
    deviation = np.sqrt(2.0) * noise[0] / np.sqrt(directions.shape[0])  # of a sum of d squares about its mean
    if left[0] <= 2.0 * deviation:
        return None
    return np.asarray(np.clip(1.0 - left[1:] / left[0], 0.0, 1.0))


def squared_left(
    contrast: Contrast, metric: Metric, directions: Floats, *, own_items: bool
) -> tuple[Floats, Floats]:
    """Squared Mahalanobis length of a contrast without the first r directions, r = 0 .. R, and its noise.

    Parameters
    ----------
    contrast, metric, directions, own_items
        As for `label_share`.

    Returns
    -------
    left, noise : ndarray of shape (R + 1,)
        The noise is what was taken off the raw length; both in units of the metric.
    """
    weights, deviations = _sample(contrast)
    basis = qr(metric.whiten(directions), mode="economic", check_finite=False)[0]
    means = metric.whiten(contrast.vectors.T)
    items = metric.whiten(deviations.T)
    gone_means = _from_zero(((basis.T @ means) ** 2).sum(axis=1))
    norms = (items**2).sum(axis=0) - _from_zero((basis.T @ items) ** 2)
    if own_items:
        norms = norms / np.clip(1.0 - metric.weight * norms, 0.05, None)
    noise = norms @ weights
    return float((means**2).sum()) - gone_means - noise, noise


def _sample(contrast: Contrast) -> tuple[Floats, Floats]:
    """Weights and deviations of enough items to measure the noise: every m-th in order of weight."""
    weights = contrast.weights
    step = -(-len(weights) // _NOISE_ITEMS)
    if step < 2:
        return weights, contrast.deviations
    chosen = np.argsort(weights, kind="stable")[::-step]
    return weights[chosen] * (weights.sum() / weights[chosen].sum()), contrast.deviations[chosen]


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
