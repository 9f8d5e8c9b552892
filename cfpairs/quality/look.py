"""The pairs' spectrum, rank and repeatability, however many there are, ready for the assessment.

Up to some thousands the pairs are held and compared one with another. More are read in blocks: what depends
on their spectrum is exact, and what needs single pairs beside labels and environments is reckoned from
some thousands drawn at random.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality import flags
from cfpairs.quality.frame import Frame
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.interval import direction_frequency, moment_frequency
from cfpairs.quality.measure import Measured, measure, measure_moments, whitened
from cfpairs.quality.moments import FOLDS, PairMoments, at_once
from cfpairs.quality.rank import flip_rank, winsorize
from cfpairs.quality.reliability import HalfSplitter, Halves
from cfpairs.quality.rows import by_appearance
from cfpairs.quality.scores import copies, score_pairs
from cfpairs.quality.spectrum import Spectrum, spectrum, spectrum_of_moment
from cfpairs.quality.streaming import halves_of_moments, many_flips_rank

__all__ = ["Look", "look_at_few", "look_at_many", "look_at_moments"]

Floats = NDArray[np.float64]

SAMPLE = 4096
_GROWS_FROM = 6  # a rank below is not worth counting again in parts


@dataclass(frozen=True)
class Look:
    """What is known of the pairs before labels and environments are asked.

    Attributes
    ----------
    n_pairs, n_sources : int
        The second counts sound pairs that share a source once.
    measured : Measured
    removed : Spectrum
        Of all pairs as embedded: what a probe removes.
    robust : ndarray of shape (d, m)
        Directions with long pairs shortened.
    halves : Halves
        In the metric of `measured`.
    sample : Inputs
        The pairs, or some of them where there are many.
    index : ndarray of int
        Which pairs the sample is.
    order : ndarray of int
        Sound pairs of the sample, from short to long.
    fixed : bool
        Whether the directions come from so many pairs that no pair of the sample matters for them.
    frequency : ndarray of shape (rank,)
    growth : tuple of int
        Rank of parts of the pairs, each about twice the one before; empty where it is small.
    doubts : list of Doubt
    more_doubts : callable
        Doubts that need the number of directions.
    moments : PairMoments or None
    """

    n_pairs: int
    n_sources: int
    measured: Measured
    removed: Spectrum
    robust: Floats
    halves: Halves
    sample: Inputs
    index: NDArray[np.int64]
    order: NDArray[np.int64]
    fixed: bool
    frequency: Floats
    growth: tuple[int, ...]
    doubts: list[flags.Doubt]
    more_doubts: Callable[[int], list[flags.Doubt]]
    moments: PairMoments | None = None


def look_at_few(inputs: Inputs, frame: Frame, typical: float | None, seed: int, draws: int | None) -> Look:
    """Hold all pairs in memory."""
    D, lengths = inputs.D, inputs.lengths
    found, single = flags.duplicates(D, inputs.pair_ids)
    doubts = found + flags.failed_edits(lengths, typical, inputs.control)
    # From short to long: the result does not depend on the order that the pairs came in.
    indices = np.flatnonzero(single & (lengths > 0.0))
    order = indices[np.argsort(lengths[indices], kind="stable")]
    sound, clusters = D[order], inputs.clusters[order]
    measured = measure(sound, frame.choices, seed, draws=draws)
    removed = spectrum(D)
    metric = measured.yardstick.metric
    white = sound if metric is None else metric.whiten(sound.T).T
    rng = np.random.default_rng([seed, 7])
    frequency = np.zeros(measured.rank)
    if measured.rank and measured.edge is not None and draws != 0:
        frequency = direction_frequency(
            white, measured.found.top(measured.rank), measured.edge, clusters, rng
        )
    return Look(
        n_pairs=len(D),
        n_sources=len(np.unique(clusters)),
        measured=measured,
        removed=removed,
        robust=spectrum(winsorize(sound)).directions,
        halves=HalfSplitter(white, np.random.default_rng([seed, 2]), clusters=clusters),
        sample=inputs,
        index=np.arange(len(D)),
        order=order,
        fixed=False,
        frequency=frequency,
        growth=_growth(white, measured.rank, rng) if draws != 0 else (),
        doubts=doubts,
        more_doubts=lambda r: [
            *flags.outliers(D, order, r),
            *flags.dominating(flags.leverages(D, removed, r), r),
        ],
    )


def _growth(D: Floats, rank: int, rng: np.random.Generator) -> tuple[int, ...]:
    """Rank of a quarter, half and all of the pairs."""
    if rank < _GROWS_FROM or len(D) < 4 * _GROWS_FROM:
        return ()
    order = rng.permutation(len(D))
    parts = (winsorize(D[order[: len(D) // n]]) for n in (4, 2))
    return (*(flip_rank(part, rng, flips=3).rank for part in parts), rank)


def look_at_many(
    inputs: Inputs,
    frame: Frame,
    typical: float | None,
    seed: int,
    draws: int | None,
    keep: NDArray[np.bool_] | None = None,
) -> Look:
    """Read the pairs block by block: their lengths, their moments, and each of them once more for doubts."""
    k, d = inputs.D.shape
    lengths = inputs.lengths
    sound = (lengths > 0.0) if keep is None else keep & (lengths > 0.0)
    limit = float(np.median(lengths[sound])) if sound.any() else None
    folds = _folds(inputs.clusters, seed)
    moments = PairMoments(d, limit=limit).update(inputs.D, folds=folds, lengths=lengths, keep=sound)
    rng = np.random.default_rng([seed, 8])
    index = np.sort(rng.permutation(k)[:SAMPLE])
    sample = inputs.take(index)
    order = np.flatnonzero(sound[index])
    order = order[np.argsort(lengths[index[order]], kind="stable")]
    look = look_at_moments(moments, sample, frame, seed, draws)
    removed = look.removed

    def more_doubts(r: int) -> list[flags.Doubt]:
        scores = score_pairs(inputs.D, lengths, removed, look.robust[:, :r], r, seed)
        return [*copies(inputs.D, scores, lengths, inputs.pair_ids), *scores.doubts(np.flatnonzero(sound), r)]

    return Look(
        n_pairs=k,
        n_sources=int(np.count_nonzero(np.bincount(inputs.clusters[sound]))),
        measured=look.measured,
        removed=removed,
        robust=look.robust,
        halves=look.halves,
        sample=sample,
        index=index,
        order=order,
        fixed=True,
        frequency=look.frequency,
        growth=look.growth,
        doubts=flags.failed_edits(lengths, typical, inputs.control),
        more_doubts=more_doubts,
        moments=moments,
    )


def _folds(clusters: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """A fold for every pair, the same for pairs of one cluster, in equal shares."""
    codes = by_appearance(clusters)
    count = int(codes.max(initial=-1)) + 1
    return np.asarray((np.random.default_rng([seed, 9]).permutation(count) % FOLDS)[codes])


def look_at_moments(moments: PairMoments, sample: Inputs, frame: Frame, seed: int, draws: int | None) -> Look:
    """Look at sums alone: there is no single pair to doubt."""
    n = moments.n_pairs
    removed, robust = at_once(
        (lambda: spectrum_of_moment(moments.gram(), n), lambda: spectrum_of_moment(moments.robust_gram(), n))
    )
    measured = measure_moments(moments, removed, robust, frame.choices, seed, draws=draws)
    metric = measured.yardstick.metric
    frequency = np.zeros(measured.rank)
    if measured.rank and measured.metric == "identity" and draws != 0:
        frequency = moment_frequency(moments, measured.found.top(measured.rank))
    return Look(
        n_pairs=n,
        n_sources=n,
        measured=measured,
        removed=removed,
        robust=robust.directions,
        halves=halves_of_moments(
            moments,
            np.random.default_rng([seed, 2]),
            max(1, measured.rank),
            None if metric is None else lambda gram: whitened(gram, metric),
        ),
        sample=sample,
        index=np.arange(len(sample.D)),
        order=np.arange(len(sample.D)),
        fixed=True,
        frequency=frequency,
        growth=_growth_of_moments(moments, measured) if draws != 0 else (),
        doubts=[],
        more_doubts=lambda r: [],
        moments=moments,
    )


def _growth_of_moments(moments: PairMoments, measured: Measured) -> tuple[int, ...]:
    """Rank of a sixth, half and all of the pairs."""
    if measured.rank < _GROWS_FROM or measured.metric != "identity":
        return ()
    ranks = []
    for folds in ((0,), (0, 1, 2)):
        gram, count = moments.robust_gram(folds), moments.count(folds)
        even = moments.even_pairs * count / moments.n_pairs
        ranks.append(many_flips_rank(spectrum_of_moment(gram, count), gram, even).rank)
    return (*ranks, measured.rank)
