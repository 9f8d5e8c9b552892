"""One probe run: every pair set, method, rank and ridge; a choice by every rule; the test figures."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cfpairs.config import ProbeConfig, parse_r
from cfpairs.errors import DataError
from cfpairs.metrics import Groups, evaluate, group_accuracies, wilson_interval
from cfpairs.probes.crossfit import (
    ItemRows,
    PairRows,
    cross_fit_pairs,
    fold_directions,
    in_domain_average,
)
from cfpairs.probes.records import means_over_seeds, prediction_table, result_row
from cfpairs.probes.solver import LinearFits, principal_axes
from cfpairs.probes.sweep import Setting, Sweep, settings_grid, solve_settings
from cfpairs.progress import SILENT, Progress
from cfpairs.selection import Choice, PairScores, best_average, choose_by_pairs
from cfpairs.subspace import Directions, difference_directions

__all__ = ["AUTO_RANKS", "Study", "run_study"]

Array = NDArray[np.float64]

AUTO_RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Ranks that ``r = auto`` chooses among, as far as the pairs' rank allows."""

MAX_WORKERS = 8
GRID_TOL = 1e-4
FINAL_TOL = 1e-6


@dataclass
class Study:
    """What a probe run found.

    Attributes
    ----------
    results : list of dict
        Rows of ``RESULTS``: the setting that each rule chose, by seed, then the mean over seeds.
    grid : list of dict
        One row a fit: pair_set, method, r, C, worst_group, average on test, iterations, gradient_norm.
    curves : list of dict
        Test figures at every rank, C chosen by held-out pairs at that rank.
    predictions : list of pyarrow.Table
        Test predictions of every chosen setting, one table each.
    coefficients : dict of str to ndarray
        ``pair_set/method/selection/seed/{coef,intercept}``, for preprocessed embeddings.
    notes : list of str
        What the user should know.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    grid: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[pa.Table] = field(default_factory=list)
    coefficients: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def run_study(
    train: ItemRows,
    test: ItemRows,
    pair_sets: Sequence[PairRows],
    config: ProbeConfig,
    progress: Progress = SILENT,
) -> Study:
    """Fit, choose and measure.

    Parameters
    ----------
    train, test : ItemRows
        Preprocessed alike.
    pair_sets : sequence of PairRows
        May be empty when only ``erm`` is asked for.
    config : ProbeConfig

    Raises
    ------
    DataError
        If a split is empty, training items have one class, a pair set has no pair, or r is over the rank.
    """
    for rows, name in ((train, "train"), (test, "test")):
        if not rows.ids:
            raise DataError(f"the {name} split has no item with an embedding")
    if "ncm" in config.methods and not pair_sets:
        raise DataError("ncm needs a pair set", got="none", remedy="run 'cfpairs build --method edit' first")
    axes = principal_axes(train.X)
    bench = _Bench(_turned(train, axes), _turned(test, axes), axes, config)
    steps = max(len(pair_sets), 1) * (len(config.seeds) + 2)
    # Fits of different folds run side by side, each on one BLAS thread: products of this size gain little
    # from a second thread, and threads that wait for each other stall where the machine is shared.
    with (
        progress.task("probes", steps) as advance,
        threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, MAX_WORKERS)) as pool,
    ):
        for pairs in pair_sets or (None,):
            bench.pair_set(pairs if pairs is None else pairs.turned(axes), pool, advance)
    bench.study.results.extend(means_over_seeds(bench.study.results))
    return bench.study


def _turned(rows: ItemRows, axes: Array) -> ItemRows:
    return ItemRows(rows.ids, rows.X @ axes, rows.y, rows.env, rows.subject)


class _Bench:
    """The run while it goes on; all rows stand in the training items' principal axes."""

    def __init__(self, train: ItemRows, test: ItemRows, axes: Array, config: ProbeConfig) -> None:
        self.train, self.test, self.axes, self.config = train, test, axes, config
        self.groups = Groups(np.concatenate([train.y, test.y]), np.concatenate([train.env, test.env]))
        self.train_counts = self.groups.counts(train.y, train.env)
        self.test_codes = self.groups.codes(test.y, test.env)
        self.study = Study()
        self.shared_rules_done: set[str] = set()

    def pair_set(self, pairs: PairRows | None, pool: ThreadPoolExecutor, advance: Any) -> None:
        """Everything about one pair set; None fits only what needs no pairs."""
        begun = time.perf_counter()
        rules = [r for r in self.config.selection if pairs is not None or r != "pairs"] or ["in-domain"]
        found = None if pairs is None else self._directions(pairs)
        folds = {} if pairs is None or "pairs" not in rules else self._folds(pairs, pool)
        settings = self._settings(pairs, found, folds)
        Q = None if found is None else found.vectors
        whole = pool.submit(solve_settings, self.train.X, self.train.y, settings, Q, tol=GRID_TOL)
        averages = {
            seed: pool.submit(in_domain_average, self.train, settings, found, seed)
            for seed in self.config.seeds
            if "in-domain" in rules
        }
        scores: dict[int, PairScores] = {}
        for seed in self.config.seeds:
            if pairs is not None and seed in folds:
                scores[seed] = cross_fit_pairs(self.train, pairs, settings, *folds[seed], pool.map)
            advance(1)
        sweep = whole.result()
        seconds = time.perf_counter() - begun
        accuracy = self._grid_rows(pairs, sweep)
        advance(1)
        chosen = {
            seed: self._choose(
                rules, settings, scores.get(seed), accuracy,
                averages[seed].result() if seed in averages else None,
            )
            for seed in self.config.seeds
        }  # fmt: skip
        self._record(pairs, sweep, chosen, scores, found, seconds)
        if pairs is not None and scores:
            self._curve(pairs, sweep, scores[self.config.seeds[0]], accuracy)
        self.shared_rules_done.update(r for r in rules if r != "pairs")
        advance(1)

    def _directions(self, pairs: PairRows) -> Directions:
        if not len(pairs):
            raise DataError(
                f"pair set {pairs.name!r} has no usable pair",
                got="0 with status ok and both embeddings",
                remedy="see its card.md and failures.parquet",
            )
        return difference_directions(pairs.differences)

    def _folds(
        self, pairs: PairRows, pool: ThreadPoolExecutor
    ) -> dict[int, tuple[NDArray[np.int64], list[Directions]]]:
        limit = max(parse_r(self.config.r) or AUTO_RANKS)
        made = {}
        for seed in self.config.seeds:
            fold = pairs.folds(self.config.folds, seed)
            made[seed] = (fold, fold_directions(pairs, fold, limit, pool.map))
        return made

    def _settings(
        self,
        pairs: PairRows | None,
        found: Directions | None,
        folds: dict[int, tuple[NDArray[np.int64], list[Directions]]],
    ) -> tuple[Setting, ...]:
        methods = [m for m in self.config.methods if pairs is not None or m == "erm"]
        ranks = parse_r(self.config.r)
        if pairs is None or found is None:
            return settings_grid(methods, (0,), self.config.C)
        in_folds = min((d.rank for _, each in folds.values() for d in each), default=found.rank)
        if ranks is None:
            ranks = tuple(r for r in AUTO_RANKS if r <= min(found.rank, max(in_folds, 1)))
            if not ranks:
                raise DataError(f"all pairs of {pairs.name!r} have a difference of zero", got=len(pairs))
        elif max(ranks) > found.rank:
            raise DataError(
                f"r is over the rank of pair set {pairs.name!r}",
                got=f"r = {max(ranks)}",
                expected=f"at most {found.rank}, the rank of its {len(pairs)} pairs",
                remedy="lower --r or build more pairs",
            )
        elif max(ranks) > in_folds:
            self.study.notes.append(
                f"{pairs.name}: r = {max(ranks)} is over the rank {in_folds} of the pairs outside a fold; "
                "the rule 'pairs' used all of their directions there"
            )
        return settings_grid(methods, ranks, self.config.C)

    def _grid_rows(self, pairs: PairRows | None, sweep: Sweep) -> Array:
        """Record every fit; returns test accuracies by group, shape (f, groups)."""
        predicted = sweep.predict(self.test.X)
        accuracy = group_accuracies(predicted, self.test.y, self.test_codes, len(self.groups))
        average = (predicted == self.test.y[:, None]).mean(axis=0)
        for i, setting in enumerate(sweep.settings):
            self.study.grid.append(
                {
                    "pair_set": None if pairs is None else pairs.name,
                    "method": setting.method,
                    "r": setting.r,
                    "C": setting.C,
                    "worst_group": float(np.nanmin(accuracy[i])),
                    "average": float(average[i]),
                    "iterations": int(sweep.fits.iterations[i]),
                    "gradient_norm": float(sweep.fits.gradient_norm[i]),
                }
            )
        return accuracy

    def _choose(
        self,
        rules: Sequence[str],
        settings: Sequence[Setting],
        scores: PairScores | None,
        accuracy: Array,
        in_domain: Array | None,
    ) -> dict[tuple[str, str], Choice]:
        """What every rule chooses for every method."""
        chosen: dict[tuple[str, str], Choice] = {}
        for method in dict.fromkeys(s.method for s in settings):
            of = np.array([i for i, s in enumerate(settings) if s.method == method])
            r = np.array([settings[i].r for i in of])
            C = np.array([settings[i].C for i in of])
            for rule in rules:
                if rule != "pairs" and method == "erm" and rule in self.shared_rules_done:
                    continue
                if rule == "pairs" and scores is not None:
                    choice = choose_by_pairs(scores.take(of), r, C)
                elif rule == "in-domain" and in_domain is not None:
                    choice = best_average(in_domain[of], r, C)
                else:
                    choice = best_average(np.nanmin(accuracy[of], axis=1), r, C)
                chosen[method, rule] = Choice(
                    int(of[choice.index]), choice.score, choice.standard_error, choice.best_score
                )
        return chosen

    def _record(
        self,
        pairs: PairRows | None,
        sweep: Sweep,
        chosen: dict[int, dict[tuple[str, str], Choice]],
        scores: dict[int, PairScores],
        found: Directions | None,
        seconds: float,
    ) -> None:
        """Fit every chosen setting to full precision, once, and record what it does on test."""
        wanted = sorted({choice.index for each in chosen.values() for choice in each.values()})
        final = solve_settings(
            self.train.X,
            self.train.y,
            [sweep.settings[i] for i in wanted],
            None if found is None else found.vectors,
            start=sweep.fits.take(wanted),
            tol=FINAL_TOL,
        )
        logits = final.logits(self.test.X)
        predicted = final.decide(logits)
        for seed, each in chosen.items():
            for (method, rule), choice in each.items():
                place = wanted.index(choice.index)
                setting = sweep.settings[choice.index]
                shared = pairs is None or (method == "erm" and rule != "pairs")
                name = None if shared or pairs is None else pairs.name
                result = evaluate(
                    self.test.y, predicted[:, place], self.test.env,
                    groups=self.groups, train_counts=self.train_counts,
                )  # fmt: skip
                held_out = scores.get(seed)
                tried = sum(s.method == method for s in sweep.settings)
                self.study.results.append(
                    result_row(
                        name, setting, rule, seed, choice, result,
                        tried=tried,
                        gradient_norm=float(final.fits.gradient_norm[place]),
                        flip_rate=None if held_out is None else float(held_out.flip_rate[choice.index]),
                        logit_change=None if held_out is None else float(held_out.logit_change[choice.index]),
                        n_pairs=None if name is None or pairs is None else len(pairs),
                        seconds=seconds * tried / len(sweep.settings),
                    )
                )  # fmt: skip
                self.study.predictions.append(
                    prediction_table(
                        self.test.ids, self.test.y, predicted[:, place], logits[:, place],
                        name, setting, rule, seed,
                    )
                )  # fmt: skip
                self._keep(name, method, rule, seed, final.fits, place, found, setting.r)

    def _keep(
        self,
        name: str | None,
        method: str,
        rule: str,
        seed: int,
        fits: LinearFits,
        place: int,
        found: Directions | None,
        r: int,
    ) -> None:
        coef = fits.coef[place] @ self.axes.T
        if found is not None and r:
            top = self.axes @ found.top(r)
            coef -= (coef @ top) @ top.T
        key = f"{name or 'none'}/{method}/{rule}/{seed}"
        self.study.coefficients[f"{key}/coef"] = np.ascontiguousarray(coef)
        self.study.coefficients[f"{key}/intercept"] = np.ascontiguousarray(fits.intercept[place])

    def _curve(self, pairs: PairRows, sweep: Sweep, scores: PairScores, accuracy: Array) -> None:
        """Test figures at every rank; C is chosen by the held-out pairs of the first seed."""
        predicted = sweep.predict(self.test.X)
        for method, r in sorted({(s.method, s.r) for s in sweep.settings}):
            of = np.array([i for i, s in enumerate(sweep.settings) if (s.method, s.r) == (method, r)])
            C = np.array([sweep.settings[i].C for i in of])
            best = int(of[choose_by_pairs(scores.take(of), np.full(len(of), r), C).index])
            worst = int(np.nanargmin(accuracy[best]))
            rows = self.test_codes == worst
            right = predicted[:, best] == self.test.y
            low, high = wilson_interval(right[rows].sum(), rows.sum())
            self.study.curves.append(
                {
                    "pair_set": pairs.name,
                    "method": method,
                    "r": r,
                    "C": sweep.settings[best].C,
                    "worst_group": float(accuracy[best, worst]),
                    "worst_group_low": float(low),
                    "worst_group_high": float(high),
                    "average": float(right.mean()),
                }
            )
