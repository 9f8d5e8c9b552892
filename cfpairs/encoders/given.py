"""Encoder ``given``: the vectors that a data set brings; nothing is encoded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import EncoderInfo, Preprocessing
from cfpairs.errors import ConfigError

__all__ = ["GivenEncoder", "GivenInfo", "given_info"]

UNKNOWN = Preprocessing(0, 0, "", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), resize_mode="", colour="")
"""How the images were prepared is known to whoever encoded them."""


@dataclass(frozen=True)
class GivenInfo(EncoderInfo):
    """What identifies vectors that were made elsewhere.

    Attributes
    ----------
    digest : str
        Changes when the files of the vectors, or the table that says whose they are, do.
    files : tuple of str
        Where they were read from.
    """

    digest: str = ""
    files: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Folder name: ``given-`` and the digest."""
        return f"given-{self.digest}"

    def metadata(self) -> dict[str, str]:
        """What is stored beside the embeddings; `files` is JSON."""
        return super().metadata() | {
            "preprocessing": "{}",
            "normalisation": "as given",
            "files": json.dumps(list(self.files)),
        }


def given_info(digest: str, dim: int, dtype: str, files: tuple[str, ...]) -> GivenInfo:
    """Identity of vectors read from `files`: of dimension `dim`, stored as numbers of type `dtype`."""
    return GivenInfo(
        spec="given",
        name="given",
        dim=dim,
        weights_sha256="",
        runtime="none",
        precision=dtype,
        device="none",
        preprocessing=UNKNOWN,
        libraries={},
        digest=digest,
        files=files,
    )


class GivenEncoder:
    """Stands for vectors that are there already; it cannot encode an image.

    The vectors themselves are read from the data set, which alone knows where they are, so `info` is blank
    here.

    Parameters
    ----------
    argument : str
        Must be empty.
    config : EncoderConfig

    Raises
    ------
    ConfigError
        If there is an argument.
    """

    info: EncoderInfo

    def __init__(self, argument: str, config: EncoderConfig) -> None:
        if argument:
            raise ConfigError(
                "encoder 'given' takes no argument",
                got=repr(f"given:{argument}"),
                remedy="name the files of the embeddings in data.options.embeddings",
            )
        self.info = given_info("", 0, "", ())

    def load(self) -> NoReturn:
        """Say that there is no model."""
        raise _no_model()

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """Say that there is no model."""
        raise _no_model()

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Say that there is no model."""
        raise _no_model()

    def close(self) -> None:
        """Nothing was taken, so nothing is freed."""


def _no_model() -> ConfigError:
    return ConfigError(
        "the embeddings are given, so no image can be encoded",
        remedy="name the encoder that made them, such as encoder.spec: open_clip:MODEL/TAG",
    )
