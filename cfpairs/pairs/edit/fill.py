"""A background without its foreground: the hole is filled with texture from elsewhere in the same image."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["fill_hole"]

BLEND = 1.5
"""Standard deviation of the seam in pixels."""

PASSES = 4
COARSE = 40
"""Places to copy from are compared on a copy of the image that is this many pixels long."""

SHIFTS = (0.0, 0.2, -0.2, 0.4, -0.4)
"""Displacements tried, in shares of the image's side."""

CHOICES = 12
"""So many of the places that cover most of the hole are judged by their fit."""

Place = tuple[NDArray[np.intp], NDArray[np.intp]]


def fill_hole(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image with `hole` filled.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    hole : ndarray of bool, shape (height, width)

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Far from the hole the pixels are those of `image`.

    Notes
    -----
    Diffusion alone (`cv2.inpaint`) leaves a smooth shape in a rough texture: the foreground stays legible.
    So the hole is first covered by a mirrored or displaced copy of the image itself, the one that covers
    most of it and fits its rim best; again for what is left; and only the rest is diffused.
    """
    result, left = image, hole
    for _ in range(PASSES):
        if not left.any():
            return result
        result, left = _copy(result, left, _best_place(result, left))
    if left.any():
        result = np.asarray(cv2.inpaint(result, left.astype(np.uint8), 3, cv2.INPAINT_TELEA), np.uint8)
    return result


def _walks(length: int) -> list[NDArray[np.intp]]:
    """Where to copy from along one side: every displacement, reflected at the border, plain and mirrored."""
    found = []
    for shift, flip in product(SHIFTS, (False, True)):
        steps = np.arange(length)[::-1] if flip else np.arange(length)
        folded = (steps + round(shift * length)) % (2 * length)
        found.append(np.where(folded < length, folded, 2 * length - 1 - folded))
    return found


def _best_place(image: NDArray[np.uint8], hole: NDArray[np.bool_]) -> Place:
    height, width = hole.shape
    scale = min(1.0, COARSE / max(height, width))
    small = (max(2, round(width * scale)), max(2, round(height * scale)))
    coarse = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.int16)
    empty = cv2.resize(hole.astype(np.uint8) * 255, small, interpolation=cv2.INTER_AREA) > 0
    rim = cv2.dilate(empty.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool) & ~empty

    down, right = _walks(small[1]), _walks(small[0])
    full = ~empty
    there = {(i, j): full[down[i]][:, right[j]] for i, j in product(range(len(down)), range(len(right)))}
    del there[0, 0]  # the image itself
    covers = {place: int(np.count_nonzero(empty & seen)) for place, seen in there.items()}
    most = max(covers.values())
    best, least = (0, 1), np.inf
    for i, j in sorted(covers, key=lambda place: (-covers[place], place))[:CHOICES]:
        usable = rim & there[i, j]
        if usable.any():
            gap = float(np.abs(coarse[down[i]][:, right[j]][usable] - coarse[usable]).mean())
            # What a place leaves open must be filled by another, with one more seam.
            gap *= most / max(1, covers[i, j])
            if gap < least:
                best, least = (i, j), gap
    return _walks(height)[best[0]], _walks(width)[best[1]]


def _copy(
    image: NDArray[np.uint8], hole: NDArray[np.bool_], place: Place
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    down, across = (np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0))
    reach = 2 * round(2 * BLEND) + 1
    window = (
        slice(max(0, down[0] - reach), down[-1] + 1 + reach),
        slice(max(0, across[0] - reach), across[-1] + 1 + reach),
    )
    rows, columns = place[0][window[0]], place[1][window[1]]
    # Beside the copied part the seam mixes a little of the copy in; there the copy must be clean as well.
    clean = cv2.dilate(hole.astype(np.uint8), np.ones((reach, reach), np.uint8))[rows][:, columns] == 0
    near = image[window]
    covered = hole[window] & clean
    weight = cv2.GaussianBlur(covered.astype(np.float32), (0, 0), BLEND)
    weight = np.where(covered, np.float32(1), np.where(clean, np.minimum(weight * 2, 1), 0))[:, :, None]
    result, left = image.copy(), hole.copy()
    result[window] = np.rint(near + (image[rows][:, columns].astype(np.float32) - near) * weight)
    left[window] &= ~covered
    return result, left
