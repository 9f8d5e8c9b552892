"""Some methods of a probe run, from their fits to the rows of its tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import ProbeConfig, parse_r
from cfpairs.errors import DataError
from cfpairs.metrics import Groups
from cfpairs.probes.candidates import Candidates
from cfpairs.probes.crossfit import Coding, ItemRows, PairRows, fold_directions
from cfpairs.probes.method import FitData, ProbeMethod
from cfpairs.probes.records import Recorder, Study
from cfpairs.probes.rulefits import Fold, RuleFits, Task
from cfpairs.progress import Advance
from cfpairs.registry import resolve
from cfpairs.selection import Choice, PairScores
from cfpairs.subspace import Directions, difference_directions
from cfpairs.threads import one_blas_thread

__all__ = ["AUTO_RANKS", "Material", "run_share"]

Array = NDArray[np.floating[Any]]

AUTO_RANKS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
"""Ranks that ``r = auto`` chooses among, as far as the pairs' rank and the given limit allow."""


@dataclass(frozen=True)
class Material:
    """What a probe run is made from; all rows stand in the training items' principal axes.

    Attributes
    ----------
    train, test : ItemRows
    validation : ItemRows or None
    pair_sets : tuple of PairRows
    axes : ndarray of shape (d, d)
        Those axes as columns.
    config : ProbeConfig
    highest : mapping of str to int
        Highest rank that ``r = auto`` may choose for a pair set.
    """

    train: ItemRows
    test: ItemRows
    validation: ItemRows | None
    pair_sets: tuple[PairRows, ...]
    axes: Array
    config: ProbeConfig
    highest: Mapping[str, int]


def run_share(material: Material, methods: Sequence[str], threads: int, advance: Advance) -> Study:
    """Fit `methods`, choose among their settings by every rule, measure what was chosen.

    Parameters
    ----------
    material : Material
    methods : sequence of str
    threads : int
        Fits of different folds run side by side, each on one thread: products of this size gain little from
        a second one, and threads that wait for each other stall where the machine is shared.
    advance : callable
        Told of every step, of which there are ``2 + 2 * len(pair_sets)``.
    """
    probes = [resolve("probes", name)() for name in methods]
    with ExitStack() as stack:
        stack.enter_context(one_blas_thread())
        if any(probe.stochastic for probe in probes):
            stack.enter_context(_one_torch_thread())
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=threads))
        share = _Share(material, probes, pool, advance)
        share.without_pairs()
        for pairs in material.pair_sets:
            share.pair_set(pairs)
    return share.recorder.study


class _one_torch_thread:
    """Torch on one thread a fit while several fits run side by side."""

    def __enter__(self) -> None:
        import torch

        self._before = torch.get_num_threads()
        torch.set_num_threads(1)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_num_threads(self._before)


