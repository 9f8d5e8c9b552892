"""Stage ``embeddings``: every item that has none yet is encoded, or its given vector taken in."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from cfpairs.embedding import EmbedReport, embed_items, failures_file
from cfpairs.encoders.factory import open_encoder
from cfpairs.tables import FAILURES, load_manifest, part_files, read_table
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.manifest import make_manifest

__all__ = ["embed", "embed_missing", "embeddings_state", "encoder_id", "failures", "unembedded"]


def encoder_id(context: Context) -> str:
    """Folder name of the embeddings by the configured encoder, or of those that the data set brings."""
    return open_encoder(context.config.encoder).info.id


def embed_missing(context: Context, items: pa.Table) -> EmbedReport:
    """Encode those of `items` that have no embedding by the configured encoder."""
    config = context.config.encoder
    encoder = open_encoder(config)
    try:
        return embed_items(
            items,
            workspace=context.workspace,
            encoder=encoder,
            part_rows=config.part_rows,
            store=config.store,
            batch_size=config.batch_size,
            workers=config.workers,
            progress=context.progress,
        )
    finally:
        encoder.close()


def embed(context: Context) -> StageResult:
    """Encode every item of the manifest that has no embedding."""
    make_manifest(context)
    report = embed_missing(context, load_manifest(context.workspace))
    if report.n_new:
        line = (
            f"embeddings: {report.n_new} new of {report.n_items} items in {report.seconds:.1f} s "
            f"({report.images_per_second:.0f} images/s)"
        )
    else:
        line = f"embeddings: {report.n_items} items, up to date"
    notes: tuple[str, ...] = ()
    if report.n_failed:
        notes = (f"{report.n_failed} images could not be read: {failures_file(report.folder)}",)
    return StageResult(
        "embeddings",
        bool(report.n_new),
        line,
        notes,
        {
            "encoder_id": report.encoder_id,
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


def unembedded(context: Context, encoder: str) -> list[str]:
    """Items of the manifest that the encoder with id `encoder` has not yet tried."""
    folder = context.workspace.embeddings(encoder)
    known: set[str] = {row["item_id"] for row in failures(context, encoder)}
    for file in part_files(folder):
        known.update(read_table(file, columns=["item_id"])["item_id"].to_pylist())
    items: list[str] = load_manifest(context.workspace)["item_id"].to_pylist()
    return [item for item in items if item not in known]


def embeddings_state(context: Context) -> tuple[str, str]:
    """State (``done`` or ``missing``) and how many items are to do."""
    if not context.workspace.manifest.exists():
        return "missing", ""
    to_do = len(unembedded(context, encoder_id(context)))
    return ("missing", f"{to_do} items to embed") if to_do else ("done", "")
