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

_LEAST_FREEDOM = 0.2  # a group below it is nearly all one cluster, and its noise cannot be told


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


def _freedom(groups: Groups, clusters: Codes | None) -> Floats:
    """What squared deviations hold of the variance of a group's mean, (g,): 1 - 1/n for n equal clusters.

    With clusters of sizes c and n rows in all it is ``1 - 2 sum c^3 / (n sum c^2) + sum c^2 / n^2``; 0 of
    one cluster.
    """
    n = groups.counts.astype(np.float64)
    if clusters is None:
        return 1.0 - 1.0 / n
    cells, sizes = np.unique(np.stack([groups.codes, clusters], axis=1), axis=0, return_counts=True)
    squares = np.bincount(cells[:, 0], weights=sizes**2.0, minlength=len(n))
    cubes = np.bincount(cells[:, 0], weights=sizes**3.0, minlength=len(n))
    return np.asarray(1.0 - 2.0 * cubes / (n * squares) + squares / n**2)


def _contrast(groups: Groups, coefficients: Floats, clusters: Codes | None = None) -> Contrast:
    """Contrast ``coefficients @ means`` with the weights that make its scatter's noise unbiased.

    Items of one cluster err alike, so the sum of a cluster's deviations takes the place of its items.
    """
    deviations, codes = groups.deviations, groups.codes
    if clusters is not None:
        cells, cell_of = np.unique(np.stack([codes, clusters], axis=1), axis=0, return_inverse=True)
        sums = np.zeros((len(cells), deviations.shape[1]))
        np.add.at(sums, cell_of.ravel(), deviations)
        deviations, codes = sums, cells[:, 0]
    scale = 1.0 / (groups.counts**2 * np.maximum(_freedom(groups, clusters), _LEAST_FREEDOM))
    weights = ((coefficients**2).sum(axis=0) * scale)[codes]
    used = weights > 0.0
    return Contrast(coefficients @ groups.means, deviations[used], weights[used])


def environment_contrast(X: Floats, y: Codes, env: Codes) -> Contrast | None:
    """Differences of the environment means within each label.

    Its squared length is the mean squared distance of two environments, over the labels that occur in
    several. Labels are weighted by the harmonic mean of their groups' counts, so that tiny groups do not
    drown the others in noise. A group needs two items.

    Returns
    -------
    Contrast or None
        None where no label occurs in two environments.
    """
    cells, groups = group_rows(X, y, env)
    blocks, weights = [], []
    for label in np.unique(y):
        inside = np.flatnonzero((cells[:, 0] == label) & (groups.counts > 1))
        size = len(inside)
        if size > 1:
            block = np.zeros((size, len(cells)))
            block[:, inside] = (np.eye(size) - 1.0 / size) * np.sqrt(2.0 / (size - 1.0))
            blocks.append(block)
            weights.append(size / float((1.0 / groups.counts[inside]).sum()))
    if not blocks:
        return None
    total = sum(weights)
    rows = [block * np.sqrt(weight / total) for block, weight in zip(blocks, weights, strict=True)]
    return _contrast(groups, np.concatenate(rows))


def pair_contrast(D: Floats, kinds: Codes, env_a: Codes, env_b: Codes, clusters: Codes) -> Contrast | None:
    """Mean differences of the pairs between environments, by kind of pair.

    Its squared length is the mean squared distance of two environments, kinds weighted by their share of
    the pairs. This is the environment's shift as the pairs show it, for items of which no label occurs in
    two environments.

    Returns
    -------
    Contrast or None
        None where no kind has two pairs between environments.
    """
    crossing = np.flatnonzero(env_a != env_b)
    if len(crossing) < 2:
        return None
    _, groups = group_rows(D[crossing], kinds[crossing])
    usable = _freedom(groups, clusters[crossing]) >= _LEAST_FREEDOM
    if not usable.any():
        return None
    shares = np.where(usable, groups.counts, 0) / groups.counts[usable].sum()
    return _contrast(groups, np.diag(np.sqrt(shares))[usable], clusters[crossing])


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
    usable = _freedom(groups, clusters) >= _LEAST_FREEDOM
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
