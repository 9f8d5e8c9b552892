"""Assess a set of counterfactual pairs: the one function that calls all the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfpairs.errors import DataError
from cfpairs.quality import flags
from cfpairs.quality.coverage import cell_rows
from cfpairs.quality.curves import (
    MAX_R,
    LabelCheck,
    check_labels,
    core,
    environment_share,
    recommend,
    tradeoff_rows,
)
from cfpairs.quality.dropping import drop_row
from cfpairs.quality.evidence import BROKEN, Evidence
from cfpairs.quality.forecast import forecast_rows, joined
from cfpairs.quality.frame import Frame, frame_of
from cfpairs.quality.inputs import MANY, Inputs, check_inputs
from cfpairs.quality.look import Look, look_at_few, look_at_many, look_at_moments
from cfpairs.quality.measure import Measured
from cfpairs.quality.moments import PairMoments, cores, one_thread
from cfpairs.quality.more import NOTHING, more_pairs
from cfpairs.quality.partners import Partners, compare_partners, match_places, wrong_matches
from cfpairs.quality.reliability import artefact, distance, wedin
from cfpairs.quality.remainder import Remainder, measure_remainder
from cfpairs.quality.result import (
    DirectionRow,
    DropRow,
    PairQuality,
    RobustRow,
    Systematics,
    TermTwo,
    TradeoffRow,
)
from cfpairs.quality.systematics import group_splits, mean_test, oriented
from cfpairs.quality.term_two import Probe, probe_rows, term_two, term_two_of_moments
from cfpairs.quality.verdict import changes_label, judge

__all__ = ["assess_pairs"]

Floats = NDArray[np.float64]

_FEW_WORST = 10  # broken pairs that are dropped in one step


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
    with one_thread():
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
    typical = _typical_distance(inputs)
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
    curves = _curves(sample, frame, look, seed)
    alignment = _alignment(look)
    r = _core(curves.rows, measured, alignment)
    advised = r if curves.left is None or r == 0 else recommend(curves.left, measured.rank)
    weights = None if probe is None else probe_rows(probe, directions[:, :advised])
    with cores() as pool:  # some of it is work for one core
        doubting = pool.submit(_doubts, look, r, max(r, advised), seed)
        testing = pool.submit(_systematics, sample, directions, r, seed)
        matching = pool.submit(_partners, sample, look.order, r, seed)
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
    turn = _turn(look, directions[:, :r])
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
        directions=_direction_rows(look),
        misalignment=evidence.misalignment,
        noise_turn=turn,
        noise_uneven=measured.uneven,
        forecast=evidence.forecast,
        tradeoff=curves.rows,
        split_half=agreement,
        robust=_robust_row(look, frame, evidence, advised),
        term_two=None if probe is None else _term_two(look, probe, advised, shift, seed),
        wedin=wedin(measured.strengths, measured.sigma, measured.n_pairs, d),
        systematics=systematics,
        more_pairs=evidence.more,
        flags=evidence.flags,
        dropping=_dropping(look, frame, doubts, evidence, seed),
        cells=cells,
        verdict=verdict,
        advice=advice,
        remarks=remarks,
    )


@dataclass(frozen=True)
class _Curves:
    rows: tuple[TradeoffRow, ...]
    labels: LabelCheck
    left: Remainder | None


def _curves(inputs: Inputs, frame: Frame, look: Look, seed: int) -> _Curves:
    """What removing the first r directions takes away and what it leaves, for every r."""
    directions = look.removed.top(MAX_R)
    labels = check_labels(inputs, directions, frame.label_metric)
    left = measure_remainder(
        inputs,
        frame.label_metric,
        labels.deconfounded,
        directions.shape[1],
        np.random.default_rng([seed, 5]),
        directions=directions if look.fixed else None,
    )
    return _Curves(tradeoff_rows(inputs, frame, directions, labels, left), labels, left)


def _doubts(look: Look, r: int, advised: int, seed: int) -> list[flags.Doubt]:
    """Everything to say against single pairs, by their place among all."""
    sample, order = look.sample, look.order
    places = None
    if sample.a is not None and advised:
        rng = np.random.default_rng([seed, 12])
        none = np.zeros(len(order), dtype=np.int64)
        envs = tuple(none if env is None else env[order] for env in (sample.env_a, sample.env_b))
        places = match_places(
            sample.a[order], sample.D[order], (envs[0], envs[1]), sample.clusters[order], rng
        )
    near = [replace(doubt, index=int(look.index[order[doubt.index]])) for doubt in wrong_matches(places)]
    return [*look.doubts, *look.more_doubts(r), *near]


def _systematics(inputs: Inputs, directions: Floats, r: int, seed: int) -> Systematics:
    rng = np.random.default_rng([seed, 10])
    share, p = mean_test(oriented(inputs), rng)
    return Systematics(
        mean_share=share,
        mean_p=p,
        control_overlap=None if inputs.control is None else artefact(inputs.control, directions[:, :r]),
        splits=group_splits(inputs, directions, r, rng),
    )


def _direction_rows(look: Look) -> tuple[DirectionRow, ...]:
    measured = look.measured
    rank = measured.rank
    halves = look.halves.alignment(rank) if rank else None

    def at(values: Floats | None, i: int) -> float | None:
        return float(values[i]) if values is not None and i < len(values) else None

    return tuple(
        DirectionRow(
            strength=at(measured.strengths, i) if np.isfinite(measured.strengths[i]) else None,
            by_halves=at(halves, i),
            by_model=at(measured.by_model, i),
            by_bulk=at(measured.by_bulk, i),
            frequency=at(look.frequency, i),
        )
        for i in range(rank)
    )


def _robust_row(look: Look, frame: Frame, seen: Evidence, r: int) -> RobustRow | None:
    """The directions when no pair counts more than the median pair, next to the plain ones."""
    robust = look.robust[:, :r]
    if r < 1 or robust.shape[1] < r or not seen.rank:
        return None
    environment = environment_share(look.sample, frame, robust)
    label = check_labels(look.sample, robust, frame.label_metric, kept=False).deconfounded
    return RobustRow(
        r=r,
        distance=flags.bend(robust, look.removed.top(r), r),
        environment_removed=None if environment is None else float(environment[-1]),
        label_removed_deconfounded=None if label is None else float(label[-1]),
    )


def _term_two(look: Look, probe: Probe, r: int, shift: float, seed: int) -> TermTwo | None:
    if look.moments is not None:
        return term_two_of_moments(look.moments, probe, r, look.measured, shift)
    order = look.order
    return term_two(
        look.sample.D[order],
        look.sample.clusters[order],
        probe,
        r,
        look.measured,
        np.random.default_rng([seed, 11]),
        shift,
    )


def _dropping(
    look: Look, frame: Frame, doubts: list[flags.Doubt], seen: Evidence, seed: int
) -> tuple[DropRow, ...]:
    """The main figures without the worst half of the pairs that look broken, and without all of them."""
    wrong = [doubt for doubt in doubts if doubt.flag in BROKEN]
    worst = list(dict.fromkeys(doubt.index for doubt in flags.by_gravity(wrong)))
    if not worst or look.moments is not None or len(worst) > len(look.sample.D) // 2:
        return ()
    measured, row = look.measured, seen.row
    rows = [
        DropRow(
            0,
            measured.sigma,
            measured.noise_share,
            measured.rank,
            seen.misalignment,
            None if row is None else row.environment_removed,
            None if row is None else row.label_removed_deconfounded,
            None if row is None else row.environment_left,
        )
    ]
    steps = {len(worst)} if len(worst) < _FEW_WORST else {len(worst) // 2, len(worst)}
    for n in sorted(steps):
        kept = np.setdiff1d(np.arange(len(look.sample.D)), worst[:n])
        rows.append(drop_row(look.sample.take(kept), frame, n, seen.core, seen.recommended_r, seed))
    return tuple(rows)


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


def _turn(look: Look, directions: Floats) -> float:
    """How far the removed directions are turned by the long axes of uneven noise.

    A metric that evens the noise shows it. Without one, as many of the directions may be axes of the noise as
    exceed what stands above noise of any shape.
    """
    measured = look.measured
    r, sure = directions.shape[1], measured.checks.screenot
    if r == 0 or measured.rank == 0:
        return 0.0
    if not measured.uneven or sure is None:
        return measured.turn(directions)
    return float(np.sqrt(max(0.0, 1.0 - sure / max(r, measured.rank))))


def _alignment(look: Look) -> Floats:
    """Cosines of the directions up to the rank: from halves, or from the noise model where these fail.

    Halves are compared with long pairs shortened; the directions that a probe removes are those of the
    pairs as they are, which a few long pairs may turn away from the others'.
    """
    rank = look.measured.rank
    found = look.halves.alignment(rank) if rank else np.zeros(0)
    if found is None:
        return look.measured.by_model
    turned = np.linalg.norm(look.robust[:, :rank].T @ look.removed.top(rank), axis=0)
    turned *= look.measured.held(look.removed.top(rank))[: len(turned)]
    return np.asarray(found[: len(turned)] * np.minimum(1.0, turned[: len(found)]))
