"""How an image of any shape lies in the square that a model works on."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame"]


class Frame:
    """How an image lies in the square that a pipeline works on: scaled to fit, in the middle.

    Parameters
    ----------
    height, width : int
        Of the image, in pixels.
    side : int
        Of the square.
    """

    def __init__(self, height: int, width: int, side: int) -> None:
        scale = side / max(height, width)
        self.source = (height, width)
        self.inner = (max(1, round(height * scale)), max(1, round(width * scale)))
        self.side = side
        self.top, self.left = (side - self.inner[0]) // 2, (side - self.inner[1]) // 2

    def image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image (height, width, 3) in the square, mirrored at its edges to fill it."""
        return self._placed(pixels, cv2.BORDER_REFLECT_101, 0)

    def share(self, alpha: NDArray[np.float32]) -> NDArray[np.float32]:
        """A mask (height, width) in the square, 0 around the image."""
        return self._placed(alpha, cv2.BORDER_CONSTANT, 0)

    def back(self, square: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The part of the square that is the image, at the image's own size."""
        if square.shape[:2] != (self.side, self.side):
            square = _resized(square, (self.side, self.side))
        rows, columns = self.inner
        return _resized(square[self.top : self.top + rows, self.left : self.left + columns], self.source)

    def _placed(self, values: NDArray[Any], border: int, fill: float) -> NDArray[Any]:
        rows, columns = self.inner
        below, right = self.side - rows - self.top, self.side - columns - self.left
        inner = _resized(values, self.inner)
        return np.asarray(cv2.copyMakeBorder(inner, self.top, below, self.left, right, border, value=fill))


def _resized(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    if values.shape[:2] == size:
        return np.ascontiguousarray(values)
    smaller = size[0] < values.shape[0]
    way = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC if values.dtype == np.uint8 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(values, size[::-1], interpolation=way))
