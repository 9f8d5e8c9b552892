"""What an encoder is: preprocessing that travels with the weights, and a batch function."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.errors import ConfigError
from cfpairs.tables import fingerprint

__all__ = [
    "Encoder",
    "EncoderInfo",
    "FileEncoder",
    "Preprocessing",
    "StreamEncoder",
    "encode_stream",
    "file_sha256",
    "library_versions",
    "safe_name",
    "split_spec",
]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the encoder's input.

    Attributes
    ----------
    size : int
        Side of the square input in pixels.
    resize : int
        With ``shortest``, the shorter side is resized to this many pixels before the centre crop; with
        ``squash`` both sides are.
    interpolation : str
        One of Pillow's filters: ``nearest``, ``box``, ``bilinear``, ``hamming``, ``bicubic``, ``lanczos``.
    mean, std : tuple of float
        Per channel, for values in 0..1.
    resize_mode : str
        ``shortest`` (then a centre crop), ``longest`` (then padding with `fill`) or ``squash``.
    fill : int
        Value of padded pixels, 0..255.
    colour : str
        How the file's pixels become RGB before all this.
    decoder : str
        What decodes JPEG files and resizes all images: ``pillow``; ``fast`` (libjpeg-turbo and torch), the
        same decoded pixels and resized ones that differ by at most one level of 255; or ``nvjpeg`` on an
        NVIDIA GPU, whose decoded pixels differ slightly too.
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize_mode: str = "shortest"
    fill: int = 0
    colour: str = "exif-orientation, alpha on white, rgb"
    decoder: str = "pillow"


@dataclass(frozen=True)
class EncoderInfo:
    """What identifies an encoder's output; known without loading the weights into a model.

    Attributes
    ----------
    spec : str
        As the user typed it.
    name : str
        Safe for file names, such as ``lite`` or ``open_clip-ViT-B-32-openai``.
    dim : int
        Number of dimensions of an embedding.
    weights_sha256 : str
        Hash of the weight file.
    runtime, precision, device : str
        How it is run: ``torch`` or ``openvino``; ``fp32``, ``bf16`` or ``fp16``; ``cpu`` or ``cuda``.
    libraries : dict of str to str
        Versions of what computes the result.
    features : str
        ``projected`` or ``pooled``: after or before CLIP's projection; ``pooled`` where there is none.
    """

    spec: str
    name: str
    dim: int
    weights_sha256: str
    runtime: str
    precision: str
    device: str
    preprocessing: Preprocessing
    libraries: dict[str, str]
    features: str = "pooled"

    @property
    def id(self) -> str:
        """Folder name of its embeddings: the name, how it is run, and a hash of what changes the result."""
        key = asdict(self)
        for part in ("spec", "libraries"):
            key.pop(part)
        return f"{self.name}-{self.runtime}-{self.precision}-{fingerprint(key)[:8]}"

    def metadata(self) -> dict[str, str]:
        """What is stored beside the embeddings, as text; `preprocessing` and `libraries` are JSON."""
        return {
            "encoder": self.spec,
            "encoder_id": self.id,
            "weights_sha256": self.weights_sha256,
            "runtime": self.runtime,
            "precision": self.precision,
            "device": self.device,
            "features": self.features,
            "preprocessing": json.dumps(asdict(self.preprocessing), sort_keys=True),
            "libraries": json.dumps(self.libraries, sort_keys=True),
            "normalisation": "none",
        }


class Encoder(Protocol):
    """A frozen image encoder.

    The constructor checks the SPEC and fills `info`; it must not build the model.
    """

    info: EncoderInfo

    def __init__(self, argument: str, config: EncoderConfig) -> None: ...

    def load(self) -> None:
        """Build the model and put the weights in; does nothing when that is done already."""
        ...

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB image to (3, size, size); called from several threads, after `load`."""
        ...

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, 3, size, size) to (b, d) float32; b is always the configured batch size.

        The embedding of an image must not depend on the rest of its batch.
        """
        ...

    def close(self) -> None:
        """Free what `load` took; `load` may be called again."""
        ...


class StreamEncoder(Encoder, Protocol):
    """An encoder that also takes 8-bit pixels and works on one batch while the next is made ready.

    Its `encode` and `stream` take float32 batches as `preprocess` makes them and uint8 batches as `pixels`
    makes them, and give the same features for both to within 1e-5.
    """

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """What `preprocess` gives before it is normalised, a quarter of the memory: (3, size, size)."""
        ...

    def stream(self, batches: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        """Features (b, d) of each batch, in order.

        The next batch is taken before the features of the last are given, so an array that was handed over
        must not be written to until its features have come back.
        """
        ...


class FileEncoder(StreamEncoder, Protocol):
    """An encoder that can decode files itself, on the CPU or on its own device.

    On its own device where ``info.preprocessing.decoder`` is ``nvjpeg``: the caller then hands files over,
    decodes by itself those that come back as None, and gathers both into a batch for `encode` or `stream`.
    """

    def file_pixels(self, content: bytes) -> NDArray[np.uint8] | None:
        """What `pixels` gives of a file's image, (3, size, size); None if the caller has to decode it.

        Called from several threads.
        """
        ...

    def decode_files(self, contents: Sequence[bytes]) -> list[Any | None]:
        """One block of pixels, as `gather` takes it, for each file; None if it cannot be decoded here.

        Called from the thread that encodes, after `load`.
        """
        ...

    def gather(self, images: Sequence[Any]) -> Any:
        """Blocks of `decode_files` and arrays of `pixels`, in any mixture, to one batch."""
        ...


def encode_stream(encoder: Encoder, batches: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
    """``encoder.stream(batches)``, or one batch after the other where the encoder has no stream."""
    stream = getattr(encoder, "stream", None)
    return stream(batches) if stream is not None else map(encoder.encode, batches)


def split_spec(spec: str) -> tuple[str, str]:
    """``"open_clip:ViT-B-32/openai"`` to ``("open_clip", "ViT-B-32/openai")``; no colon: ``(spec, "")``."""
    name, _, argument = spec.partition(":")
    return name, argument


def safe_name(*parts: str) -> str:
    """The parts joined by ``-``, with what a file name should not hold replaced by ``_``.

    Examples
    --------
    >>> safe_name("open_clip", "ViT-B-32", "a/b c")
    'open_clip-ViT-B-32-a_b_c'
    """
    return re.sub(r"[^A-Za-z0-9._-]", "_", "-".join(parts))


def file_sha256(path: Path) -> str:
    """SHA-256 of a weight file; one that has not changed is read once a process.

    Raises
    ------
    ConfigError
        If it cannot be read.
    """
    try:
        found = path.stat()
        return _sha256(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise ConfigError(
            f"the weight file {path} cannot be read", got=error.strerror or str(error)
        ) from error


@lru_cache(maxsize=8)
def _sha256(path: Path, _size: int, _changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def library_versions(*names: str) -> dict[str, str]:
    """Installed versions of distributions, those that are absent left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
