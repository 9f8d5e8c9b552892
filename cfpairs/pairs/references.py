"""What a person writes for an item, an item id or a path, and the item or image that it stands for."""

from __future__ import annotations

import difflib
import hashlib
import os
import stat
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from cfpairs.workspace import Workspace

__all__ = ["NewImage", "References", "UnusableRowError"]

NEAREST = 3
"""So many unknown ids get a suggestion: looking for the nearest of 50,000 ids takes half a second."""

ORIENTED = {"JPEG", "MPO", "TIFF", "WEBP"}
"""Formats whose orientation stands in the header; asking others for it would decode their pixels."""

TURNED = range(5, 9)
"""Values of the EXIF orientation under which width and height change places."""


class UnusableRowError(Exception):
    """Why one row cannot become a pair. It never reaches the user as an error.

    Parameters
    ----------
    kind : str
        The fault in words that are the same for every row that has it.
    detail : str
        What it is about in this row.
    """

    def __init__(self, kind: str, detail: str = "") -> None:
        self.kind, self.detail = kind, detail
        super().__init__(f"{kind}: {detail}" if detail else kind)


@dataclass(frozen=True)
class NewImage:
    """An image under the data root that is no item yet.

    Attributes
    ----------
    path : Path
    digest : str
        Hash of the file's bytes.
    width, height : int
        Pixels, with the orientation of the EXIF header.
    """

    path: Path
    digest: str
    width: int
    height: int


class References:
    """Finds items by what a person writes for them.

    Parameters
    ----------
    manifest : pyarrow.Table
    workspace : Workspace
    root : Path or None
        Relative paths start here, and no path may lead out; None if the data set has no folder.
    max_pixels : int
        A larger image is refused from its header, before any pixel is decoded.
    """

    def __init__(self, manifest: pa.Table, workspace: Workspace, root: Path | None, max_pixels: int) -> None:
        self._rows = manifest
        self._by_id = {item: i for i, item in enumerate(manifest["item_id"].to_pylist())}
        self._by_path = {
            os.path.abspath(workspace.file(path)): i for i, path in enumerate(manifest["path"].to_pylist())
        }
        self._root = None if root is None else Path(os.path.abspath(root))
        self._max_pixels = max_pixels
        self._found: dict[str, Mapping[str, Any] | NewImage | UnusableRowError] = {}
        self._suggested = 0

    def find(self, side: str, text: str) -> Mapping[str, Any] | NewImage:
        """The row of the manifest, or the new image, that `text` stands for.

        An item id comes before a path that reads the same.

        Parameters
        ----------
        side : str
            Name of the column, for the message.

        Raises
        ------
        UnusableRowError
            If there is no such thing, or it must not or cannot be used.
        """
        if not text:
            raise UnusableRowError("an item is left out", f"{side} is empty")
        if text not in self._found:
            try:
                self._found[text] = self._look(text)
            except UnusableRowError as error:
                self._found[text] = error
        found = self._found[text]
        if isinstance(found, UnusableRowError):
            named = f"{side} is {text!r}"
            raise UnusableRowError(found.kind, f"{named}, {found.detail}" if found.detail else named)
        return found

    def _look(self, text: str) -> Mapping[str, Any] | NewImage:
        row = self._by_id.get(text)
        if row is None and self._root is not None:
            path = self._inside(self._root, text)
            row = self._by_path.get(str(path))
            if row is None and _exists(path):
                return self._image(path)
        if row is None:
            raise UnusableRowError("no such item or file", self._nearest(text))
        found: dict[str, Any] = self._rows.slice(row, 1).to_pylist()[0]
        return found

    def _inside(self, root: Path, text: str) -> Path:
        """The path under `root` that `text` names.

        Raises
        ------
        UnusableRowError
            If it lies elsewhere, or a link on the way leads elsewhere.
        """
        try:
            path = Path(os.path.abspath(root / text))
            real, real_root = Path(os.path.realpath(path)), Path(os.path.realpath(root))
        except (OSError, ValueError) as error:  # ValueError: a NUL in the text
            raise UnusableRowError("no such item or file", "which cannot be a path") from error
        if str(path) in self._by_path:
            return path
        if not real.is_relative_to(real_root):
            linked = path.is_relative_to(root)
            raise UnusableRowError("outside the data root", "a link that leads out" if linked else "")
        return path if path.is_relative_to(root) else root / real.relative_to(real_root)

    def _image(self, path: Path) -> NewImage:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise UnusableRowError("no image", "a folder or special file")
            width, height = _size(path, self._max_pixels)
            with path.open("rb") as handle:
                digest = hashlib.file_digest(handle, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
        except OSError as error:
            raise UnusableRowError("cannot be read", error.strerror or str(error)) from error
        return NewImage(path, digest, width, height)

    def _nearest(self, text: str) -> str:
        if "/" in text or self._suggested >= NEAREST:
            return ""
        self._suggested += 1
        near = difflib.get_close_matches(text, self._by_id, n=1)
        return f"perhaps {near[0]!r}" if near else ""


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name longer than the file system allows
        return False


def _size(path: Path, max_pixels: int) -> tuple[int, int]:
    """Width and height from the header; no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            # The limit is ours, below, and what else a header makes Pillow say does not matter here.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                width, height = image.size
                turned = image.format in ORIENTED and image.getexif().get(0x0112) in TURNED
    except Image.DecompressionBombError:
        raise UnusableRowError("too large an image", f"more than {max_pixels} pixels") from None
    except Exception as error:  # Pillow raises almost anything on damaged bytes
        if isinstance(error, PermissionError):
            raise
        raise UnusableRowError("no image", "nothing that Pillow can read") from None
    if width * height > max_pixels:
        raise UnusableRowError("too large an image", f"{width} x {height}, more than {max_pixels} pixels")
    return (height, width) if turned else (width, height)
