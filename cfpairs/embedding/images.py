"""From a file's bytes to an RGB image, or to one line that says why not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cfpairs.errors import DataError

__all__ = [
    "UnusableImageError",
    "content_hash",
    "decode_rgb",
    "hash_now",
    "quiet_pillow",
    "read_file",
    "read_with_status",
]

LONGEST_ASPECT = 250
"""A longer image, side by side, is refused: resized by its shorter side it would fill the memory."""


class UnusableImageError(DataError):
    """Why one image cannot be used; the line is the same in every run (no address, no temporary name)."""


def read_file(file: Path) -> bytes:
    """The bytes of a regular file; see `read_with_status`."""
    return read_with_status(file)[0]


def read_with_status(file: Path) -> tuple[bytes, os.stat_result]:
    """The bytes of a regular file, and what the system said of it before they were read.

    Raises
    ------
    UnusableImageError
        If it is missing, a folder, no regular file (a pipe would be waited on), or cannot be read.
    """
    try:
        status = file.stat()
        if stat.S_ISDIR(status.st_mode):
            raise UnusableImageError("is a folder")
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImageError("is not a regular file")
        return file.read_bytes(), status
    except FileNotFoundError:
        raise UnusableImageError("there is no such file") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or str(error)
        raise UnusableImageError(f"cannot be opened: {reason}") from None


def content_hash(content: bytes) -> str:
    """Thirty-two hexadecimal digits of BLAKE2b over a file's bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def hash_now(file: Path) -> str:
    """`content_hash` of a file as it is now; empty if it cannot be read."""
    try:
        return content_hash(read_file(file))
    except UnusableImageError:
        return ""


def decode_rgb(content: bytes) -> Image.Image:
    """Decode an image file.

    Parameters
    ----------
    content : bytes
        The whole file.

    Returns
    -------
    PIL.Image.Image
        RGB. The orientation in EXIF is applied, transparent pixels lie on white, 16-bit greys are scaled
        to 8 bits, and of an animation the first frame is taken.

    Raises
    ------
    UnusableImageError
        If it is empty, damaged, no image, or too large or too narrow to be decoded safely.
    """
    if not content:
        raise UnusableImageError("is empty (0 bytes)")
    try:
        with Image.open(io.BytesIO(content)) as opened:
            _check_shape(*opened.size)
            opened.load()
            image = _upright(opened)
        return _to_rgb(image)
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("is not an image that Pillow can read") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImageError(
            f"has more than {Image.MAX_IMAGE_PIXELS} pixels, too many to be safe"
        ) from None
    except Exception as error:  # Pillow raises almost anything on damaged bytes
        raise UnusableImageError(f"is damaged: {one_line(error)}") from None


def _check_shape(width: int, height: int) -> None:
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise UnusableImageError(f"is {width} x {height} pixels, more than {LONGEST_ASPECT} to 1")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to lose good pixels
        return image.copy()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """16-bit greys to 8 bits; Pillow's own conversion clips everything above 255 to white."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise UnusableImageError(f"has pixels of mode {image.mode}; save it with 8 or 16 bits a channel")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def one_line(error: Exception) -> str:
    """What an error says, on one line, without addresses."""
    text = re.sub(r"0x[0-9a-fA-F]+", "0x", " ".join(str(error).split()))
    return text[:200] or type(error).__name__


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow's warning of a decompression bomb becomes an error; its other warnings are not shown.

    To be set once around a whole run: warning filters belong to the process, not to a thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
