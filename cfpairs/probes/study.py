"""One probe run: every pair set, method and setting; a choice by every rule; the test figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from cfpairs.config import ProbeConfig, parse_r
from cfpairs.errors import DataError
from cfpairs.metrics import Groups
from cfpairs.probes.candidates import SELECTION_TOL, Candidates, PairJudge, Predictor, held_out_score
from cfpairs.probes.crossfit import (
    Coding,
    ItemRows,
    PairRows,
    environment_splits,
    fold_data,
    fold_directions,
    halves,
    in_domain_mask,
)
from cfpairs.probes.method import FitData, ProbeMethod
from cfpairs.probes.records import Recorder, Study
from cfpairs.probes.solver import principal_axes
from cfpairs.progress import SILENT, Progress
from cfpairs.registry import resolve
from cfpairs.subspace import Directions, difference_directions

__all__ = ["AUTO_RANKS", "Study", "run_study"]

Array = NDArray[np.floating[Any]]

AUTO_RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Ranks that ``r = auto`` chooses among, as far as the pairs' rank and the given limit allow."""

MAX_WORKERS = 8
GRID_TOL = 1e-4
FINAL_TOL = 1e-6
TEST_FOLDS = 5


def run_study(
    train: ItemRows,
    test: ItemRows,
    pair_sets: Sequence[PairRows],
    config: ProbeConfig,
    progress: Progress = SILENT,
    *,
    validation: ItemRows | None = None,
    highest: Mapping[str, int] | None = None,
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

    Raises
    ------
    DataError
        If a split is empty, training items have one class, a pair set has no pair, or r is over the rank.
    """
    for rows, name in ((train, "train"), (test, "test")):
        if not rows.ids:
            raise DataError(f"the {name} split has no item with an embedding")
    methods = [resolve("probes", name)() for name in config.methods]
    for method in methods:
        if "pairs" in method.needs and not pair_sets:
            raise DataError(f"{method.name} needs a pair set", got="none", remedy="run 'cfpairs build' first")
    axes = principal_axes(train.X)
    steps = max(len(pair_sets), 1) * 3
    with ExitStack() as stack:
        advance = stack.enter_context(progress.task("probes", steps))
        # Fits of different folds run side by side, each on one thread: products of this size gain little
        # from a second one, and threads that wait for each other stall where the machine is shared.
        stack.enter_context(threadpool_limits(limits=1, user_api="blas"))
        if any(method.stochastic for method in methods):
            stack.enter_context(_one_torch_thread())
        workers = min(os.cpu_count() or 1, MAX_WORKERS)
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=workers))
        bench = _Bench(train, test, validation, axes, config, methods, highest or {})
        for pairs in pair_sets or (None,):
            bench.pair_set(pairs if pairs is None else pairs.turned(axes), pool, advance)
    return bench.finish()


class _one_torch_thread:
    """Torch on one thread a fit while several fits run side by side."""

    def __enter__(self) -> None:
        import torch

        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self._before)


@dataclass(frozen=True)
class _Fold:
    """One fold of one seed: the pairs that are held out and the directions of the others."""

    seed: int
    held: NDArray[np.bool_]
    directions: Directions


class _Bench:
    """The run while it goes on; all rows stand in the training items' principal axes."""

    def __init__(
        self,
        train: ItemRows,
        test: ItemRows,
        validation: ItemRows | None,
        axes: Array,
        config: ProbeConfig,
        methods: Sequence[ProbeMethod],
        highest: Mapping[str, int],
    ) -> None:
        self.train, self.test, self.axes = train.turned(axes), test.turned(axes), axes
        self.config, self.highest = config, highest
        self.coding = Coding.of(train)
        if len(self.coding.classes) < 2:
            raise DataError(
                "a probe cannot be fitted to one class",
                got=f"only label {self.coding.classes[0]!r} in {len(train.y)} training items",
                expected="at least two classes",
            )
        known = None if validation is None or not validation.ids else validation.turned(axes)
        self.validation = known
        # A method that is fitted to validation items is judged on others.
        self.val_fit: ItemRows | None = None
        self.val_judge: ItemRows | None = None
        if known is not None:
            self.val_fit, self.val_judge = halves(known, config.seeds[0])
        groups = Groups(np.concatenate([train.y, test.y]), np.concatenate([train.env, test.env]))
        self.recorder = Recorder(self.test, groups, groups.counts(train.y, train.env), axes, self.coding)
        self.methods = [method for method in methods if self._possible(method)]
        self.shared: dict[str, Candidates] = {}

    @property
    def study(self) -> Study:
        return self.recorder.study

    def finish(self) -> Study:
        """Everything, with means over seeds and tests against ERM."""
        self.recorder.summarise()
        return self.study

    def _possible(self, method: ProbeMethod) -> bool:
        """Whether the data have what a method needs; says so if not."""
        if "env" in method.needs and len(self.coding.environments) < 2:
            self.study.notes.append(f"{method.name} was left out: train has one environment only")
            return False
        if "validation" in method.needs and self.val_fit is None:
            self.study.notes.append(f"{method.name} was left out: there is no validation split")
            return False
        return True

    # One pair set ------------------------------------------------------------------------------------

    def pair_set(self, pairs: PairRows | None, pool: ThreadPoolExecutor, advance: Any) -> None:
        """Everything about one pair set; None fits only what needs no pairs."""
        found = None if pairs is None else self._directions(pairs)
        folds = [] if pairs is None or "pairs" not in self.config.selection else self._folds(pairs, pool)
        ranks = self._ranks(pairs, found, folds)
        fresh: list[Candidates] = []
        every: list[Candidates] = []
        for method in self.methods:
            needs_pairs = "pairs" in method.needs
            if needs_pairs and pairs is None:
                continue
            known = None if needs_pairs else self.shared.get(method.name)
            if known is None:
                settings = method.settings(
                    ranks, self.config.C, self.config.budget, self.config.grids.get(method.name)
                )
                known = Candidates(method, settings, self.config.seeds, highest=self._highest(method, pairs))
                fresh.append(known)
                if not needs_pairs:
                    self.shared[method.name] = known
            every.append(known)
        base = FitData(
            self.coding.rows(self.train),
            len(self.coding.classes),
            len(self.coding.environments),
            found,
            None if pairs is None else pairs.differences,
            None if self.val_fit is None else self.coding.rows(self.val_fit),
            axes=self.axes,
        )
        jobs = [pool.submit(self._whole, each, base) for each in fresh]
        jobs += self._rule_jobs(fresh, base, pool)
        for job in jobs:
            job.result()
        advance(1)
        if pairs is not None:
            self._judge(every, pairs, folds, pool)
        advance(1)
        self._record(every, fresh, pairs, base)
        advance(1)

    def _highest(self, method: ProbeMethod, pairs: PairRows | None) -> int | None:
        """The highest rank that may be chosen; a rank that the user names is the user's choice."""
        if pairs is None or not method.ranks or parse_r(self.config.r) is not None:
            return None
        return self.highest.get(pairs.name)

    def _directions(self, pairs: PairRows) -> Directions:
        if not len(pairs):
            raise DataError(
                f"pair set {pairs.name!r} has no usable pair",
                got="0 with status ok and both embeddings",
                remedy="see its card.md and failures.parquet",
            )
        return difference_directions(pairs.differences)

    def _folds(self, pairs: PairRows, pool: ThreadPoolExecutor) -> list[_Fold]:
        limit = max(parse_r(self.config.r) or AUTO_RANKS)
        made = []
        for seed in self.config.seeds:
            fold = pairs.folds(self.config.folds, seed)
            directions = fold_directions(pairs, fold, limit, pool.map)
            made += [_Fold(seed, fold == number, found) for number, found in enumerate(directions)]
        return made

    def _ranks(
        self, pairs: PairRows | None, found: Directions | None, folds: Sequence[_Fold]
    ) -> tuple[int, ...]:
        ranks = parse_r(self.config.r)
        if pairs is None or found is None:
            return (0,)
        in_folds = min((fold.directions.rank for fold in folds), default=found.rank)
        if ranks is None:
            most = min(found.rank, max(in_folds, 1))
            ranks = tuple(r for r in AUTO_RANKS if r <= most)
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
        return ranks

    # Fits --------------------------------------------------------------------------------------------

    def _whole(self, each: Candidates, base: FitData) -> None:
        """Fits on all training items, their test logits, and the rules that judge these very fits."""
        if "test" in each.method.needs:
            self._on_test(each)
        else:
            each.fits = each.fit(base, each.seeds, tol=GRID_TOL)
            each.test = each.fits.logits(self.test.X)
        predictor = Predictor(each.fits, self.coding) if each.fits is not None else None
        if "oracle" in self.config.selection:
            each.score_rows(each.test_labels(self.coding), "oracle", self.test, each.seeds)
        if self.validation is None or predictor is None or "test" in each.method.needs:
            return
        judged = self.val_judge if "validation" in each.method.needs else self.validation
        if judged is None:
            return
        labels = predictor.predict(judged.X)
        for rule in ("validation", "worst-group"):
            if rule in self.config.selection:
                each.score_rows(labels, rule, judged, each.seeds)

    def _on_test(self, each: Candidates) -> None:
        """The oracle's own way: fitted to test items of other subjects, fold by fold."""
        number: dict[Any, int] = {}
        code = np.fromiter((number.setdefault(s, len(number)) for s in self.test.subject), np.int64)
        fold = np.random.default_rng([self.config.seeds[0], 3]).permutation(len(number))[code] % TEST_FOLDS
        rows = Coding(self.coding.classes, np.unique(self.test.env)).rows
        for held in (fold == f for f in range(TEST_FOLDS)):
            if not held.any():
                continue
            part = rows(self.test.take(~held))
            data = FitData(part, len(self.coding.classes), int(part.env.max()) + 1, test=part)
            each.fits = each.fit(data, each.seeds, tol=GRID_TOL)
            logits = each.fits.logits(self.test.X[held])
            if each.test is None:
                each.test = np.zeros((len(self.test.ids), *logits.shape[1:]))
            each.test[held] = logits

    def _rule_jobs(self, fresh: Sequence[Candidates], base: FitData, pool: ThreadPoolExecutor) -> list[Any]:
        """Fits on parts of the training items, one job a method and part."""
        jobs = []
        for each in fresh:
            if "test" in each.method.needs:
                continue
            if "in-domain" in self.config.selection:
                jobs += [pool.submit(self._in_domain, each, seed, base) for seed in each.seeds]
            if "leave-one-env-out" in self.config.selection:
                jobs.append(pool.submit(self._without_each_environment, each, base))
        return jobs

    def _in_domain(self, each: Candidates, seed: int, base: FitData) -> None:
        held = in_domain_mask(self.train, seed)
        labels = held_out_score(each, self.coding, self.train, held, (seed,), base, self.val_fit)
        each.score_rows(labels, "in-domain", self.train.take(held), (seed,))

    def _without_each_environment(self, each: Candidates, base: FitData) -> None:
        """The rule ``leave-one-env-out``: mean accuracy on each environment by fits to the others."""
        splits = environment_splits(self.train)
        fewest = 2 if "env" in each.method.needs else 1
        if len(splits) < 2 or len(self.coding.environments) - 1 < fewest:
            return
        total = 0.0
        for held in splits:
            labels = held_out_score(each, self.coding, self.train, held, each.seeds, base, self.val_fit)
            total = total + (labels == self.train.y[held][:, None]).mean(axis=0)
        mean = np.asarray(total) / len(splits)
        for number, seed in enumerate(each.seeds):
            first = number * len(each.settings) if each.method.stochastic else 0
            each.scores["leave-one-env-out", seed] = mean[first : first + len(each.settings)]

    def _judge(
        self, every: Sequence[Candidates], pairs: PairRows, folds: Sequence[_Fold], pool: ThreadPoolExecutor
    ) -> None:
        """The rule ``pairs``: every setting on pairs that neither its projection nor its probe has seen."""
        able = [each for each in every if "test" not in each.method.needs]
        judges = {
            (each.method.name, seed): PairJudge(pairs, len(each.settings))
            for each in able
            for seed in self.config.seeds
        }

        unfit: set[tuple[str, int]] = set()

        def run(fold: _Fold) -> None:
            data = fold_data(
                self.coding, self.train, pairs, fold.held, fold.directions, self.val_fit, self.axes
            )
            for each in able:
                if "env" in each.method.needs and data.n_env < 2:
                    unfit.add((each.method.name, fold.seed))
                    continue
                fits = each.fit(data, (fold.seed,), tol=SELECTION_TOL)
                judges[each.method.name, fold.seed].add(fold.held, Predictor(fits, self.coding))

        # Each fold writes its own rows, so the order in which threads end does not matter.
        for _ in pool.map(run, folds):
            pass
        for each in able:
            each.by_pairs = {
                seed: judges[each.method.name, seed].scores()
                for seed in self.config.seeds
                if any(fold.seed == seed for fold in folds) and (each.method.name, seed) not in unfit
            }

    # Records -----------------------------------------------------------------------------------------

    def _record(
        self, every: Sequence[Candidates], fresh: Sequence[Candidates], pairs: PairRows | None, base: FitData
    ) -> None:
        name = None if pairs is None else pairs.name
        for each in every:
            own = name if "pairs" in each.method.needs else None
            if each in fresh:
                self.recorder.grid(own, each)
            rules = [rule for rule in self.config.selection if rule == "pairs" or each in fresh]
            self._final(each, rules, name, own, pairs, base)
            if pairs is not None and each.by_pairs:
                self.recorder.curve(pairs.name, each, self.config.seeds[0])
            each.by_pairs = {}

    def _final(
        self,
        each: Candidates,
        rules: Sequence[str],
        name: str | None,
        own: str | None,
        pairs: PairRows | None,
        base: FitData,
    ) -> None:
        """Fit every chosen setting to full precision, once, and record what it does on test."""
        chosen = {
            (rule, seed): choice
            for seed in self.config.seeds
            for rule in rules
            if (choice := each.choose(rule, seed)) is not None
        }
        if not chosen or each.fits is None or each.test is None:
            return
        places = sorted({each.place(seed, choice.index) for (_, seed), choice in chosen.items()})
        fits, logits = each.fits.take(places), each.test[:, places]
        if not each.method.stochastic and "test" not in each.method.needs:
            settings = [each.settings[place] for place in places]
            fits = each.method.fit(base, settings, [0] * len(places), start=fits, tol=FINAL_TOL)
            logits = fits.logits(self.test.X)
        for (rule, seed), choice in chosen.items():
            place = places.index(each.place(seed, choice.index))
            self.recorder.chosen(
                name if rule == "pairs" else own, each, rule, seed, choice, fits, logits, place,
                n_pairs=None if pairs is None else len(pairs),
            )  # fmt: skip
