"""The run in this process: threads prepare images, this thread encodes, one thread writes the parts."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from cfpairs.embedding.files import UNREADABLE, FileIndex
from cfpairs.embedding.images import quiet_pillow
from cfpairs.embedding.items import Item, ItemList
from cfpairs.embedding.parts import NEVER, EncoderIdentity, Parts, failures_file
from cfpairs.embedding.stages import EncodedPart, ImageEncoder, Pipeline
from cfpairs.errors import CfpairsError, WorkspaceError
from cfpairs.progress import SILENT, Advance, Progress
from cfpairs.workspace import Workspace

__all__ = ["EmbedReport", "ImageEncoder", "embed_items", "embed_part", "finish", "look_up", "open_items"]

WAITING = 2
"""Parts that are written or wait to be, while the next one is encoded."""


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
    items: pa.Table | Path,
    *,
    workspace: Workspace,
    encoder: ImageEncoder,
    part_rows: int = 512,
    store: str = "float32",
    batch_size: int = 32,
    workers: int = 2,
    progress: Progress = SILENT,
) -> EmbedReport:
    """Embed every item that has no embedding yet, or whose image has changed since.

    Parameters
    ----------
    items : pyarrow.Table or Path
        Columns ``item_id`` (distinct) and ``path``, as the manifest has them; their order is kept. A path is
        that of a Parquet file, the manifest itself: it is read bit by bit, and memory stays flat in the
        number of items but for about 60 bytes each.
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
        one part to the next; the place of an image that fails, and the rest of a last batch, are zeros.
    workers : int
        Threads that read, decode and resize. At most four batches are held at a time.
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
        If the folder cannot be written, such as on a full disk; complete parts are kept.

    Notes
    -----
    A run that was killed is taken up by the same call: complete parts are kept, the others are made, and
    the files end with the same bytes as after an unbroken run. On SIGINT (and whatever else raises
    ``KeyboardInterrupt``) parts that are encoded are still written. A damaged part, or one of another number
    type than `store`, is set aside (``.unusable``) and made again.

    An image that is missing, damaged, no image, or not safe to decode is recorded with a reason in
    ``failures.parquet`` (always there after a complete run, empty if nothing failed) and tried again by a
    later call once its bytes have changed.

    So is an image that was embedded. The part has the hash of the bytes that were embedded; the workspace's
    ``.files.npy`` has size and times of each file when it was last read, so that only files where these
    differ are read again. A vector whose file has other bytes now is first taken out of its part, and the
    item then embedded like a new one: no item ever has two vectors, and none has an outdated one. A vector
    whose file is gone stays.
    """
    wanted, parts, todo = look_up(items, workspace, encoder.info, store, progress)
    seconds = 0.0
    if todo:
        encoder.load()
        started = time.perf_counter()
        with quiet_pillow(), progress.task("embedding", len(todo)) as advance:
            pipeline = Pipeline(workspace, encoder, batch_size, workers, advance)
            _run(pipeline, parts, FileIndex(workspace.files), todo, part_rows, progress)
        seconds = time.perf_counter() - started
    return finish(wanted, workspace, encoder.info, parts, len(todo), seconds)


def _run(
    pipeline: Pipeline, parts: Parts, index: FileIndex, todo: ItemList, part_rows: int, progress: Progress
) -> None:
    """Encode and write part after part; what is complete is written whatever happens."""
    writer = _Writer(parts, index)
    try:
        with writer, pipeline, contextlib.closing(pipeline.run(todo.chunks(part_rows))) as encoded:
            for part in encoded:
                writer.put(part)
    except KeyboardInterrupt:
        progress.say(writer.said(len(todo)))
        raise
    except WorkspaceError as error:
        raise WorkspaceError(
            error.problem,
            got=error.got,
            remedy=f"{writer.said(len(todo))}; make room or give permission, and the same command goes on",
        ) from error
    finally:
        index.save()


class _Writer:
    """Writes parts in a thread of its own, in order; at most one is written and one waits.

    Leaving its context waits for both; their errors are raised by `put` or then.
    """

    def __init__(self, parts: Parts, index: FileIndex) -> None:
        self._parts = parts
        self._index = index
        self._pending: deque[Future[None]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cfpairs-write")
        self._failed = False
        self._done = 0

    def __enter__(self) -> _Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        if kind is None:
            self._settle(0)

    def put(self, part: EncodedPart) -> None:
        """Hand over one part; waits while two are under way."""
        self._settle(WAITING - 1)
        self._pending.append(self._pool.submit(self._write, part))

    def _settle(self, most: int) -> None:
        while len(self._pending) > most:
            self._pending.popleft().result()

    def _write(self, part: EncodedPart) -> None:
        if self._failed:  # a later part in the place of one that failed would change the order
            return
        try:
            self._parts.write(part.items, part.hashes, part.vectors, part.failures)
        except BaseException:
            self._failed = True
            raise
        for state in part.states:
            self._index.note(*state)
        self._done += len(part.states)

    def said(self, total: int) -> str:
        """How far the run is."""
        return f"{self._done} of {total} items are written"


def look_up(
    items: pa.Table | Path, workspace: Workspace, info: EncoderIdentity, store: str, progress: Progress
) -> tuple[ItemList, Parts, ItemList]:
    """The items that are wanted, the parts that are there, and the items that are still to be embedded.

    Vectors of images that have changed are taken out of their parts.
    """
    wanted = ItemList(items)
    wanted.check_distinct()
    parts = Parts(workspace.embeddings(info.id), info, store)
    for line in parts.scan():
        progress.say(line)
    index = FileIndex(workspace.files)
    opened, changed = _compare(wanted, parts, index, workspace)
    index.save()
    if changed:
        parts.drop(changed)
        shown = ", ".join(map(repr, changed[:3])) + (", ..." if len(changed) > 3 else "")
        progress.say(f"{len(changed)} embedded images have other bytes now and are embedded again: {shown}")
    return wanted, parts, wanted.only(opened)


def open_items(items: pa.Table | Path, workspace: Workspace, info: EncoderIdentity, store: str) -> list[str]:
    """Ids of the items that `embed_items` would embed; nothing is written."""
    wanted = ItemList(items)
    parts = Parts(workspace.embeddings(info.id), info, store)
    parts.scan(repair=False)
    opened, _ = _compare(wanted, parts, FileIndex(workspace.files), workspace)
    return [item.item_id for item in wanted.only(opened)]


def _compare(
    wanted: ItemList, parts: Parts, index: FileIndex, workspace: Workspace
) -> tuple[np.ndarray[tuple[int], np.dtype[np.bool_]], list[str]]:
    """Which items are to be embedded, and the ids of those among them that have a vector of other bytes."""
    opened = np.zeros(len(wanted), bool)
    changed: list[str] = []
    start = 0
    root = str(workspace.root)
    for ids, paths in wanted.blocks():
        recorded = parts.recorded(ids)
        here = np.flatnonzero((recorded != NEVER) & np.array([bool(path) for path in paths]))
        names = [paths[i] for i in here]
        now = recorded.copy()
        now[here] = index.contents(names, [os.path.join(root, name) for name in names])
        embedded = parts.embedded(ids)
        other = (now != recorded) & ~(embedded & (now == UNREADABLE))
        changed += [ids[i] for i in np.flatnonzero(other & embedded)]
        opened[start : start + len(ids)] = other | (recorded == NEVER)
        start += len(ids)
    return opened, changed


def embed_part(
    items: Sequence[Item],
    *,
    workspace: Workspace,
    encoder: ImageEncoder,
    parts: Parts,
    batch_size: int,
    workers: int,
    advance: Advance,
) -> list[tuple[str, int, int]]:
    """Read, decode, encode and write `items`, at least one, as the next part of `parts`.

    Returns
    -------
    list of (path, state, content)
        What is now known of the files; see `FileIndex.note`.
    """
    with quiet_pillow(), Pipeline(workspace, encoder, batch_size, workers, advance) as pipeline:
        (part,) = pipeline.run([items])
        parts.write(part.items, part.hashes, part.vectors, part.failures)
    return part.states


def finish(
    wanted: ItemList,
    workspace: Workspace,
    info: EncoderIdentity,
    parts: Parts,
    n_new: int,
    seconds: float,
) -> EmbedReport:
    """List the failures and say what was done; an error if not one of the items has an embedding."""
    folder = workspace.embeddings(info.id)
    parts.write_failures()
    failed = parts.failed_among(wanted)
    first = next(failed, None)
    n_failed = 0 if first is None else 1 + sum(1 for _ in failed)
    if first is not None and n_failed == len(wanted):
        raise CfpairsError(
            f"not one of {n_failed} images could be embedded",
            got=f"{first.path} {first.error}",
            remedy=f"{failures_file(folder)} lists every reason",
        )
    rate = n_new / seconds if seconds > 0 else 0.0
    return EmbedReport(info.id, folder, len(wanted), n_new, n_failed, seconds, rate)
