"""Items and pairs as arrays, and the parts of them that the rules of choice fit and judge on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.method import FitData, Rows
from cfpairs.selection import fold_of_clusters, held_out_rows, pair_clusters
from cfpairs.subspace import Directions, difference_directions

__all__ = [
    "Coding",
    "ItemRows",
    "PairRows",
    "environment_splits",
    "fold_data",
    "fold_directions",
    "halves",
    "in_domain_mask",
    "part_of",
    "subject_folds",
]

Array = NDArray[np.floating[Any]]
Map = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]

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

    def take(self, keep: NDArray[np.bool_]) -> ItemRows:
        """The items of a mask."""
        ids = [item for item, kept in zip(self.ids, keep, strict=True) if kept]
        return ItemRows(ids, self.X[keep], self.y[keep], self.env[keep], self.subject[keep])

    def turned(self, axes: Array) -> ItemRows:
        """The same items in other axes."""
        return ItemRows(self.ids, self.X @ axes, self.y, self.env, self.subject)


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

    def take(self, rows: NDArray[np.integer]) -> PairRows:
        """Some of the pairs."""
        env_a, env_b = (None if env is None else env[rows] for env in (self.env_a, self.env_b))
        return PairRows(
            self.name, self.method, self.a[rows], self.b[rows], self.labels[rows], env_a, env_b,
            self.subject_a[rows], self.subject_b[rows],
        )  # fmt: skip

    def turned(self, axes: Array) -> PairRows:
        """The same pairs in other axes."""
        return PairRows(
            self.name, self.method, self.a @ axes, self.b @ axes, self.labels, self.env_a, self.env_b,
            self.subject_a, self.subject_b,
        )  # fmt: skip


@dataclass(frozen=True)
class Coding:
    """Numbers of labels and environments: those of the training items first.

    Attributes
    ----------
    classes : ndarray of shape (n_classes,)
        Labels of the training items, ascending. A probe knows no others.
    environments : ndarray
        Environments of the training items, ascending.
    """

    classes: NDArray[np.int64]
    environments: NDArray[np.int64]

    @classmethod
    def of(cls, train: ItemRows) -> Coding:
        """The coding of the training items."""
        return cls(np.unique(train.y), np.unique(train.env))

    def rows(self, items: ItemRows, dtype: type = np.float64) -> Rows:
        """Items as rows of numbers; items whose label or environment is not in train are left out."""
        known = np.isin(items.y, self.classes) & np.isin(items.env, self.environments)
        X, y, env = items.X, items.y, items.env
        if not known.all():
            X, y, env = X[known], y[known], env[known]
        return Rows(
            np.asarray(X, dtype), np.searchsorted(self.classes, y), np.searchsorted(self.environments, env)
        )

    def labels(self, index: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels of class indices."""
        return self.classes[index]


def part_of(
    coding: Coding,
    train: ItemRows,
    keep: NDArray[np.bool_],
    *,
    directions: Directions | None,
    differences: Array | None,
    validation: ItemRows | None,
    axes: Array | None = None,
) -> FitData:
    """Some of the training items as what a method is fitted to, in float32.

    Accuracies on a few hundred held-out rows do not change with the precision, and single precision halves
    their time; the chosen setting is fitted again in float64.
    """
    items = train if keep.all() else train.take(keep)
    environments = np.unique(items.env)
    inner = Coding(coding.classes, environments)
    return FitData(
        inner.rows(items, np.float32),
        len(coding.classes),
        len(environments),
        directions,
        differences,
        None if validation is None else coding.rows(validation, np.float32),
        axes=axes,
    )


def fold_directions(pairs: PairRows, fold: NDArray[np.int64], limit: int, run: Map = map) -> list[Directions]:
    """Directions of the differences without each fold in turn; `run` is a ``map``, serial or of a pool."""
    D = pairs.differences
    numbers = range(int(fold.max()) + 1)
    return list(run(lambda f: difference_directions(D[fold != f], limit=limit), numbers))


def fold_data(
    coding: Coding,
    train: ItemRows,
    pairs: PairRows,
    held: NDArray[np.bool_],
    directions: Directions,
    validation: ItemRows | None = None,
    axes: Array | None = None,
) -> FitData:
    """What a probe may see while the pairs `held` judge it: other pairs, and items of other subjects.

    Raises
    ------
    DataError
        If that leaves fewer than two classes.
    """
    seen = np.concatenate([pairs.subject_a[held], pairs.subject_b[held]])
    keep = ~np.isin(train.subject, seen)
    if len(np.unique(train.y[keep])) < 2:
        raise DataError(
            f"the pairs of {pairs.name!r} cannot be held out in turn",
            got=f"{int(keep.sum())} training items of one class without their subjects",
            remedy="use fewer folds, or another selection rule",
        )
    return part_of(
        coding,
        train,
        keep,
        directions=directions,
        differences=pairs.differences[~held],
        validation=validation,
        axes=axes,
    )


def subject_folds(train: ItemRows, folds: int, seed: int) -> dict[Any, int]:
    """Fold of every subject of the training items, as even in items as subjects allow.

    Methods that look at no pair are judged on all pair sets by the fits that leave one fold out in turn.

    Raises
    ------
    DataError
        If there is one subject only, or the items of other folds have one class only.
    """
    names, code = np.unique(np.asarray(train.subject, dtype=str), return_inverse=True)
    if len(names) < 2:
        raise DataError(
            "the training items cannot be held out in turn",
            got="one subject",
            expected="at least two",
            remedy="choose another selection rule",
        )
    fold = fold_of_clusters(code.reshape(-1), folds, seed)
    for number in range(int(fold.max()) + 1):
        if len(np.unique(train.y[fold != number])) < 2:
            raise DataError(
                "the training items cannot be held out in turn",
                got=f"{int((fold != number).sum())} items of one class without a fold of the subjects",
                remedy="use fewer folds, or another selection rule",
            )
    return dict(zip(train.subject.tolist(), fold.tolist(), strict=True))


def halves(items: ItemRows, seed: int) -> tuple[ItemRows, ItemRows]:
    """Two halves of a split that share no subject."""
    first = held_out_rows(items.subject.tolist(), 0.5, seed)
    return items.take(first), items.take(~first)


def in_domain_mask(train: ItemRows, seed: int) -> NDArray[np.bool_]:
    """The fifth of the training items, by subject, that the rule ``in-domain`` holds out.

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
    return held


def environment_splits(train: ItemRows) -> list[NDArray[np.bool_]]:
    """One mask an environment whose absence leaves two classes: the rows that are held out with it."""
    found = []
    for env in np.unique(train.env):
        held = train.env == env
        if len(np.unique(train.y[~held])) >= 2:
            found.append(held)
    return found