class _Share:
    """The share while it goes on."""

    def __init__(
        self, material: Material, methods: Sequence[ProbeMethod], pool: ThreadPoolExecutor, advance: Advance
    ) -> None:
        self.config, self.highest, self.pool, self.advance = material.config, material.highest, pool, advance
        self.pair_sets = material.pair_sets
        train, test = material.train, material.test
        coding = Coding.of(train)
        known = material.validation if material.validation is not None and material.validation.ids else None
        self.fits = RuleFits(train, test, known, material.axes, coding, material.config)
        groups = Groups(np.concatenate([train.y, test.y]), np.concatenate([train.env, test.env]))
        counts = groups.counts(train.y, train.env)
        self.recorder = Recorder(test, groups, counts, material.axes, coding)
        able = [method for method in methods if self._possible(method)]
        self.with_pairs = [method for method in able if "pairs" in method.needs]
        self.plain = [self._candidates(method, (0,), None) for method in able if "pairs" not in method.needs]
        self.plain_scores: Callable[[str], Mapping[str, dict[int, PairScores]]] = lambda _: {}

    def _possible(self, method: ProbeMethod) -> bool:
        """Whether the data have what a method needs; says so if not."""
        if "env" in method.needs and len(self.fits.coding.environments) < 2:
            self.recorder.study.notes.append(f"{method.name} was left out: train has one environment only")
            return False
        if "validation" in method.needs and self.fits.val_fit is None:
            self.recorder.study.notes.append(f"{method.name} was left out: there is no validation split")
            return False
        return True

    def _candidates(self, method: ProbeMethod, ranks: tuple[int, ...], highest: int | None) -> Candidates:
        config = self.config
        settings = method.settings(ranks, config.C, config.budget, config.grids.get(method.name))
        return Candidates(method, settings, config.seeds, highest=highest)

    def _run(self, tasks: Iterable[Task]) -> None:
        for job in [self.pool.submit(task) for task in tasks]:
            job.result()

    # Methods that look at no pair --------------------------------------------------------------------

    def without_pairs(self) -> None:
        """All fits of methods that look at no pair, for all pair sets."""
        judged = self.pair_sets if "pairs" in self.config.selection else ()
        tasks, self.plain_scores = self.fits.without_pairs(self.plain, judged)
        self._run(
            [
                *self.fits.grid(self.plain, self.fits.plain),
                *self.fits.parts(self.plain, self.fits.plain),
                *tasks,
            ]
        )
        self.advance(1)
        rules = [rule for rule in self.config.selection if rule != "pairs"]
        self._record(self.plain, rules, None, None, self.fits.plain)
        self.advance(1)

    # One pair set ------------------------------------------------------------------------------------

    def pair_set(self, pairs: PairRows) -> None:
        """Everything about one pair set."""
        if not len(pairs):
            raise DataError(
                f"pair set {pairs.name!r} has no usable pair",
                got="0 with status ok and both embeddings",
                remedy="see its card.md and failures.parquet",
            )
        by_pairs = "pairs" in self.config.selection
        own: list[Candidates] = []
        if self.with_pairs:
            found = difference_directions(pairs.differences)
            folds = self._folds(pairs) if by_pairs else []
            ranks = self._ranks(pairs, found, folds)
            own = [
                self._candidates(method, ranks, self._highest(method, pairs)) for method in self.with_pairs
            ]
            base = self.fits.whole(found, pairs.differences)
            tasks, scores = self.fits.with_pairs(own, pairs, folds)
            self._run([*self.fits.grid(own, base), *self.fits.parts(own, base), *tasks])
            known = scores()
            for each in own:
                each.by_pairs = known.get(each.method.name, {})
        self.advance(1)
        if by_pairs:
            known = self.plain_scores(pairs.name)
            for each in self.plain:
                each.by_pairs = known.get(each.method.name, {})
            self._record(self.plain, ["pairs"], pairs, pairs.name, self.fits.plain)
        if own:
            self._record(own, self.config.selection, pairs, pairs.name, base)
        self.advance(1)

    def _highest(self, method: ProbeMethod, pairs: PairRows) -> int | None:
        """The highest rank that may be chosen; a rank that the user names is the user's choice."""
        if not method.ranks or parse_r(self.config.r) is not None:
            return None
        return self.highest.get(pairs.name)

    def _folds(self, pairs: PairRows) -> list[Fold]:
        limit = max(parse_r(self.config.r) or AUTO_RANKS)
        made = []
        for seed in self.config.seeds:
            fold = pairs.folds(self.config.folds, seed)
            directions = fold_directions(pairs, fold, limit, self.pool.map)
            made += [Fold(seed, fold == number, found) for number, found in enumerate(directions)]
        return made

    def _ranks(self, pairs: PairRows, found: Directions, folds: Sequence[Fold]) -> tuple[int, ...]:
        ranks = parse_r(self.config.r)
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
            self.recorder.study.notes.append(
                f"{pairs.name}: r = {max(ranks)} is over the rank {in_folds} of the pairs outside a fold; "
                "the rule 'pairs' used all of their directions there"
            )
        return ranks

    # Records -----------------------------------------------------------------------------------------

    def _record(
        self,
        every: Sequence[Candidates],
        rules: Sequence[str],
        pairs: PairRows | None,
        name: str | None,
        base: FitData,
    ) -> None:
        """Every chosen setting, fitted to full precision once, and what it does on test."""
        chosen = [
            {
                (rule, seed): choice
                for seed in self.config.seeds
                for rule in rules
                if (choice := each.choose(rule, seed)) is not None
            }
            for each in every
        ]
        self._run(
            lambda each=each, of=of: self._final(each, of, base)  # type: ignore[misc]
            for each, of in zip(every, chosen, strict=True)
        )
        for each, of in zip(every, chosen, strict=True):
            if list(rules) != ["pairs"] or "pairs" in each.method.needs:
                self.recorder.grid(name, each)
            for (rule, seed), choice in of.items():
                fits, logits = each.final[each.place(seed, choice.index)]
                self.recorder.chosen(
                    name, each, rule, seed, choice, fits, logits,
                    n_pairs=None if pairs is None else len(pairs),
                )  # fmt: skip
            if name is not None and each.by_pairs:
                self.recorder.curve(name, each, self.config.seeds[0])
            each.by_pairs = {}

    def _final(self, each: Candidates, chosen: Mapping[tuple[str, int], Choice], base: FitData) -> None:
        """Fit chosen settings to full precision, those that are not yet."""
        wanted = {each.place(seed, choice.index) for (_, seed), choice in chosen.items()}
        places = sorted(wanted - set(each.final))
        if not places or each.fits is None or each.test is None:
            return
        fits, logits = each.fits.take(places), each.test[:, places]
        if "test" not in each.method.needs:
            settings = [each.settings[place % len(each.settings)] for place in places]
            seeds = [each.seeds[place // len(each.settings)] for place in places]
            begun = time.thread_time()
            fits = each.method.fit(base, settings, seeds, start=fits, tol=each.method.final_tol)
            each.count(time.thread_time() - begun, len(places))
            logits = fits.logits(self.fits.test.X)
        for i, place in enumerate(places):
            each.final[place] = (fits.take([i]), logits[:, i : i + 1])
