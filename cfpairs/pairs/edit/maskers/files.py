"""Masks that are there already: files beside the images, and the images' own alpha channel."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.errors import DataError
from cfpairs.pairs.edit.base import EditRejectedError, Mask
from cfpairs.pairs.edit.folders import images_below, named_folder
from cfpairs.pairs.edit.masks import decode_mask
from cfpairs.pairs.edit.pixels import alpha_channel, open_image, read_file
from cfpairs.tables import fingerprint
from cfpairs.workspace import Workspace

__all__ = ["AlphaMasker", "AlphaOptions", "ColumnMasker", "ColumnOptions"]

ALPHA_SUFFIXES = frozenset((".png", ".webp", ".gif", ".tif", ".tiff", ".avif", ".jp2", ".ico", ".tga"))
"""Files that can have an alpha channel."""


class ColumnOptions(Strict):
    """Settings of `ColumnMasker`."""

    folder: Path | None = Field(
        default=None,
        description="folder of masks below the data root, read before the manifest's own; a mask has the "
        "path that its image has below the data root, or an end of that path, with any suffix",
    )


class ColumnMasker:
    """A mask file: one in a folder of masks that has the image's path, or the one that the manifest lists.

    Parameters
    ----------
    options : ColumnOptions
    workspace : Workspace
    root : Path or None

    Raises
    ------
    ConfigError, DataError
        If the folder leaves the data root, is missing or has no image.
    """

    Options: ClassVar[type[BaseModel]] = ColumnOptions
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel, *, workspace: Workspace, root: Path | None) -> None:
        options = check_options(ColumnOptions, options)
        self.workspace = workspace
        self.root = root
        self._by_path: dict[tuple[str, ...], Path] = {}
        if options.folder is not None:
            folder = named_folder(root, options.folder, "the column masker's folder")
            files = images_below(folder)
            if not files:
                raise DataError("the folder of masks has no image", got=folder)
            for file in files:
                self._by_path.setdefault(file.relative_to(folder).with_suffix("").parts, file)

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether the manifest lists a mask or the folder has one."""
        return self._path(item) is not None

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The mask in the file."""
        path = self._path(item)
        if path is None:
            raise EditRejectedError("the item has no mask")
        stored = read_file(self.workspace.file(path), "mask")
        return Mask(decode_mask(stored), hashlib.sha256(stored).hexdigest(), "column", path)

    def _path(self, item: Mapping[str, Any]) -> str | None:
        parts = self._image_parts(str(item["path"])) if self._by_path else ()
        # The longest end of the path first: the mask of a/b/c.jpg is a/b/c.png, else b/c.png, else c.png.
        for start in range(len(parts)):
            found = self._by_path.get(parts[start:])
            if found is not None:
                return self.workspace.relative(found)
        listed = item["mask_path"]
        return None if listed is None else str(listed)

    def _image_parts(self, path: str) -> tuple[str, ...]:
        file = self.workspace.file(path).resolve()
        if self.root is not None and file.is_relative_to(self.root.resolve()):
            file = file.relative_to(self.root.resolve())
        return PurePath(file).with_suffix("").parts


class AlphaOptions(Strict):
    """`AlphaMasker` has no settings."""


class AlphaMasker:
    """The alpha channel of an image, or the transparent colour of its palette.

    Parameters
    ----------
    options : AlphaOptions
    workspace : Workspace
    root : Path or None
    """

    Options: ClassVar[type[BaseModel]] = AlphaOptions
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel, *, workspace: Workspace, root: Path | None) -> None:
        check_options(AlphaOptions, options)
        self._key = fingerprint("alpha", self.version)

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether the file is of a kind that can have an alpha channel."""
        return PurePath(str(item["path"])).suffix.lower() in ALPHA_SUFFIXES

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The alpha channel."""
        opened = open_image(content, "image")
        if not opened.has_transparency_data:
            raise EditRejectedError("the image has no alpha channel")
        alpha = alpha_channel(opened)
        if alpha.min() == 1:
            raise EditRejectedError("the image's alpha channel is opaque everywhere")
        return Mask(alpha, self._key, "alpha")
