"""An 8 x 8 scan of a handwritten digit as a smooth painted stroke and its mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["paint", "stroke_mask"]

CELL = 16
"""Pixels that one pixel of the scan is enlarged to before it is placed."""

EXTENT = (0.58, 0.64)
"""Smallest and largest share of the image's side that the scan takes."""

SHIFT = 0.02
TURN = 3.0
SHARPEN = 1.2
SMOOTH = 0.25
THRESHOLD = 0.62
EDGE = 0.9
"""Width of the soft edge in pixels is about ``2 / EDGE``, at every size."""

LIGHT, DARK = 236.0, 26.0


def stroke_mask(scan: NDArray[np.floating], size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Place a scanned digit in an image.

    Parameters
    ----------
    scan : ndarray of shape (8, 8)
        Ink in 0..16.
    size : int
        Side of the image in pixels.
    rng : numpy.random.Generator
        Decides scale, turn and place.

    Returns
    -------
    ndarray of uint8, shape (size, size)
        255 inside the stroke, 0 outside, between at its edge.

    Notes
    -----
    The scan is sharpened a little before it is enlarged: counting ink in cells has blurred it, and the holes
    of 6, 8 and 9 would close.
    """
    import cv2

    ink = np.pad(scan / 16.0, 1).astype(np.float32)
    ink = ink + SHARPEN * (ink - cv2.GaussianBlur(ink, (0, 0), 1.0))
    large = cv2.resize(ink, None, fx=CELL, fy=CELL, interpolation=cv2.INTER_CUBIC)
    large = cv2.GaussianBlur(large, (0, 0), SMOOTH * CELL)

    cell = rng.uniform(*EXTENT) * size / scan.shape[0]
    angle = np.deg2rad(rng.uniform(-TURN, TURN))
    cosine, sine = np.cos(angle) * cell / CELL, np.sin(angle) * cell / CELL
    middle = (large.shape[0] - 1) / 2
    x, y = (size - 1) / 2 + rng.uniform(-SHIFT, SHIFT, 2) * size
    place = np.array(
        [
            [cosine, -sine, x - (cosine - sine) * middle],
            [sine, cosine, y - (sine + cosine) * middle],
        ]
    )
    level = cv2.warpAffine(large, place, (size, size), flags=cv2.INTER_LINEAR)
    # The level falls by about one in a cell; scaled by the cell's pixels, the edge is as soft at any size.
    alpha = np.clip((level - THRESHOLD) * cell * EDGE / 2 + 0.5, 0.0, 1.0)
    return np.asarray(np.rint(alpha * 255), np.uint8)


def paint(
    background: NDArray[np.float32], mask: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Paint the stroke, light or dark, over a background.

    Parameters
    ----------
    background : ndarray of shape (size, size, 3)
        Values in 0..255.
    mask : ndarray of uint8, shape (size, size)
    rng : numpy.random.Generator
        Decides the stroke's colour, whatever the label and the background.

    Returns
    -------
    ndarray of uint8, shape (size, size, 3)
    """
    tone = LIGHT if rng.integers(2) else DARK
    colour = (tone + rng.normal(0, 6) + rng.normal(0, 4, 3)).astype(np.float32)
    alpha = mask[:, :, None].astype(np.float32) / 255
    return np.asarray(np.clip(np.rint(background * (1 - alpha) + colour * alpha), 0, 255), np.uint8)
