"""Masks by a model of the rembg library."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.errors import DataError, MissingDependencyError
from cfpairs.pairs.edit.base import EditRejectedError, Mask
from cfpairs.tables import fingerprint
from cfpairs.workspace import Workspace

__all__ = ["RembgMasker", "RembgOptions"]


class RembgOptions(Strict):
    """Settings of `RembgMasker`."""

    model: str = Field(default="u2net", description="a model of rembg, such as u2net or isnet-general-use")
    download: bool = Field(default=False, description="let rembg fetch a model that is not there yet")


class RembgMasker:
    """The foreground that a rembg model finds.

    Parameters
    ----------
    options : RembgOptions
    workspace : Workspace
    root : Path or None

    Raises
    ------
    MissingDependencyError
        If rembg or something that it needs is not installed.
    DataError
        If the model's file is not there and may not be fetched, or the model cannot be loaded.
    """

    Options: ClassVar[type[BaseModel]] = RembgOptions
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel, *, workspace: Workspace, root: Path | None) -> None:
        options = check_options(RembgOptions, options)
        self.options = options
        self._key = fingerprint("rembg", self.version, options.model)
        try:
            # Without an onnxruntime rembg leaves the process at once.
            import rembg
        except (ImportError, SystemExit) as error:
            raise MissingDependencyError(
                "masker 'rembg' needs the library rembg",
                got=str(error),
                remedy="pip install 'cfpairs[masks]', or use another masker such as grabcut",
            ) from error
        if not options.download:
            self._check_model_file()
        try:
            self._session = rembg.new_session(options.model)
        except Exception as error:  # onnxruntime, pooch and requests raise errors of their own
            raise DataError(
                f"rembg cannot load the model {options.model!r}", got=error, remedy=self._remedy()
            ) from error
        self._remove = rembg.remove

    def has(self, item: Mapping[str, Any]) -> bool:
        """True: a model looks at any image."""
        return True

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The foreground as the model sees it."""
        try:
            levels = self._remove(image, session=self._session, only_mask=True)
        except Exception as error:
            raise EditRejectedError(f"rembg failed: {' '.join(str(error).split())[:200]}") from error
        alpha = np.asarray(levels, np.float32) / np.float32(255)
        if not np.isfinite(alpha).all():
            raise EditRejectedError("rembg gave a mask with values that are no numbers")
        return Mask(alpha, self._key, "rembg")

    def _check_model_file(self) -> None:
        home = _model_folder()
        if not any(home.glob(f"{self.options.model}*.onnx")):
            raise DataError(
                f"the rembg model {self.options.model!r} is not on this machine",
                got=f"no file {home / self.options.model}.onnx",
                remedy=self._remedy(),
            )

    def _remedy(self) -> str:
        name = self.options.model
        return (
            f"put {name}.onnx into {_model_folder()} (U2NET_HOME names another folder), "
            "let rembg fetch it with mask_options: {rembg: {download: true}}, or use masker grabcut"
        )


def _model_folder() -> Path:
    """Where rembg keeps its models."""
    home = os.environ.get("U2NET_HOME") or os.path.join(os.environ.get("XDG_DATA_HOME", "~"), ".u2net")
    return Path(home).expanduser()
