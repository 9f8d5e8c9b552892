"""Assess a set of counterfactual pairs: the one function that calls all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfpairs.errors import DataError
from cfpairs.quality import flags
from cfpairs.quality.coverage import cell_rows
from cfpairs.quality.curves import MAX_R, recommend
from cfpairs.quality.evidence import Evidence
from cfpairs.quality.findings import (
    alignment_of,
    core_of,
    curves_of,
    direction_rows,
    doubts_of,
    drop_rows,
    partners_of,
    robust_row,
    systematics_of,
    term_two_of,
    turn_of,
    typical_distance,
)
from cfpairs.quality.forecast import forecast_rows, joined
from cfpairs.quality.frame import Frame, frame_of
from cfpairs.quality.inputs import MANY, Inputs, check_inputs
from cfpairs.quality.look import Look, look_at_few, look_at_many, look_at_moments
from cfpairs.quality.moments import PairMoments, cores
from cfpairs.quality.more import NOTHING, more_pairs
from cfpairs.quality.reliability import distance, wedin
from cfpairs.quality.result import PairQuality
from cfpairs.quality.term_two import Probe, probe_rows
from cfpairs.quality.verdict import changes_label, judge
from cfpairs.threads import one_blas_thread

__all__ = ["assess_pairs"]

Floats = NDArray[np.float64]


def assess_pairs(
    D: ArrayLike | PairMoments,
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
    probe: Probe | None = None,
    makers: ArrayLike | None = None,
    shift: float = 1.0,
    seed: int = 0,
    draws: int | None = None,
) -> PairQuality:
    """Measure how good counterfactual pairs are and how many directions to remove.

    Everything but `D` is optional; what cannot be measured without it is None or empty, and the remarks say
    so.

    Parameters
    ----------
    D : array-like of shape (k, d), or PairMoments
        Differences a - b of the pairs, after the preprocessing that the probe uses; never centred. Many
        are read in blocks, also from a memory-mapped file. Or `PairMoments` of pairs that were read
        elsewhere: single pairs are not looked at then.
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
    probe : callable or array-like of shape (C, d) or (d,), optional
        Function from orthonormal directions (d, r) to the weights of a probe that does without them, or
        such weights: to find single pairs that change the label, and for what the removal leaves to a probe
        (held out over pairs only with a function).
    makers : array-like of shape (k,), optional
        What made each pair, such as the name of its editor.
    shift : float
        How large the shift in use is expected to be, in shifts of the pairs: the change of the probe's logit
        that the removal leaves grows with its square (`TermTwo.in_use`).
    seed : int
        Seed of the sign flips and random halves.
    draws : int, optional
        Simulations behind the interval for the rank. 0 leaves all resampling out: the interval is the rank
        alone, and no direction has a frequency.

    Returns
    -------
    PairQuality

    Raises
    ------
    DataError
        If shapes do not fit, values are not finite, or `shift` is not a positive number.

    Notes
    -----
    Of sums over pairs (`PairMoments`) there is no single pair to look at: `flags`, `dropping`, `cells` and
    `systematics` but for control pairs are empty, deconfounded label shares, which need the pairs' sides,
    and bi-cross-validation are None, and copies count as pairs. More than 8,192 pairs are read in blocks:
    then `dropping` and bi-cross-validation are left out, which would read them once more, and partners, cells
    and origins are reckoned from 4,096 pairs.

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
    if not np.isfinite(shift) or shift <= 0.0:
        raise DataError("the shift in use is no size", got=shift, expected="a positive number")
    with one_blas_thread():
        inputs, moments = _checked(
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
            makers=makers,
        )
        return _assess(inputs, moments, probe, shift, seed, draws)


def _checked(
    D: ArrayLike | PairMoments, *items: ArrayLike | None, **pairs: Any
) -> tuple[Inputs, PairMoments | None]:
    """Checked arrays; sums over pairs come with no single pair."""
    if not isinstance(D, PairMoments):
        return check_inputs(D, *items, **pairs), None
    single = [name for name, value in pairs.items() if value is not None and name != "control"]
    if single:
        raise DataError(
            "sums over the pairs cannot be joined with single pairs",
            got=", ".join(single),
            remedy="give the differences themselves",
        )
    return check_inputs(np.zeros((0, D.dim)), *items, **pairs), D


def _look(inputs: Inputs, moments: PairMoments | None, frame: Frame, seed: int, draws: int | None) -> Look:
    k, d = inputs.D.shape
    typical = typical_distance(inputs)
    if moments is not None:
        return look_at_moments(moments, inputs, frame, seed, draws)
    if k <= MANY or k <= 2 * d:
        if inputs.D.dtype != np.float64:
            inputs = inputs.take(np.arange(k))
        return look_at_few(inputs, frame, typical, seed, draws)
    return look_at_many(inputs, frame, typical, seed, draws)


