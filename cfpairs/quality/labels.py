"""Whether the pairs keep their label.

A pair set that changes the label looks like any other in its spectrum: its first direction is still the
environment. Only labels tell. If both sides of a pair carry its label, the middle of the pair lies where
that label's items lie; if one side carries another label, it lies halfway. The position of the middles
along the label direction, found in items that the pairs do not use, measures which. Swapping the sides of a
pair changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import qr

from cfpairs.quality.contrasts import Contrast
from cfpairs.quality.metric import Metric

__all__ = ["LabelKept", "label_kept"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelKept:
    """How far the pairs keep their label.

    Attributes
    ----------
    changed : float
        0: the middles of the pairs lie where their label's items do; 1: halfway to the other labels, as
        when one side of every pair carries another label.
    error : float
        Standard error of `changed`.
    """

    changed: float
    error: float


def label_kept(
    middles: Floats,
    labels: NDArray[np.integer],
    reference: Contrast,
    names: NDArray[np.integer],
    environment: Contrast | None,
    metric: Metric,
) -> LabelKept | None:
    """Position of the pairs' middles between the labels' items.

    Parameters
    ----------
    middles : ndarray of shape (k, d)
        ``(a + b) / 2`` of every pair.
    labels : ndarray of shape (k,)
        Label of each pair, one of `names`.
    reference : Contrast
        From `label_contrast` with environments; one row a label, in the order of `names`.
    names : ndarray of shape (C,)
    environment : Contrast or None
        Directions to leave out of the comparison: pairs and items may be differently mixed over environments.
    metric : Metric

    Returns
    -------
    LabelKept or None
        None where the items do not separate the labels well enough to tell.
    """
    present = [c for c in names if (labels == c).sum() > 1]
    if len(present) < 2:
        return None
    index = np.searchsorted(names, labels)
    white = metric.whiten(np.concatenate([middles, reference.vectors, reference.deviations]).T).T
    if environment is not None:
        basis = qr(metric.whiten(environment.vectors.T), mode="economic", check_finite=False)[0]
        white = white - (white @ basis) @ basis.T
    k, c = len(middles), len(reference.vectors)
    points, means, items = white[:k], white[k : k + c], white[k + c :]
    squares = (items**2).sum(axis=1)
    noise = float(reference.weights @ (squares / np.clip(1.0 - metric.weight * squares, 0.05, None)))
    signal = float((means**2).sum()) - noise
    doubt = np.sqrt(2.0 / metric.factor.shape[0]) * noise  # of a sum of d squares about its mean
    if signal <= 2.0 * doubt:
        return None
    own = (points @ means.T)[np.arange(k), index]
    scores = own - (means @ points.mean(axis=0))[index]
    seen = np.unique(index)
    kept = float(np.mean([scores[index == i].mean() for i in seen])) * c / signal
    spread = np.sum([scores[index == i].var() / (index == i).sum() for i in seen])
    error = np.hypot(np.sqrt(spread) / len(seen) * c / signal, kept * doubt / signal)
    return LabelKept(changed=1.0 - kept, error=float(error))
