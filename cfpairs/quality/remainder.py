"""What is left of the environment beside the label, once the first r directions are gone.

Removing 97 % of a shift sounds like enough, but where the shift is ten times as long as the label's, the
rest is still longer than the label. A probe that is trained on what is left reads both. With m half the
difference of the labels, s half that of the environments, both in units of the variation within groups, and
c how strongly the two go together in training, the discriminant is ``m + c s``, and items on which label
and environment disagree lie ``(|m|^2 - c |s|^2) / sqrt(|m|^2 + c^2 |s|^2)`` standard deviations on the
right side. That score ranks numbers of directions, and pair sets, as the accuracy of the worst group does.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.contrasts import environment_contrast, label_contrast, pair_contrast
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.metric import Metric
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.tradeoff import squared_left

__all__ = ["Remainder", "confounding", "measure_remainder"]

Floats = NDArray[np.float64]

_FOLDS, _REPEATS = 5, 2


@dataclass(frozen=True)
class Remainder:
    """Squared half distances in units of the variation within groups.

    Attributes
    ----------
    environment, label : ndarray of shape (R,)
        With the first r = 1 .. R directions gone.
    confounding : float
        How strongly label and environment go together in the training items, 0 to 1.
    """

    environment: Floats
    label: Floats
    confounding: float

    @property
    def ratio(self) -> Floats:
        """Distance of the environments over that of the labels."""
        return np.sqrt(self.environment / self.label)

    @property
    def score(self) -> Floats:
        """Standard deviations by which items of the rare groups lie on the right side."""
        c = self.confounding
        spread = np.sqrt(self.label + c**2 * self.environment)
        return np.asarray((self.label - c * self.environment) / spread)


def confounding(y: NDArray[np.integer], env: NDArray[np.integer]) -> float:
    """Cramer's V of label and environment: 0 if independent, 1 if one tells the other.

    Examples
    --------
    >>> confounding(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7]))
    1.0
    """
    rows, columns = np.unique(y, return_inverse=True)[1], np.unique(env, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1.0)
    if min(table.shape) < 2:
        return 0.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    squared = float(((table - expected) ** 2 / expected).sum()) / table.sum()
    return float(np.sqrt(squared / (min(table.shape) - 1)))


def measure_remainder(
    inputs: Inputs,
    metric: Metric | None,
    label_lost: Floats | None,
    max_r: int,
    rng: np.random.Generator,
    *,
    directions: Floats | None = None,
) -> Remainder | None:
    """Measure what is left, the environment on pairs that the directions were not found from, and on items.

    Of the two the larger counts: items that are in the pairs make it look small, pairs that miss the
    environment too.

    Parameters
    ----------
    inputs : Inputs
    metric : Metric or None
        Within label and environment.
    label_lost : ndarray of shape (max_r,) or None
        Share of the label's squared distance that goes, shortcut set aside.
    max_r : int
    rng : numpy.random.Generator
    directions : ndarray of shape (d, max_r), optional
        Of so many pairs that none of `inputs` matters for them; by default found by folds of the pairs.

    Returns
    -------
    Remainder or None
        None without labels and environments of items, where the labels are not separated, or where the
        environments cannot be measured: no group of items occurs in two, and there are fewer than ten
        clusters of pairs between them.
    """
    if metric is None or max_r < 1 or inputs.y is None or inputs.env is None:
        return None
    label = _label(inputs, metric)
    environment = _environment(inputs, metric, max_r, rng, directions)
    seen = [left for left in (environment, _on_items(inputs, metric, max_r, directions)) if left is not None]
    if label is None or not seen:
        return None
    environment = np.clip(np.max(seen, axis=0), 0.0, None)
    kept = np.ones(max_r) if label_lost is None else 1.0 - label_lost[:max_r]
    return Remainder(environment, label * np.clip(kept, 0.05, 1.0), confounding(inputs.y, inputs.env))


def _label(inputs: Inputs, metric: Metric) -> float | None:
    """Squared half distance of two labels, averaged over pairs of labels."""
    if inputs.X is None or inputs.y is None or inputs.env is None:
        return None
    contrast = label_contrast(inputs.X, inputs.y, inputs.env)
    if contrast is None and inputs.a is not None and inputs.labels is not None:
        middles = inputs.a - inputs.D / 2.0
        contrast = label_contrast(middles, inputs.labels, inputs.routes, clusters=inputs.clusters, least=1)
    if contrast is None:
        return None
    left, noise = squared_left(contrast, metric, np.zeros((inputs.D.shape[1], 0)), own_items=False)
    if left[0] <= 2.0 * noise[0] * np.sqrt(2.0 / inputs.D.shape[1]):
        return None
    return float(left[0]) / (2.0 * (len(contrast.vectors) - 1))


def _environment(
    inputs: Inputs, metric: Metric, max_r: int, rng: np.random.Generator, known: Floats | None
) -> Floats | None:
    """Squared half distance of two environments, averaged over folds of the pairs."""
    if inputs.env_a is None or inputs.env_b is None:
        return None
    if known is not None:
        return _left_on(inputs, np.ones(len(inputs.D), dtype=np.bool_), metric, max_r, known)
    clusters = by_appearance(inputs.clusters)
    count = int(clusters.max(initial=-1)) + 1
    if count < 2 * _FOLDS:
        return None
    found = []
    for _ in range(_REPEATS):
        fold_of = (rng.permutation(count) % _FOLDS)[clusters]
        for fold in range(_FOLDS):
            left = _left_on(inputs, fold_of == fold, metric, max_r, None)
            if left is not None:
                found.append(left)
    return np.clip(np.mean(found, axis=0), 0.0, None) if found else None


def _on_items(inputs: Inputs, metric: Metric, max_r: int, known: Floats | None) -> Floats | None:
    """The same in the training items: a shift that the pairs do not show at all is seen here only."""
    if inputs.X is None or inputs.y is None or inputs.env is None:
        return None
    contrast = environment_contrast(inputs.X, inputs.y, inputs.env)
    if contrast is None:
        return None
    directions = spectrum(inputs.D).top(max_r) if known is None else known
    left, _ = squared_left(contrast, metric, directions, own_items=True)
    return np.asarray(left[1:] / 4.0)


def _left_on(
    inputs: Inputs, own: NDArray[np.bool_], metric: Metric, max_r: int, directions: Floats | None
) -> Floats | None:
    """Squared half distance of the environments in some pairs, by the directions of the others."""
    if inputs.env_a is None or inputs.env_b is None:
        return None
    contrast = pair_contrast(
        inputs.D[own], inputs.kinds[own], inputs.env_a[own], inputs.env_b[own], inputs.clusters[own]
    )
    if directions is None:
        directions = spectrum(inputs.D[~own]).top(max_r)
    if contrast is None or directions.shape[1] == 0:
        return None
    left, _ = squared_left(contrast, metric, directions, own_items=False)
    return np.asarray(np.pad(left[1:], (0, max_r - directions.shape[1]), mode="edge") / 4.0)
