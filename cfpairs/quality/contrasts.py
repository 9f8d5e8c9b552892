"""Differences between group means: of environments within a label, and of labels.

The squared length of a difference of means is signal plus sampling noise, and in many dimensions the noise
is the larger part. Each contrast therefore carries the items behind it, whose weighted squared deviations
are an unbiased estimate of that noise (a U-statistic).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Contrast",
    "Groups",
    "environment_contrast",
    "group_rows",
    "label_contrast",
    "pair_contrast",
]

Floats = NDArray[np.float64]
Codes = NDArray[np.integer]


@dataclass(frozen=True)
class Contrast:
    """Differences between group means, and the items that tell how noisy they are.

    Attributes
    ----------
    vectors : ndarray of shape (q, d)
        Weighted deviations of group means; the sum of their squared norms is signal plus noise.
    deviations : ndarray of shape (n, d)
        Items less the mean of their group.
    weights : ndarray of shape (n,)
        The noise is the weighted sum of the squared norms of the deviations.
    """

    vectors: Floats
    deviations: Floats
    weights: Floats


@dataclass(frozen=True)
class Groups:
    """Rows by group: means (g, d), counts (g,), the group of each row (n,), and rows less their mean."""

    means: Floats
    counts: NDArray[np.int64]
    codes: NDArray[np.int64]
    deviations: Floats


def group_rows(X: Floats, *keys: Codes) -> tuple[NDArray[np.integer], Groups]:
    """Distinct rows of the keys, and the items grouped by them."""
    cells, codes = np.unique(np.stack(keys, axis=1), axis=0, return_inverse=True)
    codes = codes.ravel()
    counts = np.bincount(codes)
    order = np.argsort(codes, kind="stable")
    starts = np.concatenate(([0], np.cumsum(counts)[:-1]))
    means = np.add.reduceat(X[order], starts, axis=0) / counts[:, None]
    return cells, Groups(means, counts, codes, X - means[codes])


def _contrast(groups: Groups, coefficients: Floats, clusters: Codes | None = None) -> Contrast:
    """Contrast ``coefficients @ means`` with the weights that make its scatter's noise unbiased.

    Items of one cluster err alike, so the sum of a cluster's deviations takes the place of its items.
    """
    deviations, codes, counts = groups.deviations, groups.codes, groups.counts
    units = counts
    if clusters is not None:
        cells, deviations_of = np.unique(np.stack([codes, clusters], axis=1), axis=0, return_inverse=True)
        sums = np.zeros((len(cells), deviations.shape[1]))
        np.add.at(sums, deviations_of.ravel(), deviations)
        deviations, codes = sums, cells[:, 0]
        units = np.bincount(codes, minlength=len(counts))
    scale = units / (counts**2 * np.maximum(units - 1.0, 1.0))
    weights = ((coefficients**2).sum(axis=0) * scale)[codes]
    used = weights > 0.0
    return Contrast(coefficients @ groups.means, deviations[used], weights[used])


def environment_contrast(X: Floats, y: Codes, env: Codes) -> Contrast | None:
    """Differences of the environment means within each label.

    Each label that occurs in two environments or more adds the scatter of its environment means, weighted
    by the harmonic mean of their counts, so that tiny groups do not drown the others in noise. A group
    needs two items.

    Returns
    -------
    Contrast or None
        None where no label occurs in two environments.
    """
    cells, groups = group_rows(X, y, env)
    rows = []
    for label in np.unique(y):
        inside = (cells[:, 0] == label) & (groups.counts > 1)
        size = int(inside.sum())
        if size > 1:
            weight = np.sqrt(size / (1.0 / groups.counts[inside]).sum())
            for index in np.flatnonzero(inside):
                row = np.where(inside, -1.0 / size, 0.0)
                row[index] += 1.0
                rows.append(row * weight)
    return _contrast(groups, np.array(rows)) if rows else None


def pair_contrast(D: Floats, kinds: Codes, env_a: Codes, env_b: Codes, clusters: Codes) -> Contrast | None:
    """Mean differences of the pairs between environments, by kind of pair.

    This is the environment's shift as the pairs show it, for items of which no label occurs in two
    environments.

    Returns
    -------
    Contrast or None
        None where no kind has two pairs between environments.
    """
    crossing = np.flatnonzero(env_a != env_b)
    if len(crossing) < 2:
        return None
    _, groups = group_rows(D[crossing], kinds[crossing])
    usable = groups.counts > 1
    if not usable.any():
        return None
    return _contrast(groups, np.diag(np.sqrt(groups.counts))[usable], clusters[crossing])


def label_contrast(
    X: Floats,
    y: Codes,
    env: Codes | None = None,
    *,
    clusters: Codes | None = None,
    least: int = 2,
) -> Contrast | None:
    """Differences of the label means; with `env`, of the label means averaged over environments.

    The second is free of the shortcut, as every label weighs the same in each environment. It needs `least`
    environments that hold every label at least twice. Items of one of the `clusters` are not independent of
    each other.

    Returns
    -------
    Contrast or None
        None where there are fewer than two labels, or too few such environments.
    """
    labels = np.unique(y)
    if len(labels) < 2:
        return None
    cells, groups = group_rows(X, y) if env is None else group_rows(X, y, env)
    usable = groups.counts > 1
    if env is not None:
        shared = [e for e in np.unique(env) if (usable & (cells[:, 1] == e)).sum() == len(labels)]
        if len(shared) < least:
            return None
        usable &= np.isin(cells[:, 1], shared)
    elif not usable.all():
        return None
    member = (cells[:, :1] == labels[None, :]).T & usable
    average = member / member.sum(axis=1, keepdims=True)
    return _contrast(groups, average - average.mean(axis=0), clusters)
