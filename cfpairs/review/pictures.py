"""Images of items and the difference of two, drawn anew as PNG: no file is ever sent as it is."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageChops

__all__ = ["SIDE", "Pictures"]

SIDE = 512
"""Longest side in pixels."""

Opener = Callable[[Path, int], Image.Image | None]


class Pictures:
    """Small copies of images, the last few kept.

    Parameters
    ----------
    open_picture : callable
        Gives the image of a file as RGB, its longest side at most so many pixels; None if it cannot.
    """

    def __init__(self, open_picture: Opener) -> None:
        self._kept = lru_cache(maxsize=32)(lambda path, _stamp: open_picture(path, SIDE))

    def _open(self, path: Path) -> Image.Image | None:
        try:
            found = path.stat()
        except (OSError, ValueError):
            return None
        return self._kept(path, (found.st_mtime_ns, found.st_size))

    def size(self, path: Path) -> tuple[int, int] | None:
        """Width and height of the copy; None if the file is missing or is no image."""
        image = self._open(path)
        return None if image is None else image.size

    def png(self, path: Path) -> bytes | None:
        """The copy as a PNG file."""
        image = self._open(path)
        return None if image is None else _png(image)

    def difference(self, one: Path, other: Path) -> bytes | None:
        """What the two copies differ in, pixel by pixel, as a PNG file; equal pixels are black."""
        a, b = self._open(one), self._open(other)
        if a is None or b is None:
            return None
        if b.size != a.size:
            b = b.resize(a.size, Image.Resampling.BILINEAR)
        return _png(ImageChops.difference(a, b))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
