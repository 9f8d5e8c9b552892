"""Fits on parts of the training items, for the rules that choose a setting."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.sweep import Setting, solve_settings
from cfpairs.selection import PairScores, fold_of_clusters, held_out_rows, pair_clusters, score_pairs
from cfpairs.subspace import Directions, difference_directions

__all__ = ["ItemRows", "PairRows", "cross_fit_pairs", "fold_directions", "in_domain_average"]

Array = NDArray[np.float64]
Map = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]

# Accuracies on a few hundred held-out rows do not change when fits are stopped earlier than this, and
# single precision halves their time; the chosen setting is fitted again to full precision.
SELECTION_TOL = 1e-3
IN_DOMAIN_SHARE = 0.2


@dataclass(frozen=True)
class ItemRows:
    """Items of one split.

    Attributes
    ----------
    ids : list of str, length n
    X : ndarray of shape (n, d)
        Preprocessed embeddings.
    y, env : ndarray of shape (n,)
        Labels and environments.
    subject : ndarray of str, shape (n,)
        The subject, or the item's own id where it has none.
    """

    ids: list[str]
    X: Array
    y: NDArray[np.int64]
    env: NDArray[np.int64]
    subject: NDArray[Any]


@dataclass(frozen=True)
class PairRows:
    """The usable pairs of one pair set.

    Attributes
    ----------
    name, method : str
    a, b : ndarray of shape (k, d)
        Preprocessed embeddings of the two sides.
    labels : ndarray of shape (k,)
    env_a, env_b : ndarray of shape (k,) or None
    subject_a, subject_b : ndarray of str, shape (k,)
    """

    name: str
    method: str
    a: Array
    b: Array
    labels: NDArray[np.int64]
    env_a: NDArray[np.int64] | None
    env_b: NDArray[np.int64] | None
    subject_a: NDArray[Any]
    subject_b: NDArray[Any]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def differences(self) -> Array:
        """D, shape (k, d): a minus b."""
        return self.a - self.b

    def folds(self, folds: int, seed: int) -> NDArray[np.int64]:
        """Fold of every pair; pairs that share a subject stay together.

        Where chains of shared subjects join nearly all pairs into one cluster, the a side alone decides.
        Either way no subject of a held-out pair is among the items that the fold's probe is fitted to.
        """
        clusters = pair_clusters(self.subject_a.tolist(), self.subject_b.tolist())
        if len(clusters) and np.bincount(clusters).max() > len(clusters) / 2:
            clusters = pair_clusters(self.subject_a.tolist(), self.subject_a.tolist())
        return fold_of_clusters(clusters, folds, seed)

    def turned(self, axes: Array) -> PairRows:
        """The same pairs in other axes."""
        return PairRows(
            self.name, self.method, self.a @ axes, self.b @ axes, self.labels, self.env_a, self.env_b,
            self.subject_a, self.subject_b,
        )  # fmt: skip


def fold_directions(pairs: PairRows, fold: NDArray[np.int64], limit: int, run: Map = map) -> list[Directions]:
    """Directions of the differences without each fold in turn; `run` is a ``map``, serial or of a pool."""
    D = pairs.differences
    numbers = range(int(fold.max()) + 1)
    return list(run(lambda f: difference_directions(D[fold != f], limit=limit), numbers))


def cross_fit_pairs(
    train: ItemRows,
    pairs: PairRows,
    settings: Sequence[Setting],
    fold: NDArray[np.int64],
    directions: Sequence[Directions],
    run: Map = map,
) -> PairScores:
    """Judge every setting on pairs that neither its projection nor its probe has seen.

    Parameters
    ----------
    train, pairs
        In the same principal axes.
    settings : sequence of Setting
        A rank over that of a fold's pairs stands for all of their directions.
    fold : ndarray of shape (k,)
    directions : sequence of Directions, one a fold
    run : callable
        A ``map``, serial or of a pool of threads; folds do not depend on each other.

    Raises
    ------
    DataError
        If leaving a fold's subjects out leaves fewer than two classes.
    """
    k, f = len(pairs), len(settings)
    predicted = np.empty((2, k, f), dtype=train.y.dtype)
    change = np.empty((k, f))
    rows = train.X.astype(np.float32)

    def judge(number: int) -> None:
        found, held = directions[number], np.flatnonzero(fold == number)
        seen = np.concatenate([pairs.subject_a[held], pairs.subject_b[held]])
        kept = ~np.isin(train.subject, seen)
        if len(np.unique(train.y[kept])) < 2:
            raise DataError(
                f"the pairs of {pairs.name!r} cannot be held out in turn",
                got=f"{int(kept.sum())} training items of one class without their subjects",
                remedy="use fewer folds, or another selection rule",
            )
        capped = [Setting(s.method, min(s.r, found.rank), s.C) for s in settings]
        fit = solve_settings(rows[kept], train.y[kept], capped, found.vectors, tol=SELECTION_TOL)
        a, b = fit.logits(pairs.a[held]), fit.logits(pairs.b[held])
        predicted[0, held], predicted[1, held] = fit.decide(a), fit.decide(b)
        change[held] = np.abs(a - b).max(axis=2)

    # Each fold writes its own rows, so the order in which threads end does not matter.
    for _ in run(judge, range(len(directions))):
        pass
    return score_pairs(pairs.labels, predicted[0], predicted[1], pairs.env_a, pairs.env_b, change)


def in_domain_average(
    train: ItemRows, settings: Sequence[Setting], directions: Directions | None, seed: int
) -> Array:
    """Average accuracy of every setting on a held-out fifth of the training items, shape (f,).

    Raises
    ------
    DataError
        If the rest has one class only.
    """
    held = held_out_rows(train.subject.tolist(), IN_DOMAIN_SHARE, seed)
    if held.all() or len(np.unique(train.y[~held])) < 2:
        raise DataError(
            "a fifth of the training items cannot be held out",
            got=f"{int((~held).sum())} items left, of {len(np.unique(train.y[~held]))} classes",
            expected="two classes",
            remedy="choose another selection rule",
        )
    fit = solve_settings(
        train.X[~held].astype(np.float32),
        train.y[~held],
        settings,
        None if directions is None else directions.vectors,
        tol=SELECTION_TOL,
    )
    return np.asarray((fit.predict(train.X[held]) == train.y[held][:, None]).mean(axis=0), np.float64)
