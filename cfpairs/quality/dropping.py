"""The main figures of a part of the pairs, to compare with those of all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.curves import MAX_R, check_labels, tradeoff_rows
from cfpairs.quality.flags import bend
from cfpairs.quality.forecast import joined
from cfpairs.quality.frame import Frame
from cfpairs.quality.inputs import Inputs
from cfpairs.quality.measure import measure
from cfpairs.quality.rank import winsorize
from cfpairs.quality.reliability import HalfSplitter
from cfpairs.quality.remainder import measure_remainder
from cfpairs.quality.result import DropRow
from cfpairs.quality.spectrum import spectrum

__all__ = ["drop_row"]

Floats = NDArray[np.float64]

_FLIPS = 3


def drop_row(inputs: Inputs, frame: Frame, dropped: int, core: int, r: int, seed: int) -> DropRow:
    """Figures of the pairs in `inputs`.

    Parameters
    ----------
    inputs : Inputs
    frame : Frame
    dropped : int
        How many pairs were taken out; goes into the row.
    core : int
        Number of directions whose misalignment is given.
    r : int
        Number of directions whose removal is given.
    seed : int
    """
    lengths = inputs.lengths
    order = np.argsort(lengths, kind="stable")
    sound = order[lengths[order] > 0.0]
    measured = measure(inputs.D[sound], frame.choices, seed, draws=0, flips=_FLIPS)
    metric = measured.yardstick.metric
    halves = HalfSplitter(
        inputs.D[sound] if metric is None else metric.whiten(inputs.D[sound].T).T,
        np.random.default_rng([seed, 2]),
        clusters=inputs.clusters[sound],
        repeats=4,
    ).at(max(1, core))
    every = spectrum(inputs.D)
    directions, first = every.top(min(max(r, 1), MAX_R)), every.top(max(1, core))
    turned = joined(
        bend(spectrum(winsorize(inputs.D[sound])).top(max(core, measured.rank, 1)), first, first.shape[1]),
        measured.turn(first),
    )
    labels = check_labels(inputs, directions, frame.label_metric, kept=False)
    left = measure_remainder(
        inputs,
        frame.label_metric,
        labels.deconfounded,
        directions.shape[1],
        np.random.default_rng([seed, 5]),
    )
    rows = tradeoff_rows(inputs, frame, directions, labels, left)
    last = rows[-1] if rows else None
    return DropRow(
        dropped=dropped,
        sigma=measured.sigma,
        noise_share=measured.noise_share,
        rank=measured.rank,
        misalignment=None if halves is None or measured.rank == 0 else joined(halves.misalignment, turned),
        environment_removed=None if last is None else last.environment_removed,
        label_removed_deconfounded=None if last is None else last.label_removed_deconfounded,
        environment_left=None if last is None else last.environment_left,
    )
