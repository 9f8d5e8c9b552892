"""What an encoder is: preprocessing that travels with the weights, and a batch function."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.tables import fingerprint

__all__ = ["Encoder", "EncoderInfo", "Preprocessing"]


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the encoder's input.

    Attributes
    ----------
    size : int
        Side of the square input in pixels.
    resize : int
        The shorter side is resized to this many pixels before the centre crop.
    interpolation : str
        ``bicubic`` or ``bilinear``.
    mean, std : tuple of float
        Per channel, for values in 0..1.
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


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

    @property
    def id(self) -> str:
        """Folder name of its embeddings: the name, how it is run, and a hash of what changes the result."""
        key = asdict(self)
        for part in ("spec", "libraries"):
            key.pop(part)
        return f"{self.name}-{self.runtime}-{self.precision}-{fingerprint(key)[:8]}"


class Encoder(Protocol):
    """A frozen image encoder.

    The constructor checks the SPEC and fills `info`; it must not build the model.
    """

    info: EncoderInfo

    def __init__(self, argument: str, config: EncoderConfig) -> None: ...

    def load(self) -> None:
        """Build the model and put the weights in; called once, before `encode`."""
        ...

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB image to (3, size, size); called from several threads."""
        ...

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, 3, size, size) to (b, d) float32; b is always the configured batch size."""
        ...

    def close(self) -> None:
        """Free what `load` took."""
        ...


def split_spec(spec: str) -> tuple[str, str]:
    """``"open_clip:ViT-B-32/openai"`` to ``("open_clip", "ViT-B-32/openai")``; no colon: ``(spec, "")``."""
    name, _, argument = spec.partition(":")
    return name, argument


def library_versions(*names: str) -> dict[str, Any]:
    """Installed versions of distributions, those that are absent left out."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
