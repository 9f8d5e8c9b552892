"""The trade-off rows of a pair set, and the r that they recommend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

from cfpairs.quality.contrasts import Contrast, environment_contrast, label_contrast, pair_contrast
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.labels import LabelKept, label_kept
from cfpairs.quality.metric import LABEL_SHRINKAGE, Metric, within_groups
from cfpairs.quality.result import TradeoffRow
from cfpairs.quality.rows import rows_of
from cfpairs.quality.tradeoff import label_share, shift_share, variance_share

__all__ = ["MAX_R", "LabelCheck", "by_chance", "check_labels", "recommend", "tradeoff_rows"]

Floats = NDArray[np.float64]

MAX_R = 64
_TOLERANCE = 0.02  # of the score: the smaller r wins where curves are flat


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


def check_labels(inputs: Inputs, directions: Floats, metric: Metric | None) -> LabelCheck:
    """Compare the pairs with the labels of the training items.

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
    reference = kept = None
    if env is not None and free.size:
        reference = label_contrast(X[free], y[free], env[free])
        if reference is not None:
            kept = _kept(inputs, free, reference, metric)
    joins_items = float(((rows_a >= 0) & (rows_b >= 0)).mean()) > 0.5 if len(a) else False
    share = None
    if joins_items and reference is not None:
        share = label_share(reference, metric, directions, own_items=True)
    if share is None and inputs.labels is not None and (kept is None or kept.changed < 0.5):
        contrast = label_contrast(
            (a + b) / 2.0, inputs.labels, inputs.routes, clusters=inputs.clusters, least=1
        )
        if contrast is not None:
            share = label_share(contrast, metric, directions, own_items=False)
    if share is None and reference is not None:
        share = label_share(reference, metric, directions, own_items=True)
    return LabelCheck(share, kept)


def _kept(inputs: Inputs, free: NDArray[np.int64], reference: Contrast, metric: Metric) -> LabelKept | None:
    """Whether pairs between environments keep their label, judged by the training items that no pair uses."""
    X, y, env = inputs.X, inputs.y, inputs.env
    if X is None or y is None or env is None or inputs.a is None or inputs.labels is None:
        return None
    names = np.unique(y[free])
    used = np.isin(inputs.labels, names)
    if inputs.env_a is not None and inputs.env_b is not None:
        used &= inputs.env_a != inputs.env_b
    if not used.any():
        return None
    middles = inputs.a[used] - inputs.D[used] / 2.0
    environment = environment_contrast(X[free], y[free], env[free])
    return label_kept(middles, inputs.labels[used], reference, names, environment, metric)


def tradeoff_rows(inputs: Inputs, directions: Floats, check: LabelCheck) -> tuple[TradeoffRow, ...]:
    """One row for each r; empty without training items.

    Parameters
    ----------
    inputs : Inputs
    directions : ndarray of shape (d, R)
        Of the differences as the probe uses them.
    check : LabelCheck
    """
    if inputs.X is None or directions.shape[1] == 0:
        return ()
    X, y, env = inputs.X, inputs.y, inputs.env
    environment = label = None
    if y is not None and env is not None:
        contrast = environment_contrast(X, y, env)
        if contrast is None and inputs.env_a is not None and inputs.env_b is not None:
            contrast = pair_contrast(inputs.D, inputs.kinds, inputs.env_a, inputs.env_b, inputs.clusters)
        environment = None if contrast is None else shift_share(contrast, directions)
    if y is not None:
        contrast, scatter = label_contrast(X, y), within_groups(X, y)
        if contrast is not None and scatter is not None:
            label = label_share(contrast, scatter.metric(LABEL_SHRINKAGE), directions, own_items=True)
    variance = variance_share(X, directions)
    return tuple(
        TradeoffRow(r + 1, _at(environment, r), _at(label, r), _at(check.deconfounded, r), float(variance[r]))
        for r in range(directions.shape[1])
    )


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


def recommend(rows: tuple[TradeoffRow, ...], rank: int) -> int | None:
    """Number of directions that takes most of the environment for least of the label.

    The score of r is the share of the environment that goes times the share of the label that stays; the
    smallest r within .02 of the best, and not over the rank, is recommended.

    Returns
    -------
    int or None
        None where the environment's share is not known.
    """
    scores = []
    for row in rows[: max(rank, 1)]:
        if row.environment_removed is None:
            return None
        scores.append(row.environment_removed * (1.0 - (row.label_removed_deconfounded or 0.0)))
    if not scores:
        return None
    best = max(scores)
    return next(i + 1 for i, score in enumerate(scores) if score >= best - _TOLERANCE)
