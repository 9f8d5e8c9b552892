"""From a file's bytes to pixels and back; what cannot be used is rejected with one line that says why."""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from cfpairs.pairs.edit.base import EditRejectedError

__all__ = [
    "LONGEST_ASPECT",
    "MAX_PIXELS",
    "alpha_channel",
    "decode_image",
    "decode_levels",
    "encode_png",
    "open_image",
    "read_file",
]

MAX_PIXELS = 89_478_485
"""Most pixels of an image, checked before any is decoded: what encoders take as well, a quarter of a GiB."""

LONGEST_ASPECT = 250
"""A longer image, side by side, is refused, as encoders refuse it."""


class _QuietPillow:
    """Within it no warning of Pillow is shown, whichever thread decodes.

    Warning filters belong to the process: threads that each save and restore them would leave them changed.
    So the first to enter sets them and the last to leave puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._before = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before = warnings.catch_warnings()
                self._before.__enter__()
                warnings.filterwarnings("ignore", module=r"PIL\.")
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._before.__exit__(None, None, None)


_quiet_pillow = _QuietPillow()


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a regular file; raises `EditRejectedError` if it is missing or unreadable."""
    try:
        if path.exists() and not path.is_file():
            raise EditRejectedError(f"{what} cannot be read: no regular file")
        return path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise EditRejectedError(f"{what} cannot be read: {getattr(error, 'strerror', 0) or error}") from error


def decode_image(content: bytes, what: str) -> NDArray[np.uint8]:
    """Red-green-blue pixels as encoders see them.

    Parameters
    ----------
    content : bytes
        The whole file.
    what : str
        What the image is called in the reason of a rejection.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        The orientation in EXIF is applied, transparent pixels lie on white, 16-bit greys are scaled to 8
        bits, and of an animation the first frame is taken.

    Raises
    ------
    EditRejectedError
        If the image is truncated, no image, or has more than `MAX_PIXELS` pixels.
    """
    image = open_image(content, what)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.asarray(image)
        if image.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise EditRejectedError(f"{what} has pixels of mode {image.mode}, not 8 or 16 bits a channel")
        grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(opaque, image.convert("RGBA"))
    return np.asarray(image.convert("RGB"), np.uint8)


def decode_levels(content: bytes, what: str) -> NDArray[np.float32]:
    """Brightness of every pixel, shape (height, width), white as 1.

    Of an image with transparent pixels it is the alpha channel. An image of 0 and 1 alone, and one of more
    than 8 bits, is taken to be white at its brightest.

    Raises
    ------
    EditRejectedError
        As `decode_image` does.
    """
    image = open_image(content, what)
    if image.has_transparency_data:
        alpha = alpha_channel(image)
        if alpha.min() < 1:
            return alpha
    deep = image.mode.startswith(("I", "F"))
    levels = np.asarray(image if deep else image.convert("L"), np.float32)
    top = float(levels.max(initial=0.0))
    white = np.float32(1.0 if top <= 1 else top if deep else 255.0)
    return np.asarray(np.clip(levels / white, 0, 1), np.float32)


def alpha_channel(image: Image.Image) -> NDArray[np.float32]:
    """How opaque every pixel is, shape (height, width), in 0..1; all 1 if the image has no such channel."""
    return np.asarray(image.convert("RGBA").getchannel("A"), np.float32) / np.float32(255)


def open_image(content: bytes, what: str) -> Image.Image:
    """A decoded image, turned as its EXIF says; raises `EditRejectedError` if it cannot be used."""
    if not content:
        raise EditRejectedError(f"{what} cannot be decoded: empty file")
    try:
        with _quiet_pillow, Image.open(io.BytesIO(content)) as opened:
            _check_size(*opened.size, what)
            opened.load()
            return _upright(opened)
    except (EditRejectedError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise EditRejectedError(f"{what} cannot be decoded: no image") from error
    except Image.DecompressionBombError as error:
        raise EditRejectedError(_too_large(what)) from error
    except Exception as error:  # Pillow raises almost anything on damaged bytes
        raise EditRejectedError(f"{what} cannot be decoded: {' '.join(str(error).split())[:200]}") from error


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Red-green-blue pixels as PNG, packed lightly: speed before size."""
    _, data = cv2.imencode(".png", pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return bytes(data)


def _check_size(width: int, height: int, what: str) -> None:
    if width * height > MAX_PIXELS:
        raise EditRejectedError(_too_large(what))
    if max(width, height) > LONGEST_ASPECT * min(width, height):
        raise EditRejectedError(f"{what} is {width} x {height} pixels, more than {LONGEST_ASPECT} to 1")


def _too_large(what: str) -> str:
    return f"{what} has more than {MAX_PIXELS} pixels, too many to be safe"


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF is no reason to lose good pixels
        return image.copy()
