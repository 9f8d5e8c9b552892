"""The run itself: threads read and decode ahead, one thread encodes, parts are written in order."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from cfpairs.embedding.images import (
    UnusableImageError,
    content_hash,
    decode_rgb,
    one_line,
    quiet_pillow,
    read_file,
)
from cfpairs.embedding.parts import EncoderIdentity, Failure, Item, Parts, failures_file
from cfpairs.errors import CfpairsError, DataError
from cfpairs.progress import SILENT, Advance, Progress
from cfpairs.workspace import Workspace

__all__ = ["EmbedReport", "ImageEncoder", "embed_items"]


class ImageEncoder(Protocol):
    """What is asked of an encoder here; `cfpairs.encoders.base.Encoder` says it in full."""

    @property
    def info(self) -> EncoderIdentity:
        """Its identity."""
        ...

    def load(self) -> None:
        """Build the model, if that is not done."""
        ...

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB image to (3, s, s)."""
        ...

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, 3, s, s) to (b, d)."""
        ...


@dataclass(frozen=True)
class EmbedReport:
    """What one call of `embed_items` did.

    Attributes
    ----------
    encoder_id : str
    folder : Path
        Holds the parts and ``failures.parquet``.
    n_items : int
        Items that were asked for.
    n_new : int
        Items that this call read, with or without success.
    n_failed : int
        Items asked for that have no embedding.
    seconds : float
        Reading, encoding and writing; building the model is not counted.
    images_per_second : float
        ``n_new / seconds``; 0 if nothing was to be done.
    """

    encoder_id: str
    folder: Path
    n_items: int
    n_new: int
    n_failed: int
    seconds: float
    images_per_second: float


def embed_items(
    items: pa.Table,
    *,
    workspace: Workspace,
    encoder: ImageEncoder,
    part_rows: int = 512,
    store: str = "float32",
    batch_size: int = 32,
    workers: int = 2,
    progress: Progress = SILENT,
) -> EmbedReport:
    """Embed every item that has no embedding yet.

    Parameters
    ----------
    items : pyarrow.Table
        Columns ``item_id`` (distinct) and ``path``, as the manifest has them; their order is kept.
    workspace : Workspace
        Parts go to ``workspace.embeddings(encoder.info.id)``. The caller holds its lock.
    encoder : ImageEncoder
        Loaded here if there is anything to do; the caller closes it.
    part_rows : int
        Items a part, those that fail counted in.
    store : str
        ``float32`` or ``float16``.
    batch_size : int
        Images that the encoder gets at once, the batch size that it was made with. No batch crosses from
        one part to the next; the last of a part is filled up with zeros.
    workers : int
        Threads that read, decode and resize. At most two batches and a few images are held at a time.
    progress : Progress, optional

    Returns
    -------
    EmbedReport

    Raises
    ------
    DataError
        If ids repeat, or the encoder gives something that is not finite.
    CfpairsError
        If not one of the items could be read; the message has the first reason.
    WorkspaceError
        If the folder cannot be written.

    Notes
    -----
    A run that was killed is taken up by the same call: complete parts are kept, the others are made, and
    the files end with the same bytes as after an unbroken run. A damaged part, or one of another number
    type than `store`, is set aside (``.unusable``) and made again.

    An image that is missing, damaged, no image, or not safe to decode is recorded with a reason in
    ``failures.parquet`` (always there after a complete run, empty if nothing failed) and tried again by a
    later call once its bytes have changed. An item that has an embedding keeps it: a changed image needs
    another ``item_id``.
    """
    wanted, parts, todo = look_up(items, workspace, encoder.info, store, progress)
    seconds = 0.0
    if todo:
        encoder.load()
        started = time.perf_counter()
        run = _Run(workspace, encoder, parts, part_rows, batch_size, workers)
        with quiet_pillow(), progress.task("embedding", len(todo)) as advance:
            run.embed(todo, advance)
        seconds = time.perf_counter() - started
    return finish(wanted, workspace, encoder.info, parts, len(todo), seconds)


def look_up(
    items: pa.Table, workspace: Workspace, info: EncoderIdentity, store: str, progress: Progress
) -> tuple[list[Item], Parts, list[Item]]:
    """The items that are wanted, the parts that are there, and the items that are still to be tried."""
    wanted = _distinct(items)
    parts = Parts(workspace.embeddings(info.id), info, store)
    for line in parts.scan():
        progress.say(line)
    return wanted, parts, [item for item in wanted if parts.is_open(item, workspace.file(item.path))]


def embed_part(
    items: Sequence[Item],
    *,
    workspace: Workspace,
    encoder: ImageEncoder,
    parts: Parts,
    batch_size: int,
    workers: int,
    advance: Advance,
) -> None:
    """Read, decode, encode and write `items`, at least one, as the next part of `parts`."""
    with quiet_pillow():
        _Run(workspace, encoder, parts, len(items), batch_size, workers).embed(items, advance)


def finish(
    wanted: Sequence[Item],
    workspace: Workspace,
    info: EncoderIdentity,
    parts: Parts,
    n_new: int,
    seconds: float,
) -> EmbedReport:
    """List the failures and say what was done; an error if not one of the items has an embedding."""
    folder = workspace.embeddings(info.id)
    parts.write_failures()
    failed = [failure for item in wanted if (failure := parts.failure(item.item_id))]
    if wanted and len(failed) == len(wanted):
        raise CfpairsError(
            f"not one of {len(wanted)} images could be embedded",
            got=f"{failed[0].path} {failed[0].error}",
            remedy=f"{failures_file(folder)} lists every reason",
        )
    rate = n_new / seconds if seconds > 0 else 0.0
    return EmbedReport(info.id, folder, len(wanted), n_new, len(failed), seconds, rate)


def _distinct(items: pa.Table) -> list[Item]:
    ids, paths = (items[name].to_pylist() for name in ("item_id", "path"))
    if len(set(ids)) != len(ids):
        raise DataError("items to embed repeat an item_id", got=f"{len(ids)} items, {len(set(ids))} ids")
    return [Item(*pair) for pair in zip(ids, paths, strict=True)]


@dataclass(frozen=True)
class _Prepared:
    """One image on its way to the encoder: its pixels, or the reason why there are none."""

    item: Item
    content_hash: str
    pixels: NDArray[np.float32] | None
    error: str = ""


@dataclass(frozen=True)
class _Run:
    """One call's settings."""

    workspace: Workspace
    encoder: ImageEncoder
    parts: Parts
    part_rows: int
    batch_size: int
    workers: int

    def embed(self, todo: Sequence[Item], advance: Advance) -> None:
        """Write one part after the other; reading runs ahead across their borders."""
        with contextlib.closing(self._read_ahead(todo)) as stream:
            for start in range(0, len(todo), self.part_rows):
                part = _Part(self.encoder, self.batch_size, advance)
                for prepared in itertools.islice(stream, min(self.part_rows, len(todo) - start)):
                    part.add(prepared)
                part.write(self.parts)

    def _read_ahead(self, todo: Sequence[Item]) -> Generator[_Prepared, None, None]:
        """Prepared images in order; a bounded number of them is under way or waiting."""
        Image.init()  # registers the formats here, so that threads do not race to do it
        ahead = self.batch_size + 2 * self.workers
        waiting: deque[Future[_Prepared]] = deque()
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="cfpairs-read")
        try:
            for item in todo:
                waiting.append(pool.submit(self._prepare, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _prepare(self, item: Item) -> _Prepared:
        """Read, decode and preprocess one image; whatever is wrong with it becomes its `error`."""
        digest = ""
        try:
            content = read_file(self.workspace.file(item.path))
            digest = content_hash(content)
            return _Prepared(item, digest, self.encoder.preprocess(decode_rgb(content)))
        except UnusableImageError as error:
            return _Prepared(item, digest, None, str(error))
        except Exception as error:  # one bad image must never stop the run
            return _Prepared(item, digest, None, f"cannot be prepared for the encoder: {one_line(error)}")


class _Part:
    """Collects the images of one part into batches of one shape and encodes them."""

    def __init__(self, encoder: ImageEncoder, batch_size: int, advance: Advance) -> None:
        self._encoder = encoder
        self._batch_size = batch_size
        self._advance = advance
        self._batch: NDArray[np.float32] | None = None
        self._waiting: list[Item] = []
        self._items: list[Item] = []
        self._hashes: list[str] = []
        self._vectors: list[NDArray[np.float32]] = [np.empty((0, encoder.info.dim), np.float32)]
        self._failures: list[Failure] = []

    def add(self, prepared: _Prepared) -> None:
        """Take one image, and encode when a batch is full."""
        item = prepared.item
        if prepared.pixels is None:
            self._failures.append(Failure(item.item_id, item.path, prepared.error, prepared.content_hash))
            self._advance(1)
            return
        if self._batch is None:
            self._batch = np.zeros((self._batch_size, *prepared.pixels.shape), np.float32)
        self._batch[len(self._waiting)] = prepared.pixels
        self._waiting.append(item)
        self._hashes.append(prepared.content_hash)
        if len(self._waiting) == self._batch_size:
            self._encode(self._batch)

    def _encode(self, batch: NDArray[np.float32]) -> None:
        count = len(self._waiting)
        batch[count:] = 0
        vectors = np.asarray(self._encoder.encode(batch), np.float32)
        expected = (self._batch_size, self._encoder.info.dim)
        if vectors.shape != expected:
            raise DataError("the encoder gave another shape", got=vectors.shape, expected=expected)
        finite = np.isfinite(vectors[:count]).all(axis=1)
        if not finite.all():
            item = self._waiting[int(np.argmin(finite))]
            raise DataError(
                f"the embedding of item {item.item_id!r} is not finite",
                got=item.path,
                remedy="set precision: fp32, or take another encoder",
            )
        self._vectors.append(vectors[:count].copy())
        self._items += self._waiting
        self._waiting = []
        self._advance(count)

    def write(self, parts: Parts) -> None:
        """Encode what waits and write the part."""
        if self._batch is not None and self._waiting:
            self._encode(self._batch)
        parts.write(self._items, self._hashes, np.concatenate(self._vectors), self._failures)
