"""Single pairs to look at: broken edits, copies, outliers, and pairs that decide too much alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chi2

from cfpairs.quality.moments import products_of
from cfpairs.quality.rank import winsorize
from cfpairs.quality.result import FlagRow
from cfpairs.quality.spectrum import Spectrum, spectrum

__all__ = [
    "Doubt",
    "are_copies",
    "bend",
    "by_gravity",
    "copy_doubts",
    "dominating",
    "duplicates",
    "failed_edits",
    "far_out",
    "flag_rows",
    "label_changing",
    "leverages",
    "near_distance",
    "nearest_squares",
    "outliers",
    "residual_scores",
    "robust_z",
    "spread_places",
]

Floats = NDArray[np.float64]

OUTLIER_Z = 5.0
DOMINATES = 4.0  # times the average leverage
DUPLICATE_COSINE = 0.98
NEAR_DIMENSIONS = 32
EQUAL = 1e-6  # relative: what float32 leaves of equal differences
LABEL_MOVE, LABEL_Z = 0.5, 3.0
FAILED_SHARE = 0.05  # of the typical distance between two items
MOST_SEVERE = 10.0  # a pair cannot be more broken than broken
_BLOCK = 2048
_ASKED = 256  # pairs whose neighbours are looked for
_NEIGHBOUR = 8  # so many copies of a pair do not hide that they are copies


@dataclass(frozen=True)
class Doubt:
    """Flags by pair: index, name of the flag, score, reason, and the score over the limit of its kind."""

    index: int
    flag: str
    score: float
    reason: str
    severity: float


def flag_rows(doubts: list[Doubt], pair_ids: Sequence[str]) -> tuple[FlagRow, ...]:
    """Rows of the report, the gravest first."""
    return tuple(
        FlagRow(pair_ids[d.index], d.flag, d.score, d.reason, d.severity) for d in by_gravity(doubts)
    )


def by_gravity(doubts: list[Doubt]) -> list[Doubt]:
    """The pair with the gravest flag first, all flags of a pair together.

    Of pairs whose gravest flags are alike the one with more flags stands first.
    """
    worst: dict[int, float] = {}
    for doubt in doubts:
        worst[doubt.index] = max(worst.get(doubt.index, 0.0), _weight(doubt))
    extra = dict.fromkeys(worst, 0.0)
    for doubt in doubts:
        extra[doubt.index] += 0.01 * _weight(doubt)
    return sorted(doubts, key=lambda d: (-worst[d.index] - extra[d.index], d.index, -_weight(d), d.flag))


def _weight(doubt: Doubt) -> float:
    """How much a flag says that the pair is wrong; a pair that dominates may well be right."""
    return (0.5 if doubt.flag == "dominates" else 1.0) * min(doubt.severity, MOST_SEVERE)


def duplicates(D: Floats, pair_ids: Sequence[str]) -> tuple[list[Doubt], NDArray[np.bool_]]:
    """Pairs that repeat an earlier difference, up to its sign; and which pairs are not such copies.

    Copies of one pair look like a direction of their own. A near copy points the same way (cosine over .98)
    and is far nearer to the first than pairs usually are to their neighbours (see `near_distance`), as clean
    edits along one direction all point the same way. In fewer than 32 dimensions only equal differences
    count, because there pairs come near by chance.
    """
    k, d = D.shape
    lengths = np.linalg.norm(D, axis=1)
    unit = D / np.where(lengths > 0.0, lengths, 1.0)[:, None]
    some = spread_places(k if d >= NEAR_DIMENSIONS else 0, _ASKED)
    limit = near_distance(nearest_squares(lengths, lengths[some], D @ D[some].T)) if len(some) else 0.0
    first, best = np.full(k, -1), np.zeros(k)
    for start in range(0, k, _BLOCK):
        stop = min(k, start + _BLOCK)
        cosine = np.abs(unit[start:stop] @ unit[:stop].T)
        rows, columns = np.nonzero(cosine > DUPLICATE_COSINE)
        earlier = columns < rows + start
        rows, columns = rows[earlier], columns[earlier]
        inner = cosine[rows, columns]
        near = are_copies(lengths[start + rows], lengths[columns], inner, limit)
        # Backwards, so that the earliest of several is the one that stays.
        first[start + rows[near][::-1]] = columns[near][::-1]
        best[start + rows[near][::-1]] = inner[near][::-1]
    return copy_doubts(first, best, pair_ids), first < 0


def are_copies(one: Floats, two: Floats, cosine: Floats, limit: float) -> NDArray[np.bool_]:
    """Whether differences of these lengths, at these absolute cosines, are copies; all of shape (n,)."""
    squares = (one - two) ** 2 + 2.0 * one * two * (1.0 - cosine)
    apart = np.sqrt(np.clip(squares, 0.0, None))
    return np.asarray((cosine > DUPLICATE_COSINE) & (apart <= np.maximum(EQUAL * one, limit)))


def copy_doubts(first: NDArray[np.integer], cosine: Floats, pair_ids: Sequence[str]) -> list[Doubt]:
    """Doubts about pairs that repeat the pair `first`, -1 for none, at this cosine; both of shape (k,)."""
    best = np.minimum(1.0, cosine)
    return [
        Doubt(
            int(j),
            "duplicate",
            float(best[j]),
            f"same difference as {pair_ids[first[j]]}",
            1.0 + (float(best[j]) - DUPLICATE_COSINE) / (1.0 - DUPLICATE_COSINE),
        )
        for j in np.flatnonzero(first >= 0)
    ]


def spread_places(k: int, count: int) -> NDArray[np.int64]:
    """At most `count` of the places 0 to k - 1, evenly spread."""
    places: NDArray[np.int64] = np.linspace(0, k - 1, count if k else 0).astype(np.int64)
    return np.unique(places)


def nearest_squares(lengths: Floats, asked: Floats, inner: NDArray[np.floating]) -> Floats:
    """Squared distances of the nine pairs nearest to each of some that are asked about, unsorted, (<= 9, m).

    A pair may be turned, if that brings it nearer. The nearest to a pair may be the pair itself.

    Parameters
    ----------
    lengths : ndarray of shape (n,)
    asked : ndarray of shape (m,)
        Lengths of the pairs asked about.
    inner : ndarray of shape (n, m)
        Inner products of their differences with those of all.
    """
    squares = lengths[:, None] ** 2 + asked**2 - 2.0 * np.abs(inner)
    return np.partition(squares, min(_NEIGHBOUR, len(squares) - 1), axis=0)[: _NEIGHBOUR + 1]


def near_distance(squares: Floats) -> float:
    """A quarter of the distance of a pair to the eighth nearest other, as three in four have it at most.

    Differences of clean edits, or such as a model has made, lie close together without being copies: what is
    near is said by the distances that are usual among them. The eighth, as the nearest may be copies.

    Parameters
    ----------
    squares : ndarray of shape (n, m)
        From `nearest_squares`, of one block or of several.
    """
    place = min(_NEIGHBOUR, len(squares) - 1)
    if place < 1:
        return 0.0
    eighth = np.partition(squares, place, axis=0)[place]
    return 0.25 * float(np.sqrt(max(0.0, np.quantile(eighth, 0.75))))


def failed_edits(lengths: Floats, typical: float | None, control: Floats | None) -> list[Doubt]:
    """Pairs whose sides hardly differ.

    That is, by no more than 95 % of the control pairs do; without these, by less than 5 % of the typical
    distance of two items of one label; without items, by less than 5 % of the other pairs' median.
    """
    if control is not None and len(control):
        limit = float(np.quantile(np.linalg.norm(control, axis=1), 0.95))
        said = "which control pairs do too"
    elif typical is not None:
        limit, said = FAILED_SHARE * typical, "far less than two items of one label do"
    else:
        limit = FAILED_SHARE * float(np.median(lengths)) if len(lengths) else 0.0
        said = "far less than in the other pairs"
    return [
        Doubt(
            int(j),
            "failed edit",
            float(lengths[j]),
            f"its sides differ by {lengths[j]:.3g}, {said}" if lengths[j] > 0.0 else "its sides are equal",
            float(min(MOST_SEVERE, limit / lengths[j])) if lengths[j] > 0.0 else MOST_SEVERE,
        )
        for j in np.flatnonzero((lengths <= limit) | (lengths == 0.0))
    ]


def residual_scores(D: Floats, r: int) -> Floats:
    """Robust z-score of what the first r directions leave of each difference, on a log scale.

    The directions are those of the winsorised differences, so that an outlier hardly bends them towards
    itself.
    """
    directions = spectrum(winsorize(D)).top(r)
    return robust_z(np.linalg.norm(D - (D @ directions) @ directions.T, axis=1))


def robust_z(left: Floats) -> Floats:
    """Deviation of the logarithms of lengths from their median, by the median absolute deviation."""
    positive = left > 0.0
    if positive.sum() < 3:
        return np.zeros(len(left))
    logs = np.log(np.where(positive, left, 1.0))
    middle = np.median(logs[positive])
    spread = 1.4826 * float(np.median(np.abs(logs[positive] - middle)))
    # Pairs without noise have no spread, and rounding alone would be far out: count at least 1 %.
    return np.asarray(np.where(positive, (logs - middle) / max(spread, 0.01), 0.0))


def outliers(D: Floats, order: NDArray[np.integer], r: int) -> list[Doubt]:
    """Pairs, of those in `order`, that differ by much more than the others beside their common directions."""
    return far_out(residual_scores(D[order], r), order)


def far_out(scores: Floats, order: NDArray[np.integer]) -> list[Doubt]:
    """Doubts of the pairs `order` whose `scores` are too large; none of fewer than eight pairs."""
    if len(order) < 8:
        return []
    return [
        Doubt(
            int(order[j]),
            "outlier",
            float(scores[j]),
            f"what it changes beside the common directions is {scores[j]:.1f} robust deviations too large",
            float(scores[j]) / OUTLIER_Z,
        )
        for j in np.flatnonzero(scores > OUTLIER_Z)
    ]


def leverages(D: Floats, found: Spectrum, r: int) -> Floats:
    """How much each pair decides of the first r directions: 0 to 1, r / k on average."""
    return np.asarray(((D @ found.top(r) / found.values[:r]) ** 2).sum(axis=1))


def dominating(leverage: Floats, r: int) -> list[Doubt]:
    """Pairs that decide far more than their share of the first r directions.

    That is, four times their share, and more than the largest of k chi-squared variables with r degrees of
    freedom is once in a hundred times: with one direction one clean pair in twenty has four times its share.
    """
    k = len(leverage)
    if r < 1 or k < 8 * r:
        return []
    scores = leverage * k / r
    limit = max(DOMINATES, float(chi2.isf(0.01 / k, r)) / r)
    return [
        Doubt(
            int(j),
            "dominates",
            float(scores[j]),
            f"decides {scores[j]:.1f} times its share of the first {r} direction{'s' if r > 1 else ''}",
            float(scores[j]) / limit,
        )
        for j in np.flatnonzero(scores > limit)
    ]


def bend(robust: Floats, directions: Floats, r: int) -> float:
    """How far the first r directions lie from the `robust` ones, (d, r) or more: 0 to 1."""
    if r < 1 or robust.shape[1] < 1:
        return 0.0
    shared = float(((directions[:, :r].T @ robust) ** 2).sum() / r)
    return float(np.sqrt(max(0.0, 1.0 - shared)))


def label_changing(
    D: Floats,
    labels: NDArray[np.integer],
    probe: Floats,
    X: Floats,
    y: NDArray[np.integer],
    a: Floats | None = None,
) -> list[Doubt]:
    """Pairs over which a probe's logit moves by more than half of the distance between the labels.

    And by more than three robust deviations beyond the other pairs: a probe on few items reads noise too.
    Where the a sides are known, one of the two sides must also be nearer to the other labels: a side that
    shows its label more plainly than the other does has not changed it.

    Parameters
    ----------
    D : ndarray of shape (k, d)
    labels : ndarray of shape (k,)
        Of the pairs, coded as `y`.
    probe : ndarray of shape (C, d)
        Weights of an NCM probe, one row a label in the order of their codes; one row for two labels. An ERM
        probe reads the environment and would flag the good pairs.
    X, y : ndarray of shape (n, d) and (n,)
        Training items.
    a : ndarray of shape (k, d), optional
    """
    names = np.unique(y)
    rows = probe if len(probe) == len(names) else np.concatenate([-probe, probe])
    if len(rows) != len(names):
        return []
    rows = rows - rows.mean(axis=0)
    changes = products_of(D, rows)
    from_a = None if a is None else products_of(a, rows)
    found = []
    for place, (name, weights) in enumerate(zip(names, rows, strict=True)):
        own = y == name
        if not own.any() or own.all():
            continue
        here, there = float(weights @ X[own].mean(axis=0)), float(weights @ X[~own].mean(axis=0))
        gap = abs(here - there)
        if gap <= 0.0:
            continue
        moves = np.abs(changes[:, place]) / gap
        middle = float(np.median(moves))
        crossed = np.ones(len(D), dtype=bool)
        if from_a is not None:
            sides = np.stack([from_a[:, place], from_a[:, place] - changes[:, place]])
            crossed = ((sides - (here + there) / 2.0) * np.sign(here - there)).min(axis=0) < 0.0
        limit = max(LABEL_MOVE, middle + LABEL_Z * 1.4826 * float(np.median(np.abs(moves - middle))))
        found += [
            Doubt(
                int(j),
                "label-changing",
                float(moves[j]),
                f"moves the label's score by {moves[j]:.0%} of the distance between labels",
                float(moves[j]) / limit,
            )
            for j in np.flatnonzero((labels == name) & (moves > limit) & crossed)
        ]
    return found
