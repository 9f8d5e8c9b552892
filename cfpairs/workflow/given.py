"""Embeddings that the data set brings: taken into the workspace, keyed by item, without encoding anything."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cfpairs.datasets.base import VECTOR_ROW
from cfpairs.embedding import EmbedReport, content_hash, failures_file
from cfpairs.embedding.parts import NEVER, Failure, Item, Parts
from cfpairs.encoders.base import split_spec
from cfpairs.encoders.given import GivenInfo, given_info
from cfpairs.errors import ConfigError, DataError
from cfpairs.workflow.context import Context
from cfpairs.workflow.manifest import open_dataset

__all__ = ["are_given", "given_identity", "take_in"]

SHOWN = 3


def are_given(context: Context) -> bool:
    """Whether the configuration asks for the data set's own embeddings."""
    return split_spec(context.config.encoder.spec)[0] == "given"


def _open(context: Context) -> tuple[Any, Any]:
    """The data set and its vectors."""
    dataset = open_dataset(context)
    look = getattr(dataset, "given", None)
    found = None if look is None else look(context.data_root)
    if found is None:
        preset = context.config.data.preset
        raise ConfigError(
            f"encoder.spec is 'given', but the data set {preset!r} brings no embeddings",
            remedy="set data.options.embeddings (preset table), or another encoder.spec such as lite",
        )
    return dataset, found


def _identity(context: Context, dataset: Any, found: Any) -> GivenInfo:
    vectors = found.vectors
    files = tuple(str(file) for file in vectors.files)
    return given_info(dataset.given_digest(context.data_root), vectors.dim, vectors.dtype, files)


def given_identity(context: Context) -> GivenInfo:
    """What identifies the given embeddings; their files' headers and digests are read.

    Raises
    ------
    ConfigError
        If the data set brings none.
    """
    return _identity(context, *_open(context))


def take_in(context: Context, items: pa.Table) -> EmbedReport:
    """Copy the vectors of `items` that are not in the workspace yet.

    Vectors are read in the order of their files and written in parts of ``encoder.part_rows`` rows, so that
    memory does not grow with their number, and a broken run goes on where it stopped.

    Raises
    ------
    DataError
        If a vector is not finite and the data set does not leave such items out, or none is.
    """
    dataset, found = _open(context)
    config, workspace = context.config.encoder, context.workspace
    info = _identity(context, dataset, found)
    folder = workspace.embeddings(info.id)
    parts = Parts(folder, info, config.store)
    for line in parts.scan():
        context.progress.say(line)
    rows, ids = _in_order(items)
    untried = parts.recorded(ids) == NEVER
    name_of = {int(rows[i]): ids[i] for i in np.flatnonzero(untried)}
    todo = np.fromiter(name_of, np.int64, len(name_of))
    started = time.perf_counter()
    taken = _Taken(found, parts, bool(dataset.options.drop_missing))
    with context.progress.task("taking in embeddings", len(name_of)) as advance:
        for at, matrix in _regrouped(found.blocks(todo, config.part_rows), config.part_rows):
            taken.write([name_of[row] for row in at.tolist()], at, matrix)
            advance(len(at))
    parts.write_failures()
    failed = [failure for i in ids if (failure := parts.failure(i)) is not None]
    _check(taken, failed, len(ids), folder)
    seconds = time.perf_counter() - started
    rate = len(name_of) / seconds if name_of else 0.0
    return EmbedReport(
        info.id, folder, len(ids), len(name_of), len(failed), seconds if name_of else 0.0, rate
    )


def _in_order(items: pa.Table) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of vectors, ascending, and the items they belong to."""
    if VECTOR_ROW not in items.column_names or items[VECTOR_ROW].null_count:
        lacking = (
            items if VECTOR_ROW not in items.column_names else items.filter(pc.is_null(items[VECTOR_ROW]))
        )
        raise DataError(
            "items without a given embedding",
            got=f"{len(lacking)}, such as {lacking['item_id'][0].as_py()!r}",
            remedy="images that a builder made need a real encoder: set encoder.spec, or drop that pair set",
        )
    items = items.sort_by(VECTOR_ROW)
    return items[VECTOR_ROW].to_numpy(), items["item_id"].to_pylist()


@dataclass
class _Taken:
    """Writes parts and remembers what is not finite."""

    found: Any
    parts: Parts
    drop: bool
    refused: list[Failure] = field(default_factory=list)

    def write(self, ids: list[str], rows: NDArray[np.int64], matrix: NDArray[np.float32]) -> None:
        """One part; what is not finite is recorded in it if such items are left out."""
        finite = np.isfinite(matrix).all(axis=1)
        bad = [
            Failure(ids[i], self.found.place(int(rows[i])), "its embedding is missing or not finite", "")
            for i in np.flatnonzero(~finite)
        ]
        good = [Item(ids[i], "") for i in np.flatnonzero(finite)]
        vectors = matrix[finite]
        if good or (bad and self.drop):
            hashes = [content_hash(vector.tobytes()) for vector in vectors]
            self.parts.write(good, hashes, vectors, bad if self.drop else ())
        if not self.drop:
            self.refused += bad


def _regrouped(
    blocks: Iterable[tuple[NDArray[np.int64], NDArray[np.float32]]], size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """The same rows in blocks of exactly `size`, the last one aside."""
    rows: list[NDArray[np.int64]] = []
    matrices: list[NDArray[np.float32]] = []
    held = 0
    for at, matrix in blocks:
        rows.append(at)
        matrices.append(matrix)
        held += len(at)
        while held >= size:
            all_rows, all_vectors = np.concatenate(rows), np.concatenate(matrices)
            yield all_rows[:size], all_vectors[:size]
            rows, matrices, held = [all_rows[size:]], [all_vectors[size:]], held - size
    if held:
        yield np.concatenate(rows), np.concatenate(matrices)


def _check(taken: _Taken, failed: list[Failure], n_items: int, folder: Path) -> None:
    bad = taken.refused or ([] if taken.drop else failed)
    if bad:
        shown = ", ".join(f"{f.item_id!r} ({f.path})" for f in bad[:SHOWN])
        raise DataError(
            "given embeddings are missing or not finite",
            got=f"{len(bad)} of {n_items}, such as {shown}",
            remedy="mend them, or leave them out with data.options.drop_missing: true",
        )
    if n_items and len(failed) == n_items:
        raise DataError(
            f"not one of {n_items} given embeddings is finite", remedy=f"see {failures_file(folder)}"
        )
