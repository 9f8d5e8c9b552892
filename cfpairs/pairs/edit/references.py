"""Real training items in the embedding, as the measure of an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cfpairs.pairs.base import Judge
from cfpairs.pairs.cells import TrainItems

__all__ = ["References"]

SAMPLE = 500
"""Most real items that one edit is compared with, spread evenly over the group."""

FEWEST_ITEMS = 10
"""Shares of fewer real items, or quantiles of fewer subjects, say nothing."""

FEWEST_SUBJECTS = 3
"""A group with fewer subjects has no mean to speak of."""

Array = NDArray[np.float64]


class _Group(NamedTuple):
    """Rows of some training items, and the sum of their vectors."""

    rows: NDArray[np.int64]
    total: Array


class _Way(NamedTuple):
    """From one group to another: the mean difference of `References._margin` between their items."""

    here: _Group
    there: _Group
    length: float


class References:
    """What edits are compared with. The source's own subject never takes part.

    Parameters
    ----------
    items : TrainItems
    judge : Judge
    """

    def __init__(self, items: TrainItems, judge: Judge) -> None:
        found = judge.training()
        columns = (items.table[c].to_pylist() for c in ("item_id", "subject", "parent_id"))
        subjects = {item: subject or parent or item for item, subject, parent in zip(*columns, strict=True)}
        there = [item in found for item in items.ids]
        self._judge = judge
        self.ids = [item for item, is_there in zip(items.ids, there, strict=True) if is_there]
        self._row = {item: row for row, item in enumerate(self.ids)}
        self._X: Array = np.asarray(found.rows(self.ids), np.float64)
        self._label, self._env = items.label[there], items.env[there]
        numbers: dict[str, int] = {}
        self._subject = np.array([numbers.setdefault(subjects[i], len(numbers)) for i in self.ids], np.int64)
        self._labels = np.unique(items.label)
        self._ways: dict[tuple[int, int, int], _Way | None] = {}
        self._limits: dict[tuple[int, int, float], float | None] = {}

    def vector(self, source: Mapping[str, Any]) -> NDArray[np.float32] | None:
        """The vector of a training item, shape (d,); None if it has none."""
        row = self._row.get(source["item_id"])
        return None if row is None else np.asarray(self._X[row], np.float32)

    def compare(
        self, source: Mapping[str, Any], env: int, vector: NDArray[np.float32]
    ) -> dict[str, float | None]:
        """Where an edit lies between its source and the real items of the environment `env`.

        Returns
        -------
        dict
            ``embedding_distance``: between source and edit. ``distance_rank``: share of the real items of
            the label in `env` that are nearer to the source. ``env_margin``: distance to the mean of the
            source's group minus that to the mean of the target's. ``env_gain``: how far that moved from
            the source to the edit, as a part of the way between real items of the two groups. None where
            it cannot be told.
        """
        row = self._row.get(source["item_id"])
        if row is None:
            return dict.fromkeys(("embedding_distance", "distance_rank", "env_margin", "env_gain"))
        own = self._subject == self._subject[row]
        edit, before = np.asarray(vector, np.float64), self._X[row]
        distance = float(np.linalg.norm(edit - before))
        target = np.flatnonzero((self._label == source["label"]) & (self._env == env) & ~own)
        rank = None
        if len(target) >= FEWEST_ITEMS:
            away = np.linalg.norm(self._X[_thin(target)] - before, axis=1)
            rank = float((away < distance).mean())
        way = self._way(int(source["label"]), int(source["env"]), env)
        if way is None:
            margin = gain = None
        else:
            number = int(self._subject[row])
            margin = self._margin(edit, way, number)
            gain = (margin - self._margin(before, way, number)) / way.length
        return {
            "embedding_distance": distance,
            "distance_rank": rank,
            "env_margin": margin,
            "env_gain": gain,
        }

    def label_margins(
        self, vectors: NDArray[np.float32], sources: Sequence[Mapping[str, Any]]
    ) -> list[float | None]:
        """Logit of each source's label minus the best other, by a probe that has not seen its subject."""
        if len(self._labels) < 2:
            return [None] * len(sources)
        logits = self._judge.label_logits(vectors, [str(source["item_id"]) for source in sources])
        return list(self._margins(logits, np.array([source["label"] for source in sources])))

    def label_limit(self, label: int, env: int, quantile: float) -> float | None:
        """The quantile of the margins of a label's real items: the lowest over its environments.

        None if the group that edits end in has too few subjects: a probe has not learnt that group, and what
        it says of edits into it tells more of the background than of the label.
        """
        key = (label, env, quantile)
        if key not in self._limits:
            groups = {int(e): (self._label == label) & (self._env == e) for e in np.unique(self._env)}
            known = env in groups and len(np.unique(self._subject[groups[env]])) >= FEWEST_ITEMS
            lowest = None
            if known and len(self._labels) > 1:
                chosen = [self._real_margins[group] for group in groups.values() if group.any()]
                lowest = min(float(np.quantile(margins, quantile)) for margins in chosen)
            self._limits[key] = lowest
        return self._limits[key]

    @cached_property
    def _real_margins(self) -> Array:
        logits = self._judge.label_logits(np.asarray(self._X, np.float32), self.ids)
        return self._margins(logits, self._label)

    def _margins(self, logits: Array, labels: NDArray[np.int64]) -> Array:
        column = np.searchsorted(self._labels, labels)
        rows = np.arange(len(labels))
        others = logits.copy()
        others[rows, column] = -np.inf
        return np.asarray(logits[rows, column] - others.max(axis=1), np.float64)

    def _way(self, label: int, here: int, there: int) -> _Way | None:
        """Between the label's groups; between whole environments where one of them has too few subjects."""
        key = (label, here, there)
        if key not in self._ways:
            of_label = self._label == label
            groups = [self._group(of_label & (self._env == env)) for env in (here, there)]
            if None in groups:
                groups = [self._group(self._env == env) for env in (here, there)]
            self._ways[key] = self._measured(*groups)
        return self._ways[key]

    def _group(self, chosen: NDArray[np.bool_]) -> _Group | None:
        rows = np.flatnonzero(chosen)
        if len(np.unique(self._subject[rows])) < FEWEST_SUBJECTS:
            return None
        return _Group(rows, self._X[rows].sum(axis=0))

    def _measured(self, here: _Group | None, there: _Group | None) -> _Way | None:
        if here is None or there is None:
            return None
        way = _Way(here, there, 1.0)
        begin, end = (
            np.mean([self._margin(self._X[row], way, int(self._subject[row])) for row in _thin(group.rows)])
            for group in (here, there)
        )
        return way._replace(length=float(end - begin)) if end > begin else None

    def _margin(self, vector: Array, way: _Way, subject: int) -> float:
        """Distance to the mean of the one group minus that to the mean of the other, without a subject."""
        here, there = (float(np.linalg.norm(vector - self._mean(g, subject))) for g in (way.here, way.there))
        return here - there

    def _mean(self, group: _Group, subject: int) -> Array:
        own = group.rows[self._subject[group.rows] == subject]
        return np.asarray((group.total - self._X[own].sum(axis=0)) / (len(group.rows) - len(own)))


def _thin(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """At most `SAMPLE` of the rows, spread evenly."""
    if len(rows) <= SAMPLE:
        return rows
    return rows[np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64)]
