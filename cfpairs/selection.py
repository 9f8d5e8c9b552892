"""How one setting is chosen out of many, and the splits that this needs.

Rules: ``pairs`` (held-out counterfactual pairs are a balanced validation set; needs no label of a group
and no test row), ``in-domain`` (average accuracy on a held-out fifth of the training items), ``validation``
and ``worst-group`` (average and worst group on the val split), ``leave-one-env-out`` and ``oracle`` (the test
set itself; always marked, never a result to claim).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cfpairs.errors import DataError

__all__ = [
    "Choice",
    "PairScores",
    "best_average",
    "choose_by_pairs",
    "fold_of_clusters",
    "held_out_rows",
    "pair_clusters",
    "score_pairs",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A chosen setting.

    Attributes
    ----------
    index : int
        Place among the settings.
    score : float
        What the rule measured for it (never on test, except under ``oracle``).
    standard_error : float
        Of the difference between this score and the best; a rule that knows none has 0.
    best_score : float
        The highest score of any setting.
    """

    index: int
    score: float
    standard_error: float
    best_score: float


def pair_clusters(a: Sequence[Hashable], b: Sequence[Hashable]) -> NDArray[np.int64]:
    """Cluster of every pair: pairs that share a subject on either side belong together.

    Parameters
    ----------
    a, b : sequence of length k
        Subject of each side (an item's own id where it has none).

    Returns
    -------
    ndarray of shape (k,)
        Connected components, numbered in order of first appearance.
    """
    number: dict[Hashable, int] = {}
    left = [number.setdefault(s, len(number)) for s in a]
    right = [number.setdefault(s, len(number)) for s in b]
    if not number:
        return np.zeros(0, np.int64)
    links = coo_array((np.ones(len(left)), (left, right)), shape=(len(number), len(number)))
    _, component = connected_components(links, directed=False)
    _, first, inverse = np.unique(component[left], return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(first))
    return np.asarray(order[inverse], np.int64)


