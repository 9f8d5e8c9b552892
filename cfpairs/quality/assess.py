"""Assess a set of counterfactual pairs: the one function that calls all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from cfpairs.quality import flags
from cfpairs.quality.coverage import cell_rows
from cfpairs.quality.curves import MAX_R, check_labels, core, recommend, tradeoff_rows
from cfpairs.quality.evidence import Evidence
from cfpairs.quality.forecast import forecast_rows
from cfpairs.quality.inputs import Inputs, check_inputs
from cfpairs.quality.measure import Measured, measure
from cfpairs.quality.metric import LABEL_SHRINKAGE, SPECTRUM_SHRINKAGE, within_groups
from cfpairs.quality.partners import Partners, compare_partners, wrong_matches
from cfpairs.quality.reliability import HalfSplitter, artefact, cosines, distance
from cfpairs.quality.remainder import measure_remainder
from cfpairs.quality.result import PairQuality, TradeoffRow
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.verdict import judge

__all__ = ["assess_pairs"]

Floats = NDArray[np.float64]


def assess_pairs(
    D: ArrayLike,
    X: ArrayLike | None = None,
    y: ArrayLike | None = None,
    env: ArrayLike | None = None,
    *,
    a: ArrayLike | None = None,
    pair_labels: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    pair_ids: Sequence[object] | None = None,
    pair_envs: ArrayLike | tuple[ArrayLike, ArrayLike] | None = None,
    control: ArrayLike | None = None,
    probe: ArrayLike | None = None,
    seed: int = 0,
) -> PairQuality:
    """Measure how good counterfactual pairs are and how many directions to remove.

    Everything but `D` is optional; what cannot be measured without it is None or empty, and the advice says
    so.

    Parameters
    ----------
    D : array-like of shape (k, d)
        Differences a - b of the pairs, after the preprocessing that the probe uses; never centred.
    X : array-like of shape (n, d), optional
        Training items, preprocessed alike.
    y, env : array-like of shape (n,), optional
        Their labels and environments.
    a : array-like of shape (k, d), optional
        The a sides of the pairs, so that ``b = a - D``. Needed to tell the label from the shortcut.
    pair_labels : array-like of shape (k,), optional
        Label of each pair, coded as `y`.
    clusters : array-like of shape (k,), optional
        Pairs of equal value share a source and are never split.
    pair_ids : sequence of length k, optional
        Names for the flags; by default the row numbers.
    pair_envs : tuple of two array-like of shape (k,), or array-like of shape (k, 2), optional
        Environments of the a and of the b side, coded as `env`.
    control : array-like of shape (c, d), optional
        Differences of control pairs: the same edit with nothing changed, so that they are noise alone.
    probe : array-like of shape (C, d) or (d,), optional
        Weights of an NCM probe, to find single pairs that change the label.
    seed : int
        Seed of the sign flips and random halves.

    Returns
    -------
    PairQuality

    Raises
    ------
    DataError
        If shapes do not fit or values are not finite.

    Notes
    -----
    Neither the order of the pairs, the order of their sides nor a common scale changes the result. It is
    computed on one thread, so that it does not depend on the number of cores either.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> D = rng.normal(size=(60, 40)) + 20 * rng.normal(size=(60, 1)) * np.eye(40)[0]
    >>> quality = assess_pairs(D)
    >>> quality.rank, quality.recommended_r, round(quality.sigma, 1)
    (1, 1, 1.0)
    """
    inputs = check_inputs(
        D,
        X,
        y,
        env,
        a=a,
        pair_labels=pair_labels,
        clusters=clusters,
        pair_ids=pair_ids,
        pair_envs=pair_envs,
        control=control,
        probe=probe,
    )
    with threadpool_limits(1, user_api="blas"):
        return _assess(inputs, seed)


def _assess(inputs: Inputs, seed: int) -> PairQuality:
    k, d = inputs.D.shape
    groups = None
    if inputs.X is not None and inputs.y is not None:
        groups = within_groups(inputs.X, inputs.y, inputs.env)
    doubts, order = _first_look(inputs)
    sound, clusters = inputs.D[order], inputs.clusters[order]
    measured = measure(sound, groups.metric(SPECTRUM_SHRINKAGE) if groups else None, inputs.control, seed)
    removed = spectrum(inputs.D)  # what a probe removes: of all pairs, in the plain metric
    directions = removed.top(min(MAX_R, removed.numerical_rank))
    label_metric = groups.metric(LABEL_SHRINKAGE) if groups else None
    labels = check_labels(inputs, directions, label_metric)
    left = measure_remainder(
        inputs, label_metric, labels.deconfounded, directions.shape[1], np.random.default_rng([seed, 5])
    )
    rows = tradeoff_rows(inputs, directions, labels, left)
    halves = HalfSplitter(sound, np.random.default_rng([seed, 2]), clusters=clusters)
    alignment = _alignment(measured, halves)
    r = _core(rows, measured, alignment)
    partners = _partners(inputs, order, r, seed)
    doubts += flags.outliers(inputs.D, order, r)
    doubts += flags.dominating(removed.left, r)
    doubts += [replace(doubt, index=int(order[doubt.index])) for doubt in wrong_matches(partners)]
    if (
        inputs.probe is not None
        and inputs.X is not None
        and inputs.y is not None
        and inputs.labels is not None
    ):
        doubts += flags.label_changing(inputs.D, inputs.labels, inputs.probe, inputs.X, inputs.y)
    agreement = halves.at(max(1, r))
    evidence = Evidence(
        n_pairs=k,
        n_sources=len(np.unique(clusters)),
        dim=d,
        rank=measured.rank,
        core=r,
        recommended_r=r if left is None or r == 0 else recommend(left, measured.rank),
        confident=measured.confident,
        split_half=agreement,
        misalignment=distance(alignment[:r]) if agreement is None else agreement.misalignment if r else None,
        tradeoff=rows,
        labels=labels,
        partners=partners,
        bend=flags.bend(inputs.D[order], directions, r),
        edge_rank=measured.edge_rank,
        artefact=None if inputs.control is None else artefact(inputs.control, directions[:, :r]),
        has_labels=inputs.y is not None,
        has_environments=inputs.env is not None,
        forecast=forecast_rows(agreement, len(order), d) if measured.rank else (),
        flags=flags.flag_rows(doubts, inputs.pair_ids),
        cells=cell_rows(inputs, max(1, measured.rank)),
    )
    verdict, advice = judge(evidence)
    return PairQuality(
        n_pairs=k,
        dim=d,
        metric=measured.metric,
        singular_values=tuple(float(v) for v in measured.values),
        sigma=measured.sigma,
        noise_edge=measured.edge,
        noise_share=measured.noise_share,
        rank=measured.rank,
        rank_interval=measured.interval,
        recommended_r=verdict.recommended_r,
        alignment=tuple(float(c) for c in alignment),
        misalignment=evidence.misalignment,
        forecast=evidence.forecast,
        tradeoff=rows,
        split_half=agreement,
        flags=evidence.flags,
        cells=evidence.cells,
        verdict=verdict,
        advice=advice,
    )


def _first_look(inputs: Inputs) -> tuple[list[flags.Doubt], NDArray[np.int64]]:
    """Copies and failed edits, and the other pairs from short to long.

    Sorting them makes the result independent of the order that they came in.
    """
    copies, single = flags.duplicates(inputs.D, inputs.pair_ids)
    doubts = copies + flags.failed_edits(inputs.D, _typical_distance(inputs), inputs.control)
    lengths = np.linalg.norm(inputs.D, axis=1)
    indices = np.flatnonzero(single & (lengths > 0.0))
    return doubts, indices[np.argsort(lengths[indices], kind="stable")]


def _partners(inputs: Inputs, order: NDArray[np.int64], r: int, seed: int) -> Partners | None:
    """Whether partners find each other, among sound pairs; needs the a sides."""
    if inputs.a is None or len(order) == 0 or r == 0:
        return None
    rng = np.random.default_rng([seed, 4])
    return compare_partners(
        inputs.a[order], inputs.D[order], inputs.kinds[order], inputs.clusters[order], r, rng
    )


def _typical_distance(inputs: Inputs) -> float | None:
    """Median distance of two items of one label, from up to a thousand consecutive ones of each label."""
    if inputs.X is None:
        return None
    y = np.zeros(len(inputs.X), dtype=np.int64) if inputs.y is None else inputs.y
    found = []
    for label in np.unique(y):
        items = inputs.X[y == label][:1001]
        found.append(np.linalg.norm(items[1:] - items[:-1], axis=1))
    joined = np.concatenate(found)
    return float(np.median(joined)) if len(joined) else None


def _core(rows: tuple[TradeoffRow, ...], measured: Measured, alignment: Floats) -> int:
    """Directions that hold the shift; where that is unknown, the leading ones more right than wrong."""
    if measured.rank == 0:
        return 0
    found = core(rows, measured.rank)
    if found is not None:
        return found
    right = alignment**2 > 0.5
    return max(1, len(right) if right.all() else int(right.argmin()))


def _alignment(measured: Measured, halves: HalfSplitter) -> Floats:
    """Cosines of the directions up to the rank: from halves, or from the noise model where these fail."""
    found = halves.alignment(measured.rank) if measured.rank else np.zeros(0)
    if found is not None:
        return found
    values = measured.values[: measured.rank]
    return cosines(values, measured.sigma or 0.0, measured.n_pairs, measured.dim)
