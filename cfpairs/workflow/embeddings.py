"""Stage ``embeddings``: every item that has none yet is encoded, or its given vector taken in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cfpairs.embedding import EmbedReport, failures_file, open_items
from cfpairs.encoders.base import Encoder
from cfpairs.encoders.factory import open_encoder
from cfpairs.errors import ConfigError
from cfpairs.tables import FAILURES, read_table
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.engines import encode_items
from cfpairs.workflow.given import are_given, given_identity, take_in
from cfpairs.workflow.made_vectors import take_in_made, without_made
from cfpairs.workflow.manifest import make_manifest

__all__ = ["embed", "embed_missing", "embeddings_state", "encoder_id", "failures", "unembedded"]


def encoder_id(context: Context) -> str:
    """Folder name of the embeddings by the configured encoder, or of those that the data set brings."""
    info = open_encoder(context.config.encoder).info
    return given_identity(context).id if are_given(context) else info.id


def embed_missing(context: Context, items: pa.Table | Path, encoder: Encoder | None = None) -> EmbedReport:
    """Encode those of `items` that have no embedding by the configured encoder, or take their vectors in.

    Parameters
    ----------
    items : pyarrow.Table or Path
        Columns ``item_id`` and ``path``; a path is that of a Parquet file, which is read bit by bit.
    encoder : Encoder, optional
        The configured encoder, left open for the caller; by default one is opened and closed here.

    Raises
    ------
    ConfigError
        If no item has an image.
    CfpairsError
        If nothing could be embedded.
    """
    config = context.config.encoder
    used = encoder or open_encoder(config)
    if are_given(context):
        table = pq.read_table(items) if isinstance(items, Path) else items
        made = take_in_made(context, table, given_identity(context))
        found = take_in(context, without_made(table))
        return replace(found, n_items=len(table), n_new=found.n_new + made)
    if not _have_images(items):
        raise ConfigError(
            f"the items have no images, so {config.spec!r} has nothing to encode",
            remedy="set encoder.spec: given and data.options.embeddings",
        )
    try:
        made = take_in_made(context, items, used.info)
        found = encode_items(context, items, used)
        return replace(found, n_new=found.n_new + made)
    finally:
        if encoder is None:
            used.close()


def _have_images(items: pa.Table | Path) -> bool:
    """Whether any item has a path, or there is none but those that pair sets made as vectors."""
    blocks: Iterator[pa.Table] = iter([items])
    if isinstance(items, Path):
        parts = pq.ParquetFile(items)
        columns = [name for name in ("path", "pair_set") if name in parts.schema_arrow.names]
        blocks = (pa.Table.from_batches([block]) for block in parts.iter_batches(columns=columns))
    seen = 0
    for block in map(without_made, blocks):
        seen += len(block)
        if pc.any(pc.not_equal(block["path"], "")).as_py():
            return True
    return seen == 0


def embed(context: Context) -> StageResult:
    """Encode every item of the manifest that has no embedding."""
    make_manifest(context)
    report = embed_missing(context, context.workspace.manifest)
    given = are_given(context)
    if given and report.n_new:
        line = (
            f"embeddings: given, {report.n_new} of {report.n_items} items taken in, none encoded, "
            f"in {report.seconds:.1f} s"
        )
    elif given:
        line = f"embeddings: given, {report.n_items} items, up to date"
    elif report.n_new:
        line = (
            f"embeddings: {report.n_new} new of {report.n_items} items in {report.seconds:.1f} s "
            f"({report.images_per_second:.0f} images/s)"
        )
    else:
        line = f"embeddings: {report.n_items} items, up to date"
    notes: tuple[str, ...] = ()
    if report.n_failed:
        what = "given vectors are missing or not finite" if given else "images could not be read"
        notes = (f"{report.n_failed} {what}: {failures_file(report.folder)}",)
    advice = "" if given else getattr(open_encoder(context.config.encoder), "advice", "")
    if report.n_new and advice:
        notes = (*notes, advice)
    return StageResult(
        "embeddings",
        bool(report.n_new),
        line,
        notes,
        {
            "encoder_id": report.encoder_id,
            "given": given,
            "folder": str(report.folder),
            "items": report.n_items,
            "new": report.n_new,
            "failed": report.n_failed,
            "seconds": report.seconds,
            "images_per_second": report.images_per_second,
        },
    )


def failures(context: Context, encoder: str) -> list[dict[str, Any]]:
    """Images that the encoder with id `encoder` could not read."""
    path = failures_file(context.workspace.embeddings(encoder))
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = read_table(path, FAILURES).to_pylist()
    return rows


def unembedded(context: Context) -> list[str]:
    """Items of the manifest that ``cfpairs embed`` would embed with the configured encoder.

    They were not tried yet, or their image has other bytes now, or their part is damaged or holds another
    number type than ``encoder.store``.
    """
    workspace, store = context.workspace, context.config.encoder.store
    if not are_given(context):
        return open_items(workspace.manifest, workspace, open_encoder(context.config.encoder).info, store)
    # Given vectors do not come from the images that may be there too, whose bytes say nothing of them.
    items = read_table(workspace.manifest, columns=["item_id"])
    items = items.append_column("path", pa.array([""] * len(items), pa.string()))
    return open_items(items, workspace, given_identity(context), store)


def embeddings_state(context: Context) -> tuple[str, str]:
    """State (``done`` or ``missing``) and how many items are to do."""
    if not context.workspace.manifest.exists():
        return "missing", ""
    to_do = len(unembedded(context))
    return ("missing", f"{to_do} items to embed") if to_do else ("done", "")