def fold_of_clusters(clusters: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of every pair; a cluster lies in one fold, and folds are as even as clusters allow.

    Raises
    ------
    DataError
        If there are fewer than two clusters.
    """
    sizes = np.bincount(clusters)
    present = np.flatnonzero(sizes)
    if len(present) < 2:
        raise DataError(
            "pairs cannot be split into folds",
            got=f"{len(clusters)} pairs in {len(present)} cluster",
            expected="at least two clusters of pairs that share no subject",
            remedy="add pairs of other subjects, or choose another selection rule",
        )
    folds = min(folds, len(present))
    shuffled = np.random.default_rng([seed, 1]).permutation(present)
    by_size = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    load = np.zeros(folds, np.int64)
    fold = np.zeros(len(sizes), np.int64)
    for cluster in by_size:
        fold[cluster] = load.argmin()
        load[fold[cluster]] += sizes[cluster]
    return fold[clusters]


def held_out_rows(subjects: Sequence[Hashable], share: float, seed: int) -> NDArray[np.bool_]:
    """Mask of about `share` of the rows; a subject is held out whole or not at all."""
    number: dict[Hashable, int] = {}
    code = np.fromiter((number.setdefault(s, len(number)) for s in subjects), np.int64)
    order = np.random.default_rng([seed, 2]).permutation(len(number))
    size = np.bincount(code, minlength=len(number))[order].cumsum()
    wanted = order[: int(np.searchsorted(size, share * len(code))) + 1]
    return np.isin(code, wanted)


@dataclass(frozen=True)
class PairScores:
    """What every setting does on held-out pairs, both sides with the source's label.

    Attributes
    ----------
    right : ndarray of bool, shape (2 k, f)
        Whether each side is classified as its source's label; the a sides, then the b sides.
    cell : ndarray of shape (2 k,)
        Cell of every side: label x environment, or label x side where environments are unknown.
    flip_rate : ndarray of shape (f,)
        Share of pairs whose sides get different predictions; NaN where no pair tells.
    logit_change : ndarray of shape (f,)
        Mean over pairs of the largest change of a logit.
    """

    right: NDArray[np.bool_]
    cell: NDArray[np.int64]
    flip_rate: Array
    logit_change: Array

    @property
    def cells(self) -> Array:
        """Accuracy of every setting in every cell, shape (f, m)."""
        member = np.zeros((int(self.cell.max()) + 1, len(self.cell)))
        member[self.cell, np.arange(len(self.cell))] = 1.0
        accuracy: Array = member @ self.right / member.sum(axis=1, keepdims=True)
        return accuracy.T

    @property
    def average(self) -> Array:
        """Accuracy of every setting over all sides, shape (f,)."""
        return np.asarray(self.right.mean(axis=0), np.float64)

    def take(self, settings: NDArray[np.int64]) -> PairScores:
        """The same for some of the settings."""
        return PairScores(
            self.right[:, settings], self.cell, self.flip_rate[settings], self.logit_change[settings]
        )


def score_pairs(
    labels: NDArray[Any],
    predicted_a: NDArray[Any],
    predicted_b: NDArray[Any],
    env_a: NDArray[Any] | None,
    env_b: NDArray[Any] | None,
    change: Array,
    together: NDArray[np.bool_] | None = None,
) -> PairScores:
    """Judge every setting on held-out pairs.

    Parameters
    ----------
    labels : ndarray of shape (k,)
    predicted_a, predicted_b : ndarray of shape (k, f)
        Label that every setting predicts for each side.
    env_a, env_b : ndarray of shape (k,) or None
        Environments; None where they are unknown.
    change : ndarray of shape (k, f)
        Largest change of a logit over the pair.
    together : ndarray of bool, shape (k,), optional
        Pairs whose two sides one fit has judged, which alone tell flips; all by default.
    """
    k = len(labels)
    if env_a is None or env_b is None:
        env_a, env_b = np.zeros(k, np.int64), np.ones(k, np.int64)
    both = np.concatenate([labels, labels])
    _, cell = np.unique(np.stack([both, np.concatenate([env_a, env_b])], axis=1), axis=0, return_inverse=True)
    flips = predicted_a != predicted_b
    told = np.ones(k, np.bool_) if together is None else together
    unknown = np.full(flips.shape[1], np.nan)
    return PairScores(
        right=np.concatenate([predicted_a, predicted_b]) == both[:, None],
        cell=np.asarray(cell.reshape(-1), np.int64),
        flip_rate=flips[told].mean(axis=0) if told.any() else unknown,
        logit_change=np.asarray(change)[told].mean(axis=0) if told.any() else unknown,
    )


def choose_by_pairs(scores: PairScores, r: NDArray[Any], C: NDArray[Any]) -> Choice:
    """The rule ``pairs``.

    The best is the setting with the highest accuracy in its worst cell, then the highest average. Of the
    settings within one standard error of it the smallest r is taken, then the strongest ridge (smallest C).
    The error is that of the *difference* from the best on the same rows of the setting's own worst cell:
    settings share their errors, so the binomial error of one accuracy would call too many equal. Where a
    setting that gets nothing right in its worst cell counts as equal, worst cells tell nothing, and the
    average must be within its own such error too; else a constant predictor would be chosen.

    Parameters
    ----------
    scores : PairScores
        Of f settings.
    r, C : ndarray of shape (f,)
    """
    cells = scores.cells
    worst, where = cells.min(axis=1), cells.argmin(axis=1)
    best = int(np.lexsort((scores.average, worst))[-1])
    error = np.zeros(len(worst))
    for cell in np.unique(where):
        of = np.flatnonzero(where == cell)
        rows = scores.right[scores.cell == cell].astype(np.float64)
        error[of] = (rows[:, [best]] - rows[:, of]).std(axis=0) / np.sqrt(len(rows))
    equal = worst >= worst[best] - error
    if not worst[equal].all():
        average, every = scores.average, scores.right.astype(np.float64)
        equal &= average >= average[best] - (every[:, [best]] - every).std(axis=0) / np.sqrt(len(every))
    near = np.flatnonzero(equal)
    index = int(near[np.lexsort((C[near], r[near]))[0]])
    return Choice(index, float(worst[index]), float(error[index]), float(worst[best]))


def best_average(average: Array, r: NDArray[Any], C: NDArray[Any]) -> Choice:
    """The setting with the highest average accuracy; among equals the smallest r, then the smallest C."""
    order = np.lexsort((C, r, -np.asarray(average)))
    index = int(order[0])
    return Choice(index, float(average[index]), 0.0, float(average[index]))
