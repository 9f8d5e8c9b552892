"""The trade-off rows of a pair set, and the r that they recommend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from cfpairs.quality.contrasts import environment_contrast, label_contrast, pair_contrast
from cfpairs.quality.frame import Frame
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.labels import LabelKept, combine, label_position
from cfpairs.quality.metric import Metric
from cfpairs.quality.remainder import Remainder
from cfpairs.quality.result import TradeoffRow
from cfpairs.quality.rows import by_appearance, rows_of
from cfpairs.quality.tradeoff import label_share, shift_share, variance_share

__all__ = [
    "MAX_R",
    "LabelCheck",
    "by_chance",
    "check_labels",
    "core",
    "environment_share",
    "recommend",
    "tradeoff_rows",
]

Floats = NDArray[np.float64]

MAX_R = 64
_FOLDS = 4
_CORE_TOLERANCE, _SCORE_TOLERANCE = 0.02, 0.05  # the smaller r wins where curves are flat


@dataclass(frozen=True)
class LabelCheck:
    """What the labels say about the pairs.

    Attributes
    ----------
    deconfounded : ndarray of shape (R,) or None
        Share of the label's separation, free of the shortcut, that the first r directions hold.
    kept : LabelKept or None
        Whether the pairs keep their label.
    """

    deconfounded: Floats | None
    kept: LabelKept | None


def check_labels(
    inputs: Inputs, directions: Floats, metric: Metric | None, *, kept: bool = True
) -> LabelCheck:
    """Compare the pairs with the labels of the training items.

    Without `kept`, whether the pairs keep their label is taken for granted.

    The label's separation is taken between the middles of the pairs, where each label stands in both
    environments (between the same two environments, where there are more). The errors of middles and of
    differences are independent, so that nothing leaks from one into the other. Pairs that join training
    items were often chosen for being alike, which bends their middles; for these, and where the pairs
    cannot tell, it is taken between training items that no pair uses.
    """
    X, y, env, a, b = inputs.X, inputs.y, inputs.env, inputs.a, inputs.b
    if X is None or y is None or a is None or b is None or metric is None:
        return LabelCheck(None, None)
    rows_a, rows_b = rows_of(a, X), rows_of(b, X)
    free = np.setdiff1d(np.arange(len(X)), np.concatenate([rows_a, rows_b]))
    reference = label_contrast(X[free], y[free], env[free]) if env is not None and free.size else None
    found = _kept(inputs, metric) if kept else None
    joins_items = float(((rows_a >= 0) & (rows_b >= 0)).mean()) > 0.5 if len(a) else False
    share = None
    if joins_items and reference is not None:
        share = label_share(reference, metric, directions, own_items=True)
    if share is None and inputs.labels is not None and (found is None or found.changed < 0.5):
        contrast = label_contrast(
            (a + b) / 2.0, inputs.labels, inputs.routes, clusters=inputs.clusters, least=1
        )
        if contrast is not None:
            share = label_share(contrast, metric, directions, own_items=False)
    if share is None and reference is not None:
        share = label_share(reference, metric, directions, own_items=True)
    return LabelCheck(share, found)


def _kept(inputs: Inputs, metric: Metric) -> LabelKept | None:
    """Whether pairs between environments keep their label, judged by items that these pairs do not use.

    The pairs are taken in folds, so that a rare group whose every item is in some pair can still be a
    measure for the pairs of the other folds.
    """
    X, y, env, a, labels = inputs.X, inputs.y, inputs.env, inputs.a, inputs.labels
    if X is None or y is None or env is None or a is None or labels is None:
        return None
    used = np.isin(labels, np.unique(y))
    if inputs.env_a is not None and inputs.env_b is not None:
        used &= inputs.env_a != inputs.env_b
    items, middles = metric.whiten(X.T).T, metric.whiten((a - inputs.D / 2.0).T).T
    ends = np.stack([rows_of(a, X), rows_of(a - inputs.D, X)])
    fold_of = by_appearance(inputs.clusters) % _FOLDS
    found = []
    for fold in range(_FOLDS):
        own = used & (fold_of == fold)
        free = np.setdiff1d(np.arange(len(X)), ends[:, own])
        reference = label_contrast(items[free], y[free], env[free])
        environment = environment_contrast(items[free], y[free], env[free])
        if own.any() and reference is not None:
            found.append(
                label_position(
                    middles[own], labels[own], reference, np.unique(y[free]), environment, metric.weight
                )
            )
    return combine([position for position in found if position is not None])


def tradeoff_rows(
    inputs: Inputs, frame: Frame, directions: Floats, check: LabelCheck, left: Remainder | None = None
) -> tuple[TradeoffRow, ...]:
    """One row for each r; empty without training items.

    Parameters
    ----------
    inputs : Inputs
    frame : Frame
    directions : ndarray of shape (d, R)
        Of the differences as the probe uses them.
    check : LabelCheck
    left : Remainder, optional
    """
    if inputs.X is None or directions.shape[1] == 0:
        return ()
    environment = environment_share(inputs, frame, directions)
    label = frame.label_removed(directions)
    variance = variance_share(inputs.X, directions)
    return tuple(
        TradeoffRow(
            r + 1,
            _at(environment, r),
            _at(label, r),
            _at(check.deconfounded, r),
            float(variance[r]),
            None if left is None else _at(left.ratio, r),
        )
        for r in range(directions.shape[1])
    )


def environment_share(inputs: Inputs, frame: Frame, directions: Floats) -> Floats | None:
    """Share of the environments' distance that goes with r directions; of pairs where items are silent."""
    if inputs.y is None or inputs.env is None:
        return None
    contrast = frame.environments
    if contrast is None and inputs.env_a is not None and inputs.env_b is not None:
        contrast = pair_contrast(inputs.D, inputs.kinds, inputs.env_a, inputs.env_b, inputs.clusters)
    return None if contrast is None else shift_share(contrast, directions)


def _at(curve: Floats | None, index: int) -> float | None:
    return None if curve is None else float(curve[index])


def by_chance(r: int, dim: int) -> float:
    """Label share that `r` random directions hold once in a hundred times: a Beta(r/2, (d-r)/2) quantile.

    Examples
    --------
    >>> round(by_chance(16, 768), 3)
    0.041
    """
    return 1.0 if r >= dim else float(beta.ppf(0.99, r / 2.0, (dim - r) / 2.0))


def core(rows: tuple[TradeoffRow, ...], rank: int) -> int | None:
    """Number of directions that hold the environment's shift.

    It is the smallest r whose share of the environment that goes, times the share of the label that stays,
    is within .02 of the best.

    Returns
    -------
    int or None
        None where the environment's share is not known.
    """
    top = rows[: max(rank, 1)]
    if not top or any(row.environment_removed is None for row in top):
        return None
    products = [
        (row.environment_removed or 0.0) * (1.0 - (row.label_removed_deconfounded or 0.0)) for row in top
    ]
    return _first(np.array(products), _CORE_TOLERANCE)


def recommend(left: Remainder, rank: int) -> int:
    """Number of directions that serves the rare groups best, and not over the rank.

    It is the smallest r whose score (`Remainder.score`: how far items of the rare groups lie on the right
    side) is within .05 of the best.
    """
    return _first(left.score[: max(rank, 1)], _SCORE_TOLERANCE)


def _first(scores: Floats, tolerance: float) -> int:
    return int(np.argmax(scores >= scores.max() - tolerance)) + 1
