"""What pairs are held against: the items' metrics and contrasts, reckoned once for any part of the pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from cfpairs.quality.contrasts import Contrast, environment_contrast, label_contrast
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.interval import wishart
from cfpairs.quality.measure import Yardstick, yardsticks
from cfpairs.quality.metric import LABEL_SHRINKAGE, SPECTRUM_SHRINKAGE, Metric, Scatter, within_groups
from cfpairs.quality.noise import edge
from cfpairs.quality.rank import gram_norm, winsorize
from cfpairs.quality.streaming import spread_edge
from cfpairs.quality.tradeoff import label_share

__all__ = ["Frame", "frame_of", "learned_widening"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

_LEAST_ASIDE = 12


@dataclass(frozen=True)
class Frame:
    """Metrics and contrasts of the items; None where the items do not give them.

    Attributes
    ----------
    choices : dict of str to Yardstick
        Metrics that the spectrum may be measured in.
    label_metric : Metric or None
        Within label and environment.
    plain_metric : Metric or None
        Within labels.
    environments, labels : Contrast or None
    """

    choices: dict[str, Yardstick]
    label_metric: Metric | None
    plain_metric: Metric | None
    environments: Contrast | None
    labels: Contrast | None

    def label_removed(self, directions: Floats) -> Floats | None:
        """Share of the labels' separation in the items, shortcut included, that goes with r directions."""
        if self.labels is None or self.plain_metric is None:
            return None
        return label_share(self.labels, self.plain_metric, directions, own_items=True)


def frame_of(inputs: Inputs, n_pairs: int, seed: int) -> Frame:
    """Reckon it for `n_pairs` pairs."""
    X, y, env, d = inputs.X, inputs.y, inputs.env, inputs.D.shape[1]
    if X is None or y is None:
        return Frame(yardsticks(None, inputs.control, n_pairs, d), None, None, None, None)
    groups = within_groups(X, y, env)
    within = within_groups(X, y)
    return Frame(
        choices=yardsticks(
            None if groups is None else groups.metric(SPECTRUM_SHRINKAGE),
            inputs.control,
            n_pairs,
            d,
            1.0
            if groups is None or n_pairs < 3
            else max(
                _widening(X, y, env, n_pairs, np.random.default_rng([seed, 13])),
                learned_widening(groups, n_pairs, np.random.default_rng([seed, 15])),
            ),
        ),
        label_metric=None if groups is None else groups.metric(LABEL_SHRINKAGE),
        plain_metric=None if within is None else within.metric(LABEL_SHRINKAGE),
        environments=None if env is None else environment_contrast(X, y, env),
        labels=label_contrast(X, y),
    )


def learned_widening(groups: Scatter, k: int, rng: np.random.Generator) -> float:
    """How far the noise of k pairs passes its edge in a metric that was learned from the items.

    The metric's own errors make noise uneven in it: by a factor that many pairs show plainly, and few items
    that are set aside do not. So items that vary by the shrunk covariance are drawn, a metric is learned from
    them as from the real ones, and the edge is that of noise with the covariance which is left in it.
    """
    d = len(groups.covariance)
    drawn, root = groups.redrawn(wishart(d, groups.freedom, rng))
    metric = drawn.metric(SPECTRUM_SHRINKAGE)
    left = solve_triangular(metric.factor, root, lower=True, check_finite=False)
    variances = np.linalg.eigvalsh(left @ left.T)
    variances = np.clip(variances / variances.mean(), 0.0, None)
    return max(1.0, float(np.sqrt(spread_edge(variances, k)) / (1.0 + np.sqrt(d / k))))


def _widening(X: Floats, y: Codes, env: Codes | None, n_pairs: int, rng: np.random.Generator) -> float:
    """How far differences of items of one group pass the edge of noise in a metric of other items.

    A metric learned from few items is noise itself, and spreads what it has not seen (the F edge; Leeb and
    Romanov 2021). Shrunk as it is, no formula tells by how much: items that are set aside do.
    """
    codes = y
    if env is not None:
        codes = np.unique(np.stack([y, env], axis=1), axis=0, return_inverse=True)[1].ravel()
    order = rng.permutation(len(X))
    order = order[np.argsort(codes[order], kind="stable")]
    half = len(order) // 2
    first, second = order[: 2 * half : 2], order[1 : 2 * half : 2]
    same = np.flatnonzero(codes[first] == codes[second])
    m = min(n_pairs, len(X) // 8, len(same))
    if m < _LEAST_ASIDE:
        return 1.0
    chosen = rng.permutation(same)[:m]
    rest = np.setdiff1d(np.arange(len(X)), np.concatenate([first[chosen], second[chosen]]))
    others = within_groups(X[rest], y[rest], None if env is None else env[rest])
    if others is None:
        return 1.0
    aside = others.metric(SPECTRUM_SHRINKAGE).whiten((X[first[chosen]] - X[second[chosen]]).T).T
    sigma = float(np.sqrt((aside**2).mean()))
    if sigma <= 0.0:
        return 1.0
    return max(1.0, float(np.sqrt(gram_norm(winsorize(aside / sigma)))) / edge(*aside.shape))
