"""Images and foreground masks: reading, checking, soft edges, and colours that reach past the edge."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.pairs.edit.base import EditRejectedError

__all__ = [
    "decode_image",
    "decode_mask",
    "encode_png",
    "extend_colour",
    "foreground_core",
    "read_file",
    "soft_edge",
]

CORE = 0.99
"""A pixel with at least this much foreground is kept as it is."""


def read_file(path: Path, what: str) -> bytes:
    """The bytes of a file; raises `EditRejectedError` if it is missing or unreadable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise EditRejectedError(f"{what} cannot be read: {error.strerror or error}") from error


def decode_image(content: bytes, what: str) -> NDArray[np.uint8]:
    """Red-green-blue pixels, shape (height, width, 3).

    Raises
    ------
    EditRejectedError
        If the image is truncated or no image.
    """
    return np.asarray(_open(content, what).convert("RGB"), np.uint8)


def decode_mask(
    content: bytes, size: tuple[int, int], limits: tuple[float, float], what: str = "mask"
) -> NDArray[np.float32]:
    """Share of foreground of every pixel.

    Parameters
    ----------
    content : bytes
        An image whose brightness tells foreground (white) from background (black); of 0 and 1 too.
    size : tuple of int
        Height and width that it must have.
    limits : tuple of float
        Smallest and largest share of the image that the foreground may take.
    what : str
        What the mask is called in the reason of a rejection.

    Returns
    -------
    ndarray of float32, shape (height, width)
        Values in 0..1.

    Raises
    ------
    EditRejectedError
        If it is unreadable, has another size, or marks too little or too much.
    """
    image = _open(content, what)
    deep = image.mode.startswith(("I", "F"))
    levels = np.asarray(image if deep else image.convert("L"), np.float32)
    if levels.shape != size:
        raise EditRejectedError(
            f"{what} of the wrong size: {levels.shape[1]} x {levels.shape[0]}, image {size[1]} x {size[0]}"
        )
    top = float(levels.max())
    alpha = levels / (1.0 if top <= 1 else top if deep else 255.0)
    share = float((alpha >= 0.5).mean())
    if share < limits[0]:
        raise EditRejectedError(f"{what} is empty" if share == 0 else f"{what} marks too little of the image")
    if share > limits[1]:
        raise EditRejectedError(f"{what} is full" if share == 1 else f"{what} marks too much of the image")
    return alpha


def soft_edge(alpha: NDArray[np.float32], feather: float) -> NDArray[np.float32]:
    """A mask whose edge is soft: a hard one is shrunk by a pixel and blurred, a soft one stays as it is.

    Parameters
    ----------
    alpha : ndarray of float32, shape (height, width)
    feather : float
        Standard deviation of the blur in pixels; 0 leaves every mask as it is.
    """
    # A drawn edge has about as many soft pixels as its outline is long; a thresholded one has none.
    outline = cv2.morphologyEx((alpha >= 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    soft = np.count_nonzero((alpha > 0.02) & (alpha < 0.98))
    if feather == 0 or soft >= 0.25 * np.count_nonzero(outline):
        return alpha
    shrunk = cv2.erode(alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(shrunk, (0, 0), feather, borderType=cv2.BORDER_REPLICATE), np.float32)


def foreground_core(alpha: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Pixels that are all foreground.

    Raises
    ------
    EditRejectedError
        If there is none: the foreground is thinner than its edge.
    """
    core = alpha >= CORE
    if not core.any():
        raise EditRejectedError("the foreground is thinner than the soft edge of its mask")
    return np.asarray(core)


def extend_colour(image: NDArray[np.uint8], core: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Every pixel outside `core` in the colour of the nearest pixel inside.

    At a soft edge the camera has mixed the foreground with the background behind it. What is pasted there
    must be the foreground's own colour, or a ring of the old background shows.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    core : ndarray of bool, shape (height, width)
    """
    _, labels = cv2.distanceTransformWithLabels(
        (~core).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    colours = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colours[labels[core]] = image[core]
    return np.asarray(colours[labels])


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Red-green-blue pixels as PNG, packed lightly: speed before size."""
    _, data = cv2.imencode(".png", pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return bytes(data)


def _open(content: bytes, what: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise EditRejectedError(f"{what} cannot be decoded: {_reason(error)}") from error
    return image


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    # Pillow names the object in memory, which differs from run to run.
    return "no image" if text.startswith("cannot identify image file") else text