def _assess(
    inputs: Inputs,
    moments: PairMoments | None,
    probe: Probe | None,
    shift: float,
    seed: int,
    draws: int | None,
) -> PairQuality:
    d = inputs.D.shape[1]
    frame = frame_of(inputs, len(inputs.D) if moments is None else moments.n_pairs, seed)
    look = _look(inputs, moments, frame, seed, draws)
    measured, halves, sample = look.measured, look.halves, look.sample
    directions = look.removed.top(MAX_R)
    curves = curves_of(sample, frame, look, seed)
    alignment = alignment_of(look)
    r = core_of(curves.rows, measured, alignment)
    advised = r if curves.left is None or r == 0 else recommend(curves.left, measured.rank)
    weights = None if probe is None else probe_rows(probe, directions[:, :advised])
    with cores() as pool:  # some of it is work for one core
        doubting = pool.submit(doubts_of, look, r, max(r, advised), seed)
        testing = pool.submit(systematics_of, sample, directions, r, seed)
        matching = pool.submit(partners_of, sample, look.order, r, seed)
        cells = cell_rows(inputs, max(1, measured.rank), look.index)
        doubts, systematics, partners = doubting.result(), testing.result(), matching.result()
    if weights is not None and inputs.X is not None and inputs.y is not None and inputs.labels is not None:
        doubts += flags.label_changing(inputs.D, inputs.labels, weights, inputs.X, inputs.y, inputs.a)
    agreement = halves.at(max(1, r))
    at_core = next((row for row in curves.rows if row.r == r), None)
    bend = flags.bend(look.robust[:, : max(r, measured.rank)], directions, r)
    off = None
    if r:
        off = distance(alignment[:r]) if agreement is None else joined(agreement.misalignment, bend)
    turn = turn_of(look, directions[:, :r])
    off = None if off is None else joined(off, turn)
    evidence = Evidence(
        n_pairs=look.n_pairs,
        n_sources=look.n_sources,
        dim=d,
        rank=measured.rank,
        core=r,
        recommended_r=advised,
        confident=measured.confident,
        split_half=agreement,
        misalignment=off,
        tradeoff=curves.rows,
        labels=curves.labels,
        partners=partners,
        bend=bend,
        edge_rank=measured.edge_rank,
        systematics=systematics,
        more=NOTHING,
        has_labels=inputs.y is not None,
        has_environments=inputs.env is not None,
        forecast=forecast_rows(agreement, measured.n_pairs, d, bend, turn) if measured.rank else (),
        flags=flags.flag_rows(doubts, inputs.pair_ids),
        cells=cells,
        turn=turn,
        uneven=measured.uneven,
    )
    evidence = replace(
        evidence,
        more=more_pairs(
            agreement if measured.rank else None,
            measured.n_pairs,
            d,
            environment_removed=None if at_core is None else at_core.environment_removed,
            changes_label=changes_label(evidence),
            systematics=systematics,
            growth=look.growth,
            cells=cells,
            turn=turn,
        ),
    )
    verdict, advice, remarks = judge(evidence)
    return PairQuality(
        n_pairs=look.n_pairs,
        n_sources=look.n_sources,
        n_control=0 if inputs.control is None else len(inputs.control),
        dim=d,
        metric=measured.metric,
        metrics=measured.metrics,
        singular_values=tuple(float(v) for v in measured.values),
        sigma=measured.sigma,
        noise_edge=measured.edge,
        noise_share=measured.noise_share,
        rank=measured.rank,
        rank_interval=measured.interval,
        rank_checks=measured.checks,
        recommended_r=verdict.recommended_r,
        alignment=tuple(float(c) for c in alignment),
        directions=direction_rows(look),
        misalignment=evidence.misalignment,
        noise_turn=turn,
        noise_uneven=measured.uneven,
        forecast=evidence.forecast,
        tradeoff=curves.rows,
        split_half=agreement,
        robust=robust_row(look, frame, evidence, advised),
        term_two=None if probe is None else term_two_of(look, probe, advised, shift, seed),
        wedin=wedin(measured.strengths, measured.sigma, measured.n_pairs, d),
        systematics=systematics,
        more_pairs=evidence.more,
        flags=evidence.flags,
        dropping=drop_rows(look, frame, doubts, evidence, seed),
        cells=cells,
        verdict=verdict,
        advice=advice,
        remarks=remarks,
    )
