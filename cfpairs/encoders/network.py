"""What every encoder that runs a torch network shares: identity, plan, pixels and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import EncoderInfo, Preprocessing, file_sha256, library_versions
from cfpairs.encoders.findings import finding_key, recall
from cfpairs.encoders.preprocessing import normalise, square_pixels
from cfpairs.encoders.runtimes import RunPlan, Runtime, build_runtime, plan_run, settle_device
from cfpairs.errors import CfpairsError, ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["NetworkEncoder"]

_BY_TORCH = ("bicubic", "bilinear")
"""Filters that torch has with antialiasing; named here so that torch need not be loaded."""


class NetworkEncoder(ABC):
    """An encoder of one network; a child finds the weights and builds the module.

    Parameters
    ----------
    config : EncoderConfig
    name : str
        Safe for file names.
    dim : int
    weights : Path
        The weight file.
    preprocessing : Preprocessing
    features : str
        ``pooled`` where the network has no projection.
    libraries : tuple of str
        Distributions that build the network, beside those that run it.

    Raises
    ------
    ConfigError
        If settings do not go together, or the weight file cannot be read.
    """

    info: EncoderInfo

    def __init__(
        self,
        config: EncoderConfig,
        *,
        name: str,
        dim: int,
        weights: Path,
        preprocessing: Preprocessing,
        features: str = "pooled",
        libraries: tuple[str, ...] = (),
    ) -> None:
        self.weights = weights
        sha256 = file_sha256(weights)
        device = settle_device(config.device)
        self.finding_key = finding_key(sha256, features, preprocessing, device)
        self.plan: RunPlan = plan_run(config, recall(self.finding_key))
        self._open_choice = "auto" in (config.runtime, config.precision)
        self._runtime: Runtime | None = None
        preprocessing = _decoded_by(config.decoder, preprocessing)
        self.info = EncoderInfo(
            spec=config.spec,
            name=name,
            dim=dim,
            weights_sha256=sha256,
            runtime=self.plan.runtime,
            precision=self.plan.precision,
            device=self.plan.device,
            preprocessing=preprocessing,
            libraries=library_versions("numpy", "Pillow", *libraries, *self.plan.libraries),
            features=features,
        )

    @abstractmethod
    def build(self) -> torch.nn.Module:
        """The network with its weights, from (b, 3, size, size) to (b, d), float32, on the CPU."""

    @property
    def advice(self) -> str:
        """One line on how it may be made faster; empty where that was measured, or is settled."""
        if self.plan.measured or not self._open_choice:
            return ""
        return f"'cfpairs doctor --encoder {self.info.spec}' may find a faster setting that is safe"

    def load(self) -> None:
        """Build the model and make it ready to run."""
        self._ready()

    def _ready(self) -> Runtime:
        if self._runtime is None:
            self._runtime = build_runtime(self.build(), self.plan, self.info.preprocessing, self.info.name)
        return self._runtime

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB image to (3, size, size), as the model's own transform does.

        To within 1e-6 where Pillow resizes, and otherwise to within one level of 255 before it is normalised.
        """
        return normalise(self.pixels(image), self.info.preprocessing)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """One RGB image to (3, size, size), not yet normalised."""
        how = self.info.preprocessing
        if how.decoder == "pillow":
            return square_pixels(image, how)
        from cfpairs.encoders.pixels import square_image

        return square_image(image, how)

    def file_pixels(self, content: bytes) -> NDArray[np.uint8] | None:
        """`pixels` of a file; None where the caller has to decode it."""
        how = self.info.preprocessing
        if how.decoder == "pillow":
            return None
        from cfpairs.encoders.pixels import square_file

        return square_file(content, how)

    def encode(self, batch: Any) -> NDArray[np.float32]:
        """(b, 3, size, size), uint8 or normalised float32, to (b, d)."""
        return self._checked(self._ready()(batch))

    def stream(self, batches: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        """Features of each batch in order; see `base.StreamEncoder`."""
        return map(self._checked, self._ready().stream(batches))

    def decode_files(self, contents: Sequence[bytes]) -> list[Any | None]:
        """See `base.FileEncoder`; without a GPU every file is left to the caller."""
        decode = getattr(self._ready(), "decode_files", None)
        return [None] * len(contents) if decode is None else list(decode(contents))

    def gather(self, images: Sequence[Any]) -> Any:
        """See `base.FileEncoder`."""
        gather = getattr(self._ready(), "gather", None)
        return np.stack(images) if gather is None else gather(images)

    def close(self) -> None:
        """Drop the model."""
        self._runtime = None

    def _checked(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        if features.ndim != 2 or features.shape[1] != self.info.dim:
            raise CfpairsError(
                f"{self.info.name} gives features of another shape",
                got=features.shape,
                expected=f"(images, {self.info.dim})",
            )
        return features


def _decoded_by(decoder: str, how: Preprocessing) -> Preprocessing:
    """The preprocessing with a decoder that can do it.

    Raises
    ------
    ConfigError
        If the decoder that is named cannot.
    """
    able = how.interpolation in _BY_TORCH
    if decoder == "auto":
        return replace(how, decoder="fast" if able else "pillow")
    if decoder != "pillow" and not able:
        raise ConfigError(
            f"{decoder} cannot resize as this model asks",
            got=f"interpolation {how.interpolation}",
            expected=" or ".join(_BY_TORCH),
            remedy="set decoder: pillow",
        )
    return replace(how, decoder=decoder)
