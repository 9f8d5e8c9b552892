"""What a look at the pairs says beside items and probes, figure by figure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality import flags
from cfpairs.quality.curves import MAX_R, LabelCheck, check_labels, core, environment_share, tradeoff_rows
from cfpairs.quality.dropping import drop_row
from cfpairs.quality.evidence import BROKEN, Evidence
from cfpairs.quality.frame import Frame
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.look import Look
from cfpairs.quality.measure import Measured
from cfpairs.quality.partners import Partners, compare_partners, match_places, wrong_matches
from cfpairs.quality.reliability import artefact
from cfpairs.quality.remainder import Remainder, measure_remainder
from cfpairs.quality.result import DirectionRow, DropRow, RobustRow, Systematics, TermTwo, TradeoffRow
from cfpairs.quality.systematics import group_splits, mean_test, oriented
from cfpairs.quality.term_two import Probe, term_two, term_two_of_moments

__all__ = [
    "Curves",
    "alignment_of",
    "core_of",
    "curves_of",
    "direction_rows",
    "doubts_of",
    "drop_rows",
    "partners_of",
    "robust_row",
    "systematics_of",
    "term_two_of",
    "turn_of",
    "typical_distance",
]

Floats = NDArray[np.float64]

_FEW_WORST = 10  # broken pairs that are dropped in one step


@dataclass(frozen=True)
class Curves:
    """What removing the first r directions does, and what it leaves; `left` is None without labels."""

    rows: tuple[TradeoffRow, ...]
    labels: LabelCheck
    left: Remainder | None


def curves_of(inputs: Inputs, frame: Frame, look: Look, seed: int) -> Curves:
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
    return Curves(tradeoff_rows(inputs, frame, directions, labels, left), labels, left)


def doubts_of(look: Look, r: int, advised: int, seed: int) -> list[flags.Doubt]:
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


def systematics_of(inputs: Inputs, directions: Floats, r: int, seed: int) -> Systematics:
    """What shifts every pair alike, and what tells parts of the pairs apart."""
    rng = np.random.default_rng([seed, 10])
    share, p = mean_test(oriented(inputs), rng)
    return Systematics(
        mean_share=share,
        mean_p=p,
        control_overlap=None if inputs.control is None else artefact(inputs.control, directions[:, :r]),
        splits=group_splits(inputs, directions, r, rng),
    )


def direction_rows(look: Look) -> tuple[DirectionRow, ...]:
    """Strength and estimated cosines of every direction up to the rank."""
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


def robust_row(look: Look, frame: Frame, seen: Evidence, r: int) -> RobustRow | None:
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


def term_two_of(look: Look, probe: Probe, r: int, shift: float, seed: int) -> TermTwo | None:
    """The second term of the test risk's bound for a fitted probe."""
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


def drop_rows(
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


def partners_of(inputs: Inputs, order: NDArray[np.int64], r: int, seed: int) -> Partners | None:
    """Whether partners find each other, among sound pairs; needs the a sides."""
    if inputs.a is None or len(order) == 0 or r == 0:
        return None
    rng = np.random.default_rng([seed, 4])
    return compare_partners(
        inputs.a[order], inputs.D[order], inputs.kinds[order], inputs.clusters[order], r, rng
    )


def typical_distance(inputs: Inputs) -> float | None:
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


def core_of(rows: tuple[TradeoffRow, ...], measured: Measured, alignment: Floats) -> int:
    """Directions that hold the shift; where that is unknown, the leading ones more right than wrong."""
    if measured.rank == 0:
        return 0
    found = core(rows, measured.rank)
    if found is not None:
        return found
    right = alignment**2 > 0.5
    return max(1, len(right) if right.all() else int(right.argmin()))


def turn_of(look: Look, directions: Floats) -> float:
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


def alignment_of(look: Look) -> Floats:
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
