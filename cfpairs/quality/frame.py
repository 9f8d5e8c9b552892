"""What pairs are held against: the items' metrics and contrasts, reckoned once for any part of the pairs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.contrasts import Contrast, environment_contrast, label_contrast
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.measure import Yardstick, yardsticks
from cfpairs.quality.metric import LABEL_SHRINKAGE, SPECTRUM_SHRINKAGE, Metric, within_groups
from cfpairs.quality.tradeoff import label_share

__all__ = ["Frame", "frame_of"]

Floats = NDArray[np.float64]


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


def frame_of(inputs: Inputs, n_pairs: int) -> Frame:
    """Reckon it for `n_pairs` pairs."""
    X, y, env, d = inputs.X, inputs.y, inputs.env, inputs.D.shape[1]
    if X is None or y is None:
        return Frame(yardsticks(None, inputs.control, n_pairs, d), None, None, None, None)
    groups = within_groups(X, y, env)
    within = within_groups(X, y)
    return Frame(
        choices=yardsticks(
            None if groups is None else groups.metric(SPECTRUM_SHRINKAGE), inputs.control, n_pairs, d
        ),
        label_metric=None if groups is None else groups.metric(LABEL_SHRINKAGE),
        plain_metric=None if within is None else within.metric(LABEL_SHRINKAGE),
        environments=None if env is None else environment_contrast(X, y, env),
        labels=label_contrast(X, y),
    )
