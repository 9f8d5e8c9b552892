"""The stages that every engine shares: threads prepare images ahead, batches are encoded, parts gathered."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.embedding.files import file_state, short_hash
from cfpairs.embedding.images import (
    UnusableImageError,
    content_hash,
    decode_rgb,
    one_line,
    read_with_status,
)
from cfpairs.embedding.items import Item
from cfpairs.embedding.parts import EncoderIdentity, Failure
from cfpairs.errors import DataError
from cfpairs.progress import Advance
from cfpairs.workspace import Workspace

__all__ = ["EncodedPart", "ImageEncoder", "Pipeline"]

AHEAD = 3
"""Batches that are being filled or wait, beside those that the encoder has."""

GROUP = 4
"""Images that a thread takes at a time."""


class ImageEncoder(Protocol):
    """What is asked of an encoder here; `cfpairs.encoders.base` says it in full.

    One that also has `pixels` and `stream` is given 8-bit batches and works on one while the next is made
    ready; one that decodes files has `file_pixels`, and on its own device `decode_files` and `gather`.
    """

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


@dataclass
class EncodedPart:
    """What became of the items of one part.

    Attributes
    ----------
    items, hashes : list of length n
        What was embedded, and the `content_hash` of each file.
    vectors : ndarray of shape (n, d)
    failures : list of Failure
        What was not.
    states : list of (path, state, content)
        What is now known of the files; see `FileIndex.note`.
    """

    items: list[Item]
    hashes: list[str]
    vectors: NDArray[np.float32]
    failures: list[Failure]
    states: list[tuple[str, int, int]]


@dataclass(slots=True)
class _Image:
    """One image on its way: what is known of its file, and why it has no pixels, if it has none."""

    item: Item
    content_hash: str = ""
    state: int = 0
    error: str = ""
    content: bytes = b""


@dataclass
class _Batch:
    """Up to b images of one part in one buffer; those that failed leave their place empty."""

    images: list[_Image]
    size: int
    last: bool
    buffer: NDArray[Any] | None
    lock: threading.Lock = field(default_factory=threading.Lock)
    filled: list[int] = field(default_factory=list)
    groups: list[Future[None]] = field(default_factory=list)

    def put(self, place: int, pixels: NDArray[Any]) -> None:
        with self.lock:
            if self.buffer is None:
                self.buffer = np.zeros((self.size, *pixels.shape), pixels.dtype)
        np.copyto(self.buffer[place], pixels, casting="no")
        with self.lock:
            self.filled.append(place)

    def sealed(self) -> NDArray[Any] | None:
        """The buffer when every image is done, its empty places zero; None if no image is sound."""
        for group in self.groups:
            group.result()
        self.filled.sort()
        if self.buffer is not None and len(self.filled) < self.size:
            empty = np.ones(self.size, bool)
            empty[self.filled] = False
            self.buffer[empty] = 0
        return self.buffer if self.filled else None


class Pipeline:
    """Threads that read and decode ahead of an encoder; use it as a context.

    Parameters
    ----------
    workspace : Workspace
        Turns the paths of items into files.
    encoder : ImageEncoder
        Loaded.
    batch_size : int
        Images that the encoder gets at once.
    workers : int
        Threads that read, decode and resize.
    advance : callable, optional
        Told how many items are done.
    """

    def __init__(
        self,
        workspace: Workspace,
        encoder: ImageEncoder,
        batch_size: int,
        workers: int,
        advance: Advance = lambda _count: None,
    ) -> None:
        self._workspace = workspace
        self._encoder = encoder
        self._batch_size = batch_size
        self._advance = advance
        self._prepare = getattr(encoder, "pixels", encoder.preprocess)
        self._by_device = _decodes_on_device(encoder)
        self._file_pixels: Callable[[bytes], NDArray[Any] | None] = getattr(
            encoder, "file_pixels", lambda _content: None
        )
        self._free: list[NDArray[Any]] = []
        Image.init()  # registers the formats here, so that threads do not race to do it
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="cfpairs-read")

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, parts: Iterable[Sequence[Item]]) -> Generator[EncodedPart, None, None]:
        """The parts in order, each when it is done; reading runs ahead across their borders.

        No batch crosses from one part to the next; the last of a part is filled up with zeros.

        Raises
        ------
        DataError
            If the encoder gives another shape, or something that is not finite.
        """
        handed: deque[_Batch] = deque()
        batches: list[tuple[_Batch, NDArray[np.float32] | None]] = []
        features = self._features(self._sealed(parts, handed))

        def done(vectors: NDArray[np.float32] | None) -> Iterator[EncodedPart]:
            batch = handed.popleft()
            batches.append((batch, vectors))
            if batch.buffer is not None:
                self._free.append(batch.buffer)
            self._advance(len(batch.images))
            if batch.last:
                yield _gathered(batches, self._encoder.info.dim)
                batches.clear()

        for found in features:
            while not handed[0].filled:
                yield from done(None)
            yield from done(self._checked(found, handed[0]))
        while handed:
            yield from done(None)

    def _features(self, batches: Iterator[Any]) -> Iterator[Any]:
        stream = getattr(self._encoder, "stream", None)
        found: Iterator[Any] = map(self._encoder.encode, batches) if stream is None else stream(batches)
        return found

    def _sealed(self, parts: Iterable[Sequence[Item]], handed: deque[_Batch]) -> Iterator[Any]:
        """Batches for the encoder; every batch, also one without a sound image, goes to `handed`."""
        waiting: deque[_Batch] = deque()
        for batch in self._started(parts):
            waiting.append(batch)
            if len(waiting) == AHEAD:
                yield from self._seal(waiting.popleft(), handed)
        while waiting:
            yield from self._seal(waiting.popleft(), handed)

    def _seal(self, batch: _Batch, handed: deque[_Batch]) -> Iterator[Any]:
        buffer = batch.sealed()
        mixed = self._decoded(batch) if self._by_device else None
        handed.append(batch)
        if batch.filled:
            yield buffer if mixed is None else mixed

    def _started(self, parts: Iterable[Sequence[Item]]) -> Iterator[_Batch]:
        for items in parts:
            for start in range(0, len(items), self._batch_size):
                images = [_Image(item) for item in items[start : start + self._batch_size]]
                last = start + self._batch_size >= len(items)
                buffer = self._free.pop() if self._free else None
                batch = _Batch(images, self._batch_size, last, buffer)
                for place in range(0, len(images), GROUP):
                    batch.groups.append(self._pool.submit(self._fill, batch, place))
                yield batch

    def _fill(self, batch: _Batch, start: int) -> None:
        for place in range(start, min(start + GROUP, len(batch.images))):
            image = batch.images[place]
            self._read(image)
            if not image.error and not self._by_device:
                self._decode(image, batch, place)

    def _read(self, image: _Image) -> None:
        try:
            image.content, status = read_with_status(self._workspace.file(image.item.path))
        except UnusableImageError as error:
            image.error = str(error)
        except Exception as error:  # one bad file must never stop the run
            image.error = f"cannot be read: {one_line(error)}"
        else:
            image.content_hash = content_hash(image.content)
            image.state = file_state(status)

    def _decode(self, image: _Image, batch: _Batch, place: int) -> None:
        """Decode and preprocess one image; whatever is wrong with it becomes its `error`."""
        content, image.content = image.content, b""
        try:
            pixels = self._file_pixels(content)
            batch.put(place, self._prepare(decode_rgb(content)) if pixels is None else pixels)
        except UnusableImageError as error:
            image.error = str(error)
        except Exception as error:  # one bad image must never stop the run
            image.error = f"cannot be prepared for the encoder: {one_line(error)}"

    def _decoded(self, batch: _Batch) -> Any:
        """A batch from the encoder's own decoder; what that cannot decode is decoded here."""
        read = [place for place, image in enumerate(batch.images) if not image.error]
        encoder: Any = self._encoder
        blocks = encoder.decode_files([batch.images[place].content for place in read])
        missed = [place for place, block in zip(read, blocks, strict=True) if block is None]
        list(self._pool.map(lambda place: self._decode(batch.images[place], batch, place), missed))
        found = {place: block for place, block in zip(read, blocks, strict=True) if block is not None}
        for place in read:
            batch.images[place].content = b""
        if batch.buffer is not None:
            found |= {place: batch.buffer[place].copy() for place in batch.filled}
        batch.filled = sorted(found)
        if not found:
            return None
        side = encoder.info.preprocessing.size
        empty = np.zeros((3, side, side), np.uint8)
        return encoder.gather([found.get(place, empty) for place in range(batch.size)])

    def _checked(self, found: Any, batch: _Batch) -> NDArray[np.float32]:
        vectors = np.asarray(found, np.float32)
        expected = (self._batch_size, self._encoder.info.dim)
        if vectors.shape != expected:
            raise DataError("the encoder gave another shape", got=vectors.shape, expected=expected)
        vectors = vectors[batch.filled]
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            item = batch.images[batch.filled[int(np.argmin(finite))]].item
            raise DataError(
                f"the embedding of item {item.item_id!r} is not finite",
                got=item.path,
                remedy="set precision: fp32, or take another encoder",
            )
        return vectors


def _decodes_on_device(encoder: Any) -> bool:
    how = getattr(encoder.info, "preprocessing", None)
    return getattr(how, "decoder", "pillow") == "nvjpeg"


def _gathered(batches: Sequence[tuple[_Batch, NDArray[np.float32] | None]], dim: int) -> EncodedPart:
    images = [image for batch, _ in batches for image in batch.images]
    sound = [image for image in images if not image.error]
    vectors = [found for _, found in batches if found is not None]
    return EncodedPart(
        items=[image.item for image in sound],
        hashes=[image.content_hash for image in sound],
        vectors=np.concatenate(vectors) if vectors else np.empty((0, dim), np.float32),
        failures=[
            Failure(image.item.item_id, image.item.path, image.error, image.content_hash)
            for image in images
            if image.error
        ],
        states=[(image.item.path, image.state, short_hash(image.content_hash)) for image in images],
    )
