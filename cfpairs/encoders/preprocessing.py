"""From an RGB image to an encoder's input, on one thread, without torch.

The same steps as torchvision's and open_clip's transforms, to within 1e-6; their tensor arithmetic starts
threads of its own inside every reading thread, which costs more than the work.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.encoders.base import Preprocessing

__all__ = ["cover", "fit", "normalise", "preprocess_image", "square_pixels"]


def preprocess_image(image: Image.Image, how: Preprocessing) -> NDArray[np.float32]:
    """Resize, crop or pad to a square, and normalise; see `square_pixels`.

    Returns
    -------
    ndarray of shape (3, size, size)
    """
    return normalise(_square(image, how).transpose(2, 0, 1), how)


def square_pixels(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    """Resize, and crop or pad to a square.

    Parameters
    ----------
    image : PIL.Image.Image
        RGB, of any size.
    how : Preprocessing
        ``shortest`` resizes the shorter side to ``resize`` and crops the centre, ``longest`` resizes the
        longer side to ``size`` and pads with ``fill``, ``squash`` ignores the aspect ratio.

    Returns
    -------
    ndarray of shape (3, size, size)
    """
    return np.ascontiguousarray(_square(image, how).transpose(2, 0, 1))


def _square(image: Image.Image, how: Preprocessing) -> NDArray[np.uint8]:
    kind = Image.Resampling[how.interpolation.upper()]
    if how.resize_mode == "squash":
        square = _crop(image.resize((how.resize, how.resize), kind), how.size)
    elif how.resize_mode == "longest":
        square = _pad(image.resize(fit(image.size, how.size), kind), how.size, how.fill)
    else:
        square = _crop(image.resize(cover(image.size, how.resize), kind), how.size)
    return np.asarray(square)


def cover(size: tuple[int, int], short: int) -> tuple[int, int]:
    """(width, height) with the shorter side `short`; the longer one is rounded down, as torchvision does."""
    least = min(size)
    return int(short * size[0] / least), int(short * size[1] / least)


def fit(size: tuple[int, int], long: int) -> tuple[int, int]:
    """(width, height) with the longer side `long`; the shorter one is rounded, as open_clip does."""
    ratio = max(size) / long
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _crop(image: Image.Image, size: int) -> Image.Image:
    left, top = (round((side - size) / 2) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def _pad(image: Image.Image, size: int, fill: int) -> Image.Image:
    canvas = Image.new("RGB", (size, size), (fill, fill, fill))
    canvas.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return canvas


def normalise(pixels: NDArray[np.uint8], how: Preprocessing) -> NDArray[np.float32]:
    """Pixels 0..255, shape (..., 3, s, s), with the mean taken off and divided by the deviation."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (how.mean, how.std))
    planes = np.empty(pixels.shape, np.float32)
    np.multiply(pixels, 1 / (255 * std), out=planes)
    planes -= mean / std
    return planes
