"""Pairs of the items that lie closest in the embedding: same label, another environment."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import Cell, TrainItems, deal, missing_notes, pair_row, real_cells, shortfall_note
from cfpairs.tables import PAIRS, Embeddings, make_table

__all__ = ["NearestBuilder", "NearestOptions", "nearest_neighbours"]

LIMITS = (
    "the closest items of two environments differ in more than the environment, and often share its look",
    "the embedding that finds the pairs is the one that the probe later reads",
    "a few items of a small group may be the neighbours of many",
)

DECIMALS = 6
"""Similarities are compared after rounding to this many decimals: what float32 can tell apart."""

SPARE = 8
"""Neighbours searched beyond those asked for, to see whether the last one is tied."""

QUERIES = 4096


class NearestOptions(Strict):
    """Settings of `NearestBuilder`."""

    neighbours: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="nearest items of the other environment that each item proposes"
    )
    reuse: bool = Field(default=True, description="may an item be in more than one pair")


@dataclass(frozen=True)
class Candidate:
    """Two rows of the items and their cosine similarity."""

    a: int
    b: int
    score: float


class NearestBuilder:
    """Pair each item with its nearest neighbours of the same label in another environment.

    Parameters
    ----------
    options : NearestOptions

    Notes
    -----
    Every item of either environment proposes its neighbours in the other; within a cell the proposals are
    taken by descending similarity, ties by id.
    """

    Options: ClassVar[type[BaseModel]] = NearestOptions
    needs_embeddings: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        if not isinstance(options, NearestOptions):
            raise ConfigError("wrong options", got=type(options).__name__, expected="NearestOptions")
        self.options = options

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs.

        Raises
        ------
        DataError
            If there are no embeddings, one is not finite or has length zero, or no label occurs in two
            environments of the training split.
        """
        if inputs.embeddings is None:
            raise DataError("method nearest needs embeddings", remedy="run 'cfpairs embed'")
        items, left_out = _embedded(TrainItems.of(inputs.manifest), inputs.embeddings)
        vectors = _unit_vectors(items.ids, inputs.embeddings)
        cells = real_cells(items)
        proposals: list[list[Candidate]] = []
        with inputs.progress.task("searching neighbours", len(cells)) as advance:
            for cell in cells:
                proposals.append(self._proposals(items, vectors, cell))
                advance(1)
        streams = [iter(found) for found in proposals]
        rows = []
        for turn in deal([len(found) for found in proposals], inputs.n_pairs):
            one = next(streams[turn])
            rows.append(pair_row(items, "nearest", cells[turn], one.a, one.b, inputs.seed, one.score))
        notes = [
            *left_out,
            *missing_notes(items),
            *shortfall_note(
                inputs.n_pairs,
                len(rows),
                "no more neighbours; option 'neighbours' proposes more for each item",
            ),
        ]
        card = pair_card(
            inputs,
            items,
            rows,
            method="Each training item with its nearest neighbours, by cosine of the embeddings, among the "
            "items of the same label in another environment.",
            settings=self.options.model_dump(),
            limits=LIMITS,
            notes=notes,
        )
        return PairSet(make_table(rows, PAIRS), None, card, tuple(notes))

    def _proposals(self, items: TrainItems, vectors: NDArray[np.float32], cell: Cell) -> list[Candidate]:
        a, b = items.groups[cell.label, cell.env_a], items.groups[cell.label, cell.env_b]
        found: dict[tuple[int, int], float] = {}
        for ours, theirs, swapped in ((a, b, False), (b, a, True)):
            places, scores = nearest_neighbours(vectors[ours], vectors[theirs], self.options.neighbours)
            for row, (near, similar) in enumerate(zip(places, scores, strict=True)):
                for place, score in zip(near, similar, strict=True):
                    one, other = int(ours[row]), int(theirs[place])
                    found[(other, one) if swapped else (one, other)] = float(score)
        ranked = [Candidate(i, j, s) for (i, j), s in found.items()]
        ranked.sort(key=lambda c: (-c.score, c.a, c.b))
        return ranked if self.options.reuse else list(_each_once(ranked))


def nearest_neighbours(
    queries: NDArray[np.float32], others: NDArray[np.float32], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The `k` rows of `others` with the largest inner product with each query, by exact search.

    Parameters
    ----------
    queries : ndarray of shape (n, d)
    others : ndarray of shape (m, d)
        In the order in which ties are to be broken.
    k : int
        At most m neighbours are given.

    Returns
    -------
    places : ndarray of int64, shape (n, min(k, m))
        Rows of `others`, nearest first; equal ones in the order of `others`.
    scores : ndarray of float64, shape (n, min(k, m))
        Inner products, rounded to six decimals.

    Notes
    -----
    FAISS finds candidates; their inner products are then computed again in float64, since those that FAISS
    gives depend in their last bits on how it splits the work.
    """
    index = _index(others)
    k = min(k, len(others))
    places = np.empty((len(queries), k), np.int64)
    scores = np.empty((len(queries), k), np.float64)
    for start in range(0, len(queries), QUERIES):
        waiting = np.arange(start, min(start + QUERIES, len(queries)))
        width = min(k + SPARE, len(others))
        while len(waiting):
            rough, near = index.search(queries[waiting], width)
            sure = (width == len(others)) | (rough[:, -1] < rough[:, k - 1] - 4 * 10.0**-DECIMALS)
            done = waiting[sure]
            places[done], scores[done] = _ranked(queries[done], others, near[sure], k)
            waiting = waiting[~sure]
            width = min(width * 4, len(others))
    return places, scores


def _ranked(
    queries: NDArray[np.float32], others: NDArray[np.float32], near: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    exact = np.empty(near.shape, np.float64)
    for row, (query, candidates) in enumerate(zip(queries, near, strict=True)):
        exact[row] = (others[candidates].astype(np.float64) * query).sum(axis=1)
    exact = np.round(exact, DECIMALS)
    order = np.lexsort((near, -exact), axis=1)[:, :k]
    return np.take_along_axis(near, order, axis=1), np.take_along_axis(exact, order, axis=1)


def _index(vectors: NDArray[np.float32]) -> Any:
    with warnings.catch_warnings():
        # The wrapper that FAISS is built with has types that Python 3.12 and later warn about.
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss

    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index


def _each_once(ranked: Sequence[Candidate]) -> Iterator[Candidate]:
    used: set[int] = set()
    for candidate in ranked:
        if candidate.a not in used and candidate.b not in used:
            used.update((candidate.a, candidate.b))
            yield candidate


def _embedded(items: TrainItems, embeddings: Embeddings) -> tuple[TrainItems, list[str]]:
    keep = [item in embeddings for item in items.ids]
    missing = keep.count(False)
    if not missing:
        return items, []
    if missing == len(keep):
        raise DataError(
            "no training item has an embedding",
            got=f"{len(embeddings)} embeddings",
            remedy="run 'cfpairs embed'",
        )
    note = f"{missing} training items have no embedding and are left out"
    return TrainItems.of(items.table.filter(keep)), [note]


def _unit_vectors(ids: Sequence[str], embeddings: Embeddings) -> NDArray[np.float32]:
    vectors = np.asarray(embeddings.rows(ids), np.float64)
    length = np.linalg.norm(vectors, axis=1)
    bad = np.flatnonzero(~np.isfinite(length) | (length == 0))
    if len(bad):
        raise DataError(
            "embeddings that are not finite or have length zero",
            got=f"{len(bad)}, such as that of {ids[int(bad[0])]!r}",
            remedy="check those images and embed again, in fp32 if the encoder overflows",
        )
    return np.ascontiguousarray(vectors / length[:, None], np.float32)
