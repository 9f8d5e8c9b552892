"""Small pictures that travel inside the page."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

__all__ = ["SIDE", "Thumbnail", "picture", "thumbnail"]

SIDE = 112
"""Longest side in pixels."""

MOST_BYTES = 11_500
"""Size of one thumbnail: 240 pairs of them stay under 8 MB as base64 text, beside the page's 600 kB."""

QUALITIES = (82, 70, 55, 40, 25, 10)
"""Of the JPEG; the first that keeps to the size is taken."""


class Thumbnail(NamedTuple):
    """A picture as a data URI with its size in pixels."""

    uri: str
    width: int
    height: int


def thumbnail(path: Path | None, side: int = SIDE) -> Thumbnail | None:
    """A small JPEG of an image file; None if the file is missing or cannot be decoded.

    The same file gives the same bytes.

    Parameters
    ----------
    side : int
        The longest side of the result in pixels; smaller images keep their size.
    """
    small = None if path is None else picture(path, side)
    if small is None:
        return None
    encoded = base64.b64encode(_jpeg(small)).decode("ascii")
    return Thumbnail(f"data:image/jpeg;base64,{encoded}", small.width, small.height)


def _jpeg(image: Image.Image) -> bytes:
    """The image at the best quality that keeps to `MOST_BYTES`; noise at the lowest if none does."""
    content = b""
    for quality in QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        content = buffer.getvalue()
        if len(content) <= MOST_BYTES:
            break
    return content


def picture(path: Path, side: int) -> Image.Image | None:
    """A small RGB copy of an image file; None if the file is missing or cannot be decoded.

    Transparent parts are laid on white; images of more than 8 bits are stretched to their own range.

    Parameters
    ----------
    side : int
        As for `thumbnail`.
    """
    try:
        # a slide scan may be larger than Pillow's warning limit, and only a small copy is kept
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (2 * side, 2 * side))
                small = _as_rgb(ImageOps.exif_transpose(image))
    except (OSError, ValueError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError):
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        low, high = (float(v) for v in image.convert("F").getextrema())  # type: ignore[arg-type]
        scale = 255.0 / (high - low) if high > low else 0.0
        return image.convert("F").point(lambda v: v * scale - low * scale).convert("L").convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
