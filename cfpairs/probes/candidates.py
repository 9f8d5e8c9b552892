"""All settings of one method: their fits on the training items, and what every rule makes of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.metrics import group_accuracies
from cfpairs.probes.crossfit import Coding, ItemRows, PairRows
from cfpairs.probes.fits import LinearFits, decide
from cfpairs.probes.method import FitData, ProbeMethod, Setting
from cfpairs.selection import Choice, PairScores, best_average, choose_by_pairs, score_pairs

__all__ = ["Candidates", "PairJudge", "Predictor"]

Array = NDArray[np.floating[Any]]

SELECTION_TOL = 1e-3
"""Gradient norm at which fits that are only compared stop. Against fits to a tenth of it, accuracies on a few
hundred held-out rows move by half a point on average; chosen settings are fitted to full precision."""


@dataclass(frozen=True)
class Predictor:
    """Fits that turn rows into labels.

    Attributes
    ----------
    fits : LinearFits
    coding : Coding
    """

    fits: LinearFits
    coding: Coding

    def logits(self, X: Array) -> Array:
        """Logits of every fit, shape (n, f, c); c is 1 for two classes."""
        return self.fits.logits(X)

    def decide(self, logits: Array) -> NDArray[np.int64]:
        """Labels that logits stand for, shape (n, f)."""
        return self.coding.labels(decide(logits))

    def predict(self, X: Array) -> NDArray[np.int64]:
        """Labels predicted by every fit, shape (n, f)."""
        return self.decide(self.logits(X))


class PairJudge:
    """Collects, fold by fold, what every setting says of held-out pairs.

    Either side is judged by a fit that has not seen its subject. The two sides of a pair of two subjects may
    be judged by two fits; whether it flips is then not known.
    """

    def __init__(self, pairs: PairRows, n_settings: int) -> None:
        k = len(pairs)
        self.pairs = pairs
        self.predicted = np.zeros((2, k, n_settings), np.int64)
        self.change = np.zeros((k, n_settings))
        self.together = np.zeros(k, np.bool_)

    def add(self, held_a: NDArray[np.bool_], held_b: NDArray[np.bool_], predictor: Predictor) -> None:
        """The verdict of fits that have not seen those sides; folds may come from several threads."""
        a, b = predictor.logits(self.pairs.a[held_a]), predictor.logits(self.pairs.b[held_b])
        self.predicted[0, held_a], self.predicted[1, held_b] = predictor.decide(a), predictor.decide(b)
        both = held_a & held_b
        self.change[both] = np.abs(a[both[held_a]] - b[both[held_b]]).max(axis=2)
        self.together |= both

    def scores(self) -> PairScores:
        """What the rule ``pairs`` compares."""
        pairs = self.pairs
        return score_pairs(
            pairs.labels, self.predicted[0], self.predicted[1], pairs.env_a, pairs.env_b, self.change,
            self.together,
        )  # fmt: skip


@dataclass
class Candidates:
    """The settings of one method on one pair set, or on none where it needs no pairs.

    Attributes
    ----------
    method : ProbeMethod
    settings : tuple of Setting
    seeds : tuple of int
    fits : LinearFits
        On all training items: one a setting, or one a seed and setting where the method is stochastic.
    test : ndarray of shape (n_test, fits, c)
        Logits on test.
    scores : dict of (rule, seed) to ndarray of shape (settings,)
        What a rule maximises; not there where the rule cannot judge the method.
    by_pairs : dict of seed to PairScores
    final : dict of int to (LinearFits, ndarray of shape (n_test, 1, c))
        Chosen settings fitted to full precision, by their place, and their logits on test.
    seconds : float
        Of one core, spent on fitting, all rules together.
    n_fits : int
        How many fits that were.
    highest : int or None
        Highest rank that a rule may choose; the rule ``oracle``, which is a ceiling, is free.
    """

    method: ProbeMethod
    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    fits: LinearFits | None = None
    test: Array | None = None
    scores: dict[tuple[str, int], Array] = field(default_factory=dict)
    by_pairs: dict[int, PairScores] = field(default_factory=dict)
    final: dict[int, tuple[LinearFits, Array]] = field(default_factory=dict)
    seconds: float = 0.0
    n_fits: int = 0
    highest: int | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def fit(
        self, data: FitData, seeds: Sequence[int], *, tol: float, start: LinearFits | None = None
    ) -> LinearFits:
        """Every setting for every seed, seed by seed; once for all where the method is not stochastic."""
        begun = time.thread_time()
        repeated = tuple(seeds) if self.method.stochastic else tuple(seeds)[:1]
        settings = [setting for _ in repeated for setting in self.settings]
        each = [seed for seed in repeated for _ in self.settings]
        found = self.method.fit(data, settings, each, start=start, tol=tol)
        self.count(time.thread_time() - begun, len(settings))
        return found

    def count(self, seconds: float, fits: int) -> None:
        """Add to what this method has cost."""
        with self._lock:
            self.seconds += seconds
            self.n_fits += fits

    def place(self, seed: int, index: int) -> int:
        """Where the fit of a seed and setting stands among the fits."""
        return self.seeds.index(seed) * len(self.settings) + index if self.method.stochastic else index

    def of_seed(self, values: NDArray[Any], seed: int, axis: int = 0) -> NDArray[Any]:
        """The part of an array over fits that belongs to one seed."""
        first = self.place(seed, 0)
        return np.take(values, np.arange(first, first + len(self.settings)), axis=axis)

    def test_labels(self, coding: Coding) -> NDArray[np.int64]:
        """Labels that every fit gives to the test rows, shape (n_test, fits)."""
        if self.test is None:
            raise DataError(f"{self.method.name} was measured before it was fitted")
        return coding.labels(decide(self.test))

    def score_rows(
        self, predicted: NDArray[np.int64], rule: str, items: ItemRows, seeds: Sequence[int]
    ) -> None:
        """Score every setting by its average on `items`, or by its worst group where the rule says so.

        Parameters
        ----------
        predicted : ndarray of shape (n, fits)
            Of as many seeds as `seeds` has, or of one where the method is not stochastic.
        """
        right = predicted == items.y[:, None]
        if rule in ("worst-group", "oracle"):
            _, codes = np.unique(np.stack([items.y, items.env]), axis=1, return_inverse=True)
            codes = codes.reshape(-1)
            accuracy = group_accuracies(predicted, items.y, codes, int(codes.max()) + 1)
            value = np.nanmin(accuracy, axis=1)
        else:
            value = right.mean(axis=0)
        for number, seed in enumerate(seeds):
            first = number * len(self.settings) if self.method.stochastic else 0
            self.scores[rule, seed] = value[first : first + len(self.settings)]

    def choose(self, rule: str, seed: int) -> Choice | None:
        """The setting that a rule chooses; None where it cannot judge the method."""
        r = np.array([s.r for s in self.settings])
        C = np.array([s.C for s in self.settings])
        open_to = np.arange(len(r))
        if self.highest is not None and rule != "oracle":
            # Where even the lowest rank is over the limit, the lowest is all there is.
            open_to = np.flatnonzero(r <= max(self.highest, r.min()))
        if rule == "pairs":
            if seed not in self.by_pairs:
                return None
            choice = choose_by_pairs(self.by_pairs[seed].take(open_to), r[open_to], C[open_to])
        else:
            found = self.scores.get((rule, seed))
            if found is None:
                return None
            choice = best_average(np.asarray(found, np.float64)[open_to], r[open_to], C[open_to])
        return replace(choice, index=int(open_to[choice.index]))
