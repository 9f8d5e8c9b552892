"""The fits that rules of choice need: to all training items, to parts of them, without a fold of pairs.

Every task fits all methods to one part of the data, so that they share what they compute from it. Methods
that look at no pair are fitted once for all pair sets.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import ProbeConfig
from cfpairs.probes.candidates import SELECTION_TOL, Candidates, PairJudge, Predictor
from cfpairs.probes.crossfit import (
    Coding,
    ItemRows,
    PairRows,
    environment_splits,
    fold_data,
    halves,
    in_domain_mask,
    part_of,
    subject_folds,
)
from cfpairs.probes.method import FitData
from cfpairs.selection import PairScores
from cfpairs.subspace import Directions

__all__ = ["Fold", "RuleFits", "Task"]

Array = NDArray[np.floating[Any]]
Task = Callable[[], None]

TEST_FOLDS = 5


@dataclass(frozen=True)
class Fold:
    """One fold of one seed: the pairs that are held out and the directions of the others."""

    seed: int
    held: NDArray[np.bool_]
    directions: Directions


class RuleFits:
    """Fits and judges candidates by every rule.

    Parameters
    ----------
    train, test : ItemRows
        In the training items' principal axes, like everything else.
    validation : ItemRows or None
    axes : ndarray of shape (d, d)
        Those axes.
    coding : Coding
    config : ProbeConfig
    """

    def __init__(
        self,
        train: ItemRows,
        test: ItemRows,
        validation: ItemRows | None,
        axes: Array,
        coding: Coding,
        config: ProbeConfig,
    ) -> None:
        self.train, self.test, self.validation = train, test, validation
        self.axes, self.coding, self.config = axes, coding, config
        # A method that is fitted to validation items is judged on others.
        self.val_fit: ItemRows | None = None
        self.val_judge: ItemRows | None = None
        if validation is not None:
            self.val_fit, self.val_judge = halves(validation, config.seeds[0])
        self.plain = self._data(np.float64, None, None)
        self._rough = self._data(np.float32, None, None)
        self._lock = threading.Lock()

    def _data(self, dtype: type, found: Directions | None, differences: Array | None) -> FitData:
        return FitData(
            self.coding.rows(self.train, dtype),
            len(self.coding.classes),
            len(self.coding.environments),
            found,
            differences,
            None if self.val_fit is None else self.coding.rows(self.val_fit, dtype),
            axes=self.axes,
        )

    def whole(self, found: Directions, differences: Array) -> FitData:
        """All training items, and pairs."""
        return replace(self.plain, directions=found, differences=differences, cache={})

    # All training items ------------------------------------------------------------------------------

    def grid(self, fresh: Sequence[Candidates], exact: FitData) -> list[Task]:
        """Fits of every setting to all training items, in float32, and the rules that judge these very fits.

        Chosen settings are fitted to `exact` later.
        """
        rough = self._rough
        if exact is not self.plain:
            rough = replace(rough, directions=exact.directions, differences=exact.differences, cache={})
        # Fits to validation rows are known to every fold that comes after.
        first = sorted(fresh, key=lambda each: "validation" not in each.method.needs)
        return [
            lambda each=each: self._grid(each, rough)  # type: ignore[misc]
            for each in first
        ]

    def _grid(self, each: Candidates, data: FitData) -> None:
        if "test" in each.method.needs:
            self._on_test(each)
        else:
            each.fits = each.fit(data, each.seeds, tol=SELECTION_TOL)
            each.test = each.fits.logits(self.test.X)
        if "oracle" in self.config.selection:
            each.score_rows(each.test_labels(self.coding), "oracle", self.test, each.seeds)
        judged = self.val_judge if "validation" in each.method.needs else self.validation
        if judged is None or each.fits is None or "test" in each.method.needs:
            return
        labels = Predictor(each.fits, self.coding).predict(judged.X)
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
            each.fits = each.fit(data, each.seeds, tol=SELECTION_TOL)
            logits = each.fits.logits(self.test.X[held])
            if each.test is None:
                each.test = np.zeros((len(self.test.ids), *logits.shape[1:]))
            each.test[held] = logits

    # Parts of the training items ---------------------------------------------------------------------

    def parts(self, fresh: Sequence[Candidates], base: FitData) -> list[Task]:
        """Fits to parts of the training items, one task a part."""
        able = [each for each in fresh if "test" not in each.method.needs]
        tasks: list[Task] = []
        if "in-domain" in self.config.selection:
            tasks += [
                lambda seed=seed: self._in_domain(able, seed, base)  # type: ignore[misc]
                for seed in self.config.seeds
            ]
        splits = environment_splits(self.train)
        if "leave-one-env-out" not in self.config.selection or len(splits) < 2:
            return tasks
        left = len(self.coding.environments) - 1
        enough = [each for each in able if left >= (2 if "env" in each.method.needs else 1)]
        found: list[list[Array]] = [[] for _ in enough]
        return tasks + [
            lambda held=held: self._without(enough, held, base, found, len(splits)) for held in splits
        ]

    def _held_out(
        self, able: Sequence[Candidates], held: NDArray[np.bool_], seeds: Sequence[int], base: FitData
    ) -> Iterable[NDArray[np.int64]]:
        """Labels that fits on the other training items give to those held out, (held, fits) a method."""
        data = part_of(
            self.coding, self.train, ~held, directions=base.directions, differences=base.differences,
            validation=self.val_fit, axes=self.axes,
        )  # fmt: skip
        for each in able:
            fits = each.fit(data, seeds, tol=SELECTION_TOL)
            yield Predictor(fits, self.coding).predict(self.train.X[held])

    def _in_domain(self, able: Sequence[Candidates], seed: int, base: FitData) -> None:
        """The rule ``in-domain``: accuracy on a fifth of the training items."""
        held = in_domain_mask(self.train, seed)
        items = self.train.take(held)
        for each, labels in zip(able, self._held_out(able, held, (seed,), base), strict=True):
            each.score_rows(labels, "in-domain", items, (seed,))

    def _without(
        self,
        able: Sequence[Candidates],
        held: NDArray[np.bool_],
        base: FitData,
        found: list[list[Array]],
        splits: int,
    ) -> None:
        """The rule ``leave-one-env-out``: mean accuracy on each environment by fits to the others."""
        every = self._held_out(able, held, self.config.seeds, base)
        for each, own, labels in zip(able, found, every, strict=True):
            right = (labels == self.train.y[held][:, None]).mean(axis=0)
            with self._lock:
                own.append(right)
                if len(own) < splits:
                    continue
            mean = np.sort(own, axis=0).mean(axis=0)  # the order in which threads end does not matter
            for number, seed in enumerate(each.seeds):
                first = number * len(each.settings) if each.method.stochastic else 0
                each.scores["leave-one-env-out", seed] = mean[first : first + len(each.settings)]

    # Pairs -------------------------------------------------------------------------------------------

    def without_pairs(
        self, fresh: Sequence[Candidates], pair_sets: Sequence[PairRows]
    ) -> tuple[list[Task], Callable[[str], Mapping[str, dict[int, PairScores]]]]:
        """The rule ``pairs`` for methods that look at none: one fold of the subjects left out in turn.

        Returns
        -------
        tasks : list
        scores : callable
            Name of a pair set -> method -> seed -> scores; for when the tasks are done.
        """
        able = [each for each in fresh if "test" not in each.method.needs]
        judges = {
            pairs.name: {
                (each.method.name, seed): PairJudge(pairs, len(each.settings))
                for each in able
                for seed in self.config.seeds
            }
            for pairs in pair_sets
        }
        unfit: set[tuple[str, int]] = set()

        def judge(seed: int, of: Mapping[Any, int], number: int) -> None:
            out = np.array([of[subject] == number for subject in self.train.subject])
            data = part_of(
                self.coding, self.train, ~out, directions=None, differences=None, validation=self.val_fit,
                axes=self.axes,
            )  # fmt: skip
            sides = {pairs.name: _sides(pairs, of, number) for pairs in pair_sets}
            for each in able:
                if "env" in each.method.needs and data.n_env < 2:
                    unfit.add((each.method.name, seed))
                    continue
                predictor = Predictor(each.fit(data, (seed,), tol=SELECTION_TOL), self.coding)
                for name, (a, b) in sides.items():
                    judges[name][each.method.name, seed].add(a, b, predictor)

        tasks: list[Task] = []
        for seed in self.config.seeds if able and pair_sets else ():
            of = subject_folds(self.train, self.config.folds, seed)
            tasks += [
                lambda seed=seed, of=of, number=number: judge(seed, of, number)  # type: ignore[misc]
                for number in range(max(of.values()) + 1)
            ]
        return tasks, lambda name: self._scores(judges[name], unfit)

    def with_pairs(
        self, fresh: Sequence[Candidates], pairs: PairRows, folds: Sequence[Fold]
    ) -> tuple[list[Task], Callable[[], Mapping[str, dict[int, PairScores]]]]:
        """The rule ``pairs``: every setting on pairs that neither its projection nor its probe has seen."""
        able = [each for each in fresh if "test" not in each.method.needs]
        judges = {
            (each.method.name, fold.seed): PairJudge(pairs, len(each.settings))
            for each in able
            for fold in folds
        }
        unfit: set[tuple[str, int]] = set()

        def judge(fold: Fold) -> None:
            data = fold_data(
                self.coding, self.train, pairs, fold.held, fold.directions, self.val_fit, self.axes
            )
            for each in able:
                if "env" in each.method.needs and data.n_env < 2:
                    unfit.add((each.method.name, fold.seed))
                    continue
                predictor = Predictor(each.fit(data, (fold.seed,), tol=SELECTION_TOL), self.coding)
                judges[each.method.name, fold.seed].add(fold.held, fold.held, predictor)

        # Each fold writes its own rows, so the order in which threads end does not matter.
        tasks: list[Task] = [lambda fold=fold: judge(fold) for fold in folds if able]  # type: ignore[misc]
        return tasks, lambda: self._scores(judges, unfit)

    def _scores(
        self, judges: Mapping[tuple[str, int], PairJudge], unfit: set[tuple[str, int]]
    ) -> Mapping[str, dict[int, PairScores]]:
        found: dict[str, dict[int, PairScores]] = {}
        for (method, seed), judge in judges.items():
            if (method, seed) not in unfit:
                found.setdefault(method, {})[seed] = judge.scores()
        return found


def _sides(
    pairs: PairRows, of: Mapping[Any, int], number: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Sides that the fit without fold `number` of the subjects may judge.

    A subject that is not in train goes with the other side's, or with fold 0.
    """
    a, b = ([of.get(subject) for subject in side] for side in (pairs.subject_a, pairs.subject_b))
    fold_a = [first if first is not None else second or 0 for first, second in zip(a, b, strict=True)]
    fold_b = [second if second is not None else first or 0 for first, second in zip(a, b, strict=True)]
    return np.array(fold_a, np.int64) == number, np.array(fold_b, np.int64) == number
