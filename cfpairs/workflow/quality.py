"""Pair quality of a probe run: assessed once, before the probes, and kept beside them for the report."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.tables import write_bytes
from cfpairs.workflow.context import Context

if TYPE_CHECKING:
    from cfpairs.workflow.probing import ProbeInputs

__all__ = ["assess_all", "highest_ranks", "pair_quality", "stored_quality"]

LABEL_GUARD = 0.2
"""Share of the deconfounded label signal that no chosen rank may take away."""

FILE = "quality.json"


def pair_quality(inputs: ProbeInputs, name: str, seed: int, only: NDArray[np.integer] | None = None) -> Any:
    """Quality of one pair set, from the training items and the pairs' own vectors.

    Parameters
    ----------
    only : ndarray of int, optional
        Rows of the pairs to assess; by default all.
    """
    from cfpairs.quality import assess_pairs

    pairs = inputs.pairs[name]
    rows = np.arange(len(pairs)) if only is None else only
    envs = None if pairs.env_a is None or pairs.env_b is None else (pairs.env_a[rows], pairs.env_b[rows])
    return assess_pairs(
        pairs.differences[rows],
        inputs.train.X,
        inputs.train.y,
        inputs.train.env,
        a=pairs.a[rows],
        pair_labels=pairs.labels[rows],
        clusters=pairs.subject_a[rows].astype(str),
        pair_ids=[inputs.kept[name][row] for row in rows],
        pair_envs=envs,
        seed=seed,
    )


def assess_all(context: Context, inputs: ProbeInputs, folder: Path) -> dict[str, dict[str, Any]]:
    """Quality of every pair set, side by side on one BLAS thread each; kept in the run's folder.

    Returns
    -------
    dict of str to dict
        ``PairQuality.to_dict()`` by the name of the pair set.
    """
    from threadpoolctl import threadpool_limits

    # Imported before the threads start: two threads that import the same packages can wait for each other.
    import cfpairs.quality  # noqa: F401

    names = list(inputs.pairs)
    with (
        context.progress.task("pair quality", len(names)) as advance,
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, max(len(names), 1))) as pool,
    ):
        found = {}
        seed = context.config.seed
        for name, quality in zip(
            names, pool.map(lambda n: pair_quality(inputs, n, seed).to_dict(), names), strict=True
        ):
            found[name] = quality
            advance(1)
    write_bytes(folder / FILE, json.dumps(found, allow_nan=False).encode())
    return found


def stored_quality(folder: Path) -> dict[str, dict[str, Any]] | None:
    """What `assess_all` kept in the folder of a probe run; None if it is not there."""
    try:
        found: dict[str, dict[str, Any]] = json.loads((folder / FILE).read_text())
    except (OSError, ValueError):
        return None
    return found


def highest_ranks(quality: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """The highest r that may be chosen for each pair set.

    The upper end of the rank's interval, since directions above it are noise (the anchor); and below the
    first r that takes away more of the deconfounded label signal than the guard allows and than as many
    random directions would (99 % of the time).
    """
    from scipy.stats import beta

    limits = {}
    for name, found in quality.items():
        limit = max(int(found["rank_interval"][1]), int(found["recommended_r"]), 1)
        for row in found["tradeoff"]:
            r, taken = int(row["r"]), row["label_removed_deconfounded"]
            chance = beta.ppf(0.99, r / 2, (found["dim"] - r) / 2) if 0 < r < found["dim"] else 0.0
            if r and taken is not None and taken > max(LABEL_GUARD, chance):
                limit = min(limit, max(r - 1, 1))
                break
        limits[name] = limit
    return limits
