"""The two engines that embed items: this process, or a Ray cluster."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa

from cfpairs.embedding import EmbedReport, embed_items
from cfpairs.encoders.base import Encoder
from cfpairs.encoders.factory import open_encoder
from cfpairs.workflow.context import Context

__all__ = ["encode_items"]


def encode_items(context: Context, items: pa.Table | Path, encoder: Encoder) -> EmbedReport:
    """Embed those of `items` that have no embedding by `encoder`, with the configured engine.

    Parameters
    ----------
    items : pyarrow.Table or Path
        As for `embed_items`.
    encoder : Encoder
        The configured encoder. With ``engine: ray`` its model is not built here: every actor opens its own,
        on the same device, runtime and precision.

    Returns
    -------
    EmbedReport
        The same files come of both engines.
    """
    config = context.config.encoder
    if config.engine == "ray":
        from cfpairs.embedding.ray_engine import embed_items_on_ray

        info = encoder.info
        settled = {"device": info.device, "runtime": info.runtime, "precision": info.precision}
        return embed_items_on_ray(
            items,
            workspace=context.workspace,
            encoder_factory=partial(open_encoder, config.model_copy(update=settled)),
            address=config.ray_address,
            part_rows=config.part_rows,
            store=config.store,
            batch_size=config.batch(encoder.info.device),
            workers=config.threads,
            progress=context.progress,
        )
    return embed_items(
        items,
        workspace=context.workspace,
        encoder=encoder,
        part_rows=config.part_rows,
        store=config.store,
        batch_size=config.batch(encoder.info.device),
        workers=config.threads,
        progress=context.progress,
    )
