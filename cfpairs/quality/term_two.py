"""What a probe still reads of the change that the pairs show, after the removal.

The bound on the risk under a new environment has two terms: the risk on the environments seen, and the mean
squared change of the logit over a counterfactual pair by what is not noise. The second is measured here on
pairs that the probe's directions did not see. It speaks of shifts that resemble the pairs; a larger shift in
use multiplies it by the square of its size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfpairs.errors import DataError
from cfpairs.quality.measure import Measured
from cfpairs.quality.moments import FOLDS, PairMoments
from cfpairs.quality.result import TermTwo
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.streaming import top_directions

__all__ = ["Probe", "probe_rows", "term_two", "term_two_of_moments"]

Floats = NDArray[np.float64]

Probe = ArrayLike | Callable[[Floats], ArrayLike]
"""Weights of an NCM probe (C, d), or a function from directions (d, r) to weights of a probe without them."""

_FOLDS = 5


def probe_rows(probe: Probe, directions: Floats) -> Floats:
    """Weights (C, d) of the probe that does without the directions, or of the given one.

    Raises
    ------
    DataError
        If they are not finite numbers or have another dimension.
    """
    given = probe(directions) if callable(probe) else probe
    weights = np.atleast_2d(np.asarray(given, dtype=np.float64))
    if weights.ndim != 2 or weights.shape[1] != len(directions) or not np.isfinite(weights).all():
        raise DataError(
            "the probe's weights do not fit the pair differences",
            got=f"shape {weights.shape}",
            expected=f"finite numbers of shape (classes, {len(directions)})",
        )
    return weights


def _differences(weights: Floats) -> Floats:
    """Rows T with ``|T x|^2`` the mean squared difference of two classes' logits, over pairs of classes."""
    if len(weights) == 1:
        return weights
    return np.asarray((weights - weights.mean(axis=0)) * np.sqrt(2.0 / (len(weights) - 1.0)))


def term_two(
    D: Floats,
    clusters: NDArray[np.integer],
    probe: Probe,
    r: int,
    measured: Measured,
    rng: np.random.Generator,
    shift: float = 1.0,
) -> TermTwo | None:
    """Estimate it over five folds of pairs; a probe that is given as weights cannot be fitted again.

    Parameters
    ----------
    D : ndarray of shape (k, d)
    clusters : ndarray of shape (k,)
        Pairs of one cluster are held out together.
    probe : callable or array-like
    r : int
        Directions that the probe does without.
    measured : Measured
        Tells the noise, which changes the logit too and is taken off.
    rng : numpy.random.Generator
    shift : float
        Size of the shift in use, in shifts of the pairs.

    Returns
    -------
    TermTwo or None
        None with fewer than ten clusters of pairs, or where the noise is not known.
    """
    codes = by_appearance(clusters)
    count = int(codes.max(initial=-1)) + 1
    if count < 2 * _FOLDS or measured.sigma is None:
        return None
    whole = spectrum(D)
    full = _differences(probe_rows(probe, whole.top(r)))
    if not callable(probe):
        return _summary(
            ((D @ full.T) ** 2).sum(axis=1) - _noise(full, measured), full, measured, shift, held_out=False
        )
    fold_of = (rng.permutation(count) % _FOLDS)[codes]
    changes = np.zeros(len(D))
    for fold in range(_FOLDS):
        own = fold_of == fold
        theta = _differences(probe_rows(probe, spectrum(D[~own]).top(r)))
        changes[own] = ((D[own] @ theta.T) ** 2).sum(axis=1) - _noise(theta, measured)
    return _summary(changes, full, measured, shift, held_out=True)


def term_two_of_moments(
    moments: PairMoments, probe: Probe, r: int, measured: Measured, shift: float = 1.0
) -> TermTwo | None:
    """The same from sums over the pairs; each sixth of them is held out in turn."""
    if measured.sigma is None or moments.n_pairs < 2 * FOLDS:
        return None
    full = _differences(probe_rows(probe, top_directions(moments.gram(), r)))
    changes = []
    filled = [fold for fold in range(FOLDS) if moments.count([fold])]  # few sources fill few folds
    if len(filled) < 2:
        return None
    for fold in filled:
        theta = full
        if callable(probe):
            others = [other for other in filled if other != fold]
            theta = _differences(probe_rows(probe, top_directions(moments.gram(others), r)))
        mean = np.einsum("ij,jk,ik->", theta, moments.gram([fold]), theta) / moments.count([fold])
        changes.append(mean - _noise(theta, measured))
    return _summary(np.array(changes), full, measured, shift, held_out=callable(probe))


def _noise(theta: Floats, measured: Measured) -> float:
    """What the noise of a difference adds to the mean squared change."""
    return (measured.sigma or 0.0) ** 2 * _size(theta, measured) ** 2


def _size(theta: Floats, measured: Measured) -> float:
    """Length of the weights in the metric that the noise was measured in."""
    metric = measured.yardstick.metric
    return float(np.linalg.norm(theta if metric is None else theta @ metric.factor))


def _summary(changes: Floats, theta: Floats, measured: Measured, shift: float, *, held_out: bool) -> TermTwo:
    model = None
    if measured.sigma and np.isfinite(measured.strengths).all():
        missed = float((measured.strengths * (1.0 - measured.by_model**2)).sum())
        model = (_size(theta, measured) * measured.sigma) ** 2 * missed
    value = max(0.0, float(changes.mean()))
    return TermTwo(
        value=value,
        error=float(changes.std(ddof=1) / np.sqrt(len(changes))),
        model=model,
        norm=float(np.linalg.norm(theta)),
        held_out=held_out,
        shift=shift,
        in_use=shift**2 * value,
    )
