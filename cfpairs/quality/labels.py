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

__all__ = ["LabelKept", "Position", "combine", "label_position"]

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


@dataclass(frozen=True)
class Position:
    """Where some pairs lie between the labels.

    Attributes
    ----------
    kept : float
        Sum over the pairs of their position: 1 where their label's items lie, 0 halfway to the others.
    variance : float
        Of that sum.
    pairs : int
    doubt : float
        Relative standard error of the distance between labels that the position is measured by.
    """

    kept: float
    variance: float
    pairs: int
    doubt: float


def label_position(
    middles: Floats,
    labels: NDArray[np.integer],
    reference: Contrast,
    names: NDArray[np.integer],
    environment: Contrast | None,
    own_weight: float,
) -> Position | None:
    """Position of the pairs' middles between the labels' items, all in whitened coordinates.

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
        Directions to leave out: pairs and items may be differently mixed over environments.
    own_weight : float
        Weight of an item of the reference in the covariance that whitened it.

    Returns
    -------
    Position or None
        None where the items do not separate the labels well enough, or all pairs have one label.
    """
    index = np.searchsorted(names, labels)
    if len(np.unique(index)) < 2:
        return None
    means, items, points = reference.vectors, reference.deviations, middles
    if environment is not None:
        basis = qr(environment.vectors.T, mode="economic", check_finite=False)[0]
        means, items, points = (rows - (rows @ basis) @ basis.T for rows in (means, items, points))
    squares = (items**2).sum(axis=1)
    noise = float(reference.weights @ (squares / np.clip(1.0 - own_weight * squares, 0.05, None)))
    signal = float((means**2).sum()) - noise
    doubt = np.sqrt(2.0 / middles.shape[1]) * noise  # of a sum of d squares about its mean
    if signal <= 2.0 * doubt:
        return None
    scores = points @ means.T
    centre = np.mean([scores[index == i].mean(axis=0) for i in np.unique(index)], axis=0)
    own = (scores - centre)[np.arange(len(index)), index] * len(means) / signal
    # One label may have most of the pairs: each label counts the same.
    groups = [own[index == i] for i in np.unique(index)]
    share = len(own) / len(groups)
    return Position(
        kept=float(sum(group.mean() for group in groups) * share),
        variance=float(sum(group.var() / len(group) for group in groups) * share**2),
        pairs=len(own),
        doubt=float(doubt / signal),
    )


def combine(positions: list[Position]) -> LabelKept | None:
    """Average over all pairs; None of no position."""
    pairs = sum(position.pairs for position in positions)
    if pairs == 0:
        return None
    kept = sum(position.kept for position in positions) / pairs
    sampling = sum(position.variance for position in positions) / pairs**2
    doubt = max(position.doubt for position in positions)
    return LabelKept(changed=1.0 - kept, error=float(np.hypot(np.sqrt(sampling), kept * doubt)))
