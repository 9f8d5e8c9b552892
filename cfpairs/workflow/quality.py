"""Pair quality of a probe run: assessed once, before the probes, and kept beside them for the report."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.tables import write_bytes
from cfpairs.threads import one_blas_thread
from cfpairs.workflow.context import Context
from cfpairs.workflow.inputs import ProbeInputs, pair_arguments, pairs_at_hand

if TYPE_CHECKING:
    from cfpairs.probes.crossfit import ItemRows
    from cfpairs.quality import PairQuality

__all__ = [
    "assess_all",
    "first_line",
    "highest_ranks",
    "middle_ridge",
    "pair_quality",
    "stored_comparison",
    "stored_quality",
]

LABEL_GUARD = 0.2
"""Share of the deconfounded label signal that no chosen rank may take away."""

FILE, COMPARED = "quality.json", "comparison.json"

TOLERANCE = 1e-3  # of the probe that shows what a removal leaves


def pair_quality(
    inputs: ProbeInputs,
    name: str,
    seed: int,
    C: float | None = None,
    only: NDArray[np.integer] | None = None,
) -> PairQuality:
    """Quality of one pair set, from the training items and the pairs' own vectors.

    Parameters
    ----------
    inputs : ProbeInputs
    name : str
        Of the pair set.
    seed : int
    C : float, optional
        Ridge strength of the NCM probe that is fitted to see what the removal leaves; without it none is.
    only : ndarray of int, optional
        Rows of the pairs to assess; by default all.
    """
    from cfpairs.quality import assess_pairs

    given = _given(inputs, name, only)
    probe = None if C is None or len(np.unique(inputs.train.y)) < 2 else _ncm(inputs.train, C)
    return assess_pairs(**given, probe=probe, seed=seed)


def middle_ridge(context: Context) -> float:
    """The middle one of the configured ridge strengths, for probes that only show what a removal leaves."""
    strengths = sorted(context.config.probe.C)
    return strengths[len(strengths) // 2]


def _given(inputs: ProbeInputs, name: str, only: NDArray[np.integer] | None = None) -> dict[str, Any]:
    """Arguments of `assess_pairs` for the rows `only` of one pair set."""
    pairs, kept = inputs.pairs[name], inputs.kept[name]
    if only is not None:
        pairs, kept = pairs.take(only), [kept[row] for row in only]
    return pair_arguments(inputs.train, pairs, kept, inputs.tables[name], inputs.controls.get(name))


def _ncm(train: ItemRows, C: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Fits NCM probes on the training items: from directions to weights."""
    from cfpairs.probes.base import encode_labels
    from cfpairs.probes.solver import fit_logistic, principal_axes

    axes = principal_axes(train.X)
    rows = (train.X @ axes).astype(np.float32)
    classes, index = encode_labels(train.y)

    def weights(Q: NDArray[np.float64]) -> NDArray[np.float64]:
        fit = fit_logistic(
            rows,
            index,
            len(classes),
            np.array([C]),
            ranks=np.array([Q.shape[1]]),
            Q=axes.T @ Q,
            tol=TOLERANCE,
        )
        return np.asarray(fit.coef[0] @ axes.T, np.float64)

    return weights


def assess_all(context: Context, inputs: ProbeInputs, folder: Path) -> dict[str, dict[str, Any]]:
    """Quality of every pair set, side by side on one BLAS thread each; kept in the run's folder.

    Beside it, the pair sets compared on equal numbers of pairs.

    Returns
    -------
    dict of str to dict
        ``PairQuality.to_dict()`` by the name of the pair set.
    """
    # Imported before the threads start: two threads that import the same packages can wait for each other.
    from cfpairs.quality import compare_sets

    names = list(inputs.pairs)
    C = middle_ridge(context)
    seed = context.config.seed
    with (
        context.progress.task("pair quality", len(names)) as advance,
        one_blas_thread(),
        ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, max(len(names), 1))) as pool,
    ):
        found = {}
        for name, quality in zip(
            names, pool.map(lambda n: pair_quality(inputs, n, seed, C), names), strict=True
        ):
            found[name] = quality
            advance(1)
        filled = [name for name in names if len(inputs.pairs[name])]
        sets = {name: _given(inputs, name) for name in filled} if len(filled) > 1 else {}
        compared = compare_sets(sets, known=found, seed=seed)
    plain = {name: quality.to_dict() for name, quality in found.items()}
    write_bytes(folder / COMPARED, json.dumps([row.to_dict() for row in compared], allow_nan=False).encode())
    write_bytes(folder / FILE, json.dumps(plain, allow_nan=False).encode())
    return plain


def stored_comparison(folder: Path) -> list[dict[str, Any]]:
    """The comparison that `assess_all` kept; empty if it is not there."""
    try:
        found: list[dict[str, Any]] = json.loads((folder / COMPARED).read_text())
    except (OSError, ValueError):
        return []
    return found


def first_line(context: Context, name: str) -> str:
    """What can be said of a pair set as soon as it is built, in a line.

    It needs embeddings of both sides; where there are none it says what to run.
    """
    from cfpairs.errors import CfpairsError
    from cfpairs.quality import assess_pairs

    try:
        given = pairs_at_hand(context, name)
    except CfpairsError:
        given = None
    if given is None:
        return f"quality of {name}: run 'cfpairs embed' and 'cfpairs probe' to measure it"
    quality = assess_pairs(**given, seed=context.config.seed, draws=0)
    row = next((row for row in quality.tradeoff if row.r == quality.recommended_r), None)
    parts = [f"{quality.verdict.level.replace('_', ' ')}: {quality.verdict.text}"]
    if quality.recommended_r and row is not None and row.environment_removed is not None:
        parts.append(f"take r = {quality.recommended_r}")
    flagged = len({flag.pair_id for flag in quality.flags})
    if flagged:
        parts.append(f"{flagged} pairs to look at")
    if quality.n_control:
        parts.append(f"measured with {quality.n_control} control pairs")
    return f"quality of {name}: {'; '.join(parts)}"


def stored_quality(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What `assess_all` kept in the folder of a probe run; None if it is not there."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found


def highest_ranks(quality: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The highest r that may be chosen for each pair set.

    Two limits, and the lower one holds. The anchor is the largest count that anything supports: the upper end
    of the rank's interval, the directions over the edge of even noise in the same metric (Tracy-Widom), and
    the recommended r. The guard is the last r before the removal takes more of the deconfounded label signal
    than `LABEL_GUARD` and than as many random directions would (99 % of the time).

    The anchor bounds the choice and does not make it: within it validation chooses. It is lenient on purpose.
    The count by sign flips ends at the first direction that does not pass, and a direction of the shortcut
    that is left out costs the rare groups more than a direction of noise that is removed, whose price in
    label signal the guard sees. Where the noise is known to be uneven and no metric evens it, the edge of
    even noise counts the noise's long axes and has no say.
    """
    from scipy.stats import beta

    limits = {}
    for name, found in quality.items():
        lenient = 0 if found.get("noise_uneven") else int(found["rank_checks"]["tracy_widom"])
        limit = max(int(found["rank_interval"][1]), lenient, int(found["recommended_r"]), 1)
        for row in found["tradeoff"]:
            r, taken = int(row["r"]), row["label_removed_deconfounded"]
            chance = beta.ppf(0.99, r / 2, (found["dim"] - r) / 2) if 0 < r < found["dim"] else 0.0
            if r and taken is not None and taken > max(LABEL_GUARD, chance):
                limit = min(limit, max(r - 1, 1))
                break
        limits[name] = limit
    return limits
