"""One probe run: every pair set, method and setting; a choice by every rule; the test figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from cfpairs.config import ProbeConfig
from cfpairs.errors import CfpairsError, DataError
from cfpairs.metrics import Groups
from cfpairs.probes.crossfit import Coding, ItemRows, PairRows
from cfpairs.probes.method import ProbeMethod
from cfpairs.probes.records import Study
from cfpairs.probes.share import AUTO_RANKS, Material, run_share
from cfpairs.probes.solver import principal_axes
from cfpairs.progress import SILENT, Progress
from cfpairs.registry import resolve

__all__ = ["AUTO_RANKS", "Study", "run_study"]

Array = NDArray[np.floating[Any]]

MAX_WORKERS = 8

PROCESSES_FROM = 4_000_000
"""Rows times columns times methods from which several processes pay for the seconds that starting them takes.

Threads share the interpreter: two of them keep one core and a half busy with fits of a few hundred rows.
"""


def run_study(
    train: ItemRows,
    test: ItemRows,
    pair_sets: Sequence[PairRows],
    config: ProbeConfig,
    progress: Progress = SILENT,
    *,
    validation: ItemRows | None = None,
    highest: Mapping[str, int] | None = None,
    workers: int | None = None,
) -> Study:
    """Fit, choose and measure.

    Parameters
    ----------
    train, test : ItemRows
        Preprocessed alike.
    pair_sets : sequence of PairRows
        May be empty when no method needs pairs.
    config : ProbeConfig
    validation : ItemRows, optional
        The val split, for the rules and methods that look at it.
    highest : mapping of str to int, optional
        Highest rank that ``r = auto`` may choose for a pair set; higher ones are fitted for the curve alone.
    workers : int, optional
        Cores to use; by default all, at most 8. Large runs of many methods use a process a core, others a
        thread; the results are the same. The fits of each take at most 1 GiB (`solver.MAX_BYTES`) beside the
        rows.

    Raises
    ------
    DataError
        If a split is empty, training items have one class, a pair set has no pair, or r is over the rank.
    CfpairsError
        If the system ends one of the processes.
    """
    methods = [resolve("probes", name)() for name in config.methods]
    _check(train, test, validation, pair_sets, methods)
    axes = principal_axes(train.X)
    material = Material(
        train.turned(axes),
        test.turned(axes),
        None if validation is None else validation.turned(axes),
        tuple(pairs.turned(axes) for pairs in pair_sets),
        axes,
        config,
        dict(highest or {}),
    )
    cores = min(os.cpu_count() or 1, MAX_WORKERS) if workers is None else workers
    families = _families(methods)
    if cores == 1 or len(families) == 1 or train.X.size * len(methods) < PROCESSES_FROM:
        with progress.task("probes", 2 + 2 * len(pair_sets)) as advance:
            parts = [run_share(material, config.methods, cores, advance)]
    else:
        parts = _side_by_side(material, families, cores, progress)
    names = [None, *(pairs.name for pairs in pair_sets)]
    plain_first = sorted(range(len(methods)), key=lambda i: "pairs" in methods[i].needs)
    place = {methods[i].name: number for number, i in enumerate(plain_first)}
    study = Study.join(parts, lambda pair_set, method: (names.index(pair_set), place[method]))
    groups = Groups(np.concatenate([train.y, test.y]), np.concatenate([train.env, test.env]))
    study.summarise(groups.codes(test.y, test.env))
    return study


def _check(
    train: ItemRows,
    test: ItemRows,
    validation: ItemRows | None,
    pair_sets: Sequence[PairRows],
    methods: Sequence[ProbeMethod],
) -> None:
    for rows, name in ((train, "train"), (test, "test")):
        if not rows.ids:
            raise DataError(f"the {name} split has no item with an embedding")
    for given, name in ((train, "train"), (test, "test"), (validation, "val")):
        if given is not None:
            _check_finite(given.X, f"the {name} split")
    for pairs in pair_sets:
        _check_finite(np.concatenate([pairs.a, pairs.b]), f"pair set {pairs.name!r}")
    for method in methods:
        if "pairs" in method.needs and not pair_sets:
            raise DataError(f"{method.name} needs a pair set", got="none", remedy="run 'cfpairs build' first")
    classes = Coding.of(train).classes
    if len(classes) < 2:
        raise DataError(
            "a probe cannot be fitted to one class",
            got=f"only label {classes[0]!r} in {len(train.y)} training items",
            expected="at least two classes",
        )


def _check_finite(X: Array, name: str) -> None:
    bad = int((~np.isfinite(X).all(axis=1)).sum())
    if bad:
        raise DataError(
            f"embeddings of {name} are not finite",
            got=f"{bad} of {len(X)} rows with NaN or infinity",
            remedy="leave these items out or embed them again",
        )


def _families(methods: Sequence[ProbeMethod]) -> list[list[str]]:
    """Names of the methods that share what they compute, those with pairs first: they take longest."""
    found: dict[str, list[ProbeMethod]] = {}
    for method in methods:
        found.setdefault(method.family or method.name, []).append(method)
    ordered = sorted(found.values(), key=lambda each: all("pairs" not in m.needs for m in each))
    return [[method.name for method in each] for each in ordered]


def _side_by_side(
    material: Material, families: Sequence[Sequence[str]], cores: int, progress: Progress
) -> list[Study]:
    """A family of methods after the other in every process, until all are done."""
    parts: dict[int, Study] = {}
    # Large arrays are mapped into every process, copied where one writes.
    pool = joblib.Parallel(
        n_jobs=cores, return_as="generator_unordered", pre_dispatch=cores, batch_size=1, mmap_mode="c"
    )
    jobs = (
        joblib.delayed(_numbered)(number, material, names, os.getpid())
        for number, names in enumerate(families)
    )
    with progress.task("probes", len(families)) as advance:
        try:
            for number, part in pool(jobs):
                parts[number] = part
                advance(1)
        except BrokenProcessPool as error:
            raise CfpairsError(
                "a process that fits probes was ended from outside, most likely for want of memory",
                got=f"{len(parts)} of {len(families)} families of probes fitted by {cores} processes",
                expected="all of them",
                remedy="fit fewer at once with --method (one alone needs one process), or free memory",
            ) from error
    return [parts[number] for number in range(len(families))]


def _numbered(number: int, material: Material, names: Sequence[str], parent: int) -> tuple[int, Study]:
    def advance(_: int) -> None:
        # Nobody waits for the rest when the process that asked was killed.
        if os.getppid() != parent:
            os._exit(1)

    return number, run_share(material, names, 1, advance)
