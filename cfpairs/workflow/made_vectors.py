"""Vectors that a pair set made for items without an image: kept beside its pairs, taken in by ``embed``."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cfpairs.embedding import content_hash
from cfpairs.embedding.parts import NEVER, EncoderIdentity, Item, Parts
from cfpairs.errors import DataError
from cfpairs.vectors import Embeddings, read_embeddings, write_vectors
from cfpairs.workflow.context import Context

__all__ = ["keep_vectors", "take_in_made", "without_made"]


def keep_vectors(context: Context, name: str, vectors: Embeddings | None) -> None:
    """Write the vectors of pair set `name`, or remove those of an earlier build if there are none."""
    folder = context.workspace.pair_vectors(name)
    if vectors is None:
        shutil.rmtree(folder, ignore_errors=True)
        return
    metadata = {"encoder_id": vectors.metadata.get("encoder_id", "")}
    hashes = [content_hash(vector.tobytes()) for vector in vectors.matrix]
    write_vectors(folder / "part-00000.parquet", vectors.item_ids, vectors.matrix, hashes, metadata)


def take_in_made(context: Context, items: pa.Table | Path, info: EncoderIdentity) -> int:
    """Put those of the pair sets' own vectors among the embeddings that are not there yet.

    Parameters
    ----------
    items : pyarrow.Table or Path
        Rows of the manifest, or the file of it.
    info : EncoderIdentity
        The encoder whose embeddings they join.

    Returns
    -------
    int
        How many were new.

    Raises
    ------
    DataError
        If a pair set's vectors belong to another encoder, or some are not there.
    """
    made = _made(items)
    if not len(made):
        return 0
    parts = Parts(context.workspace.embeddings(info.id), info, context.config.encoder.store)
    for line in parts.scan():
        context.progress.say(line)
    new = 0
    for name in sorted(set(made["pair_set"].to_pylist())):
        ids = made.filter(pc.equal(made["pair_set"], name))["item_id"].to_pylist()
        open_ids = [ids[i] for i in np.flatnonzero(parts.recorded(ids) == NEVER)]
        if open_ids:
            matrix = _vectors(context, name, info).rows(open_ids)
            hashes = [content_hash(vector.tobytes()) for vector in matrix]
            parts.write([Item(item, "") for item in open_ids], hashes, matrix, ())
            new += len(open_ids)
    return new


def without_made(items: pa.Table) -> pa.Table:
    """The items that pair sets did not make as vectors."""
    if "pair_set" not in items.column_names:
        return items
    return items.filter(pc.or_(pc.is_null(items["pair_set"]), pc.not_equal(items["path"], "")))


def _made(items: pa.Table | Path) -> pa.Table:
    """Id and pair set of each item that was made as a vector."""
    columns = ["item_id", "path", "pair_set"]
    names = pq.read_schema(items).names if isinstance(items, Path) else items.column_names
    if not set(columns) <= set(names):
        return pa.table({name: pa.array([], pa.string()) for name in columns})
    here = (pc.field("path") == "") & pc.is_valid(pc.field("pair_set"))
    if isinstance(items, Path):
        return pq.read_table(items, columns=columns, filters=here)
    return items.select(columns).filter(here)


def _vectors(context: Context, name: str, info: EncoderIdentity) -> Embeddings:
    folder = context.workspace.pair_vectors(name)
    again = f"run 'cfpairs build' for {name!r} again with --force"
    if not folder.is_dir():
        raise DataError(f"the vectors of pair set {name!r} are gone", got=f"no folder {folder}", remedy=again)
    found = read_embeddings(folder)
    if found.metadata.get("encoder_id") != info.id:
        raise DataError(
            f"pair set {name!r} has vectors of another encoder",
            got=found.metadata.get("encoder_id"),
            expected=info.id,
            remedy=again,
        )
    return found
