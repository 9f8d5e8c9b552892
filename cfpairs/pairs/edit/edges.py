"""The edge of a foreground: how soft it is, and what colours it has without the background behind it."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from cfpairs.pairs.edit.base import EditRejectedError

__all__ = [
    "Edge",
    "compose",
    "extend_colour",
    "fit_edge",
    "foreground_core",
    "has_own_edge",
    "measured_edge",
    "soft_edge",
]

CORE = 0.99
"""A pixel with at least this much foreground is kept as it is."""

REACH = 4.0
"""Distance from a mask's outline, in units, up to which the true edge is looked for."""

BINS = 8
"""Classes of distance in a unit."""

SHIFTS = np.arange(-2.5, 2.51, 0.25)
WIDTHS = np.array([0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4, 1.6, 2.0])
USUAL_WIDTH = 0.9
"""A camera's edge is about this wide; taken where foreground and background have the same colour."""

STAIRS = 0.2
"""Variance that the stairs of a mask's pixels add to the measured width, to be taken off."""

UNMIX = (0.05, 0.95)
"""Between these shares of foreground a pixel's colour goes over from the nearest foreground's to its own.

Its own, the old background taken off, keeps the texture of the foreground but some of the background's too;
the nearest has neither. Measured on photographs, these make the edge as rough as that of an unedited image.
"""


class Edge(NamedTuple):
    """Where the edge is: pixels outside (negative) or inside the mask's outline, and its width."""

    shift: float
    width: float


def has_own_edge(alpha: NDArray[np.float32]) -> bool:
    """Whether a mask has the soft edge of a drawing, and no hard one or the votes of a few annotators."""
    outline = cv2.morphologyEx((alpha >= 0.5).astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
    soft = np.count_nonzero((alpha > 0.02) & (alpha < 0.98))
    # A drawn edge has about as many soft pixels as its outline is long; a thresholded one has none.
    if soft < 0.25 * np.count_nonzero(outline):
        return False
    levels = np.count_nonzero(np.bincount(np.rint(alpha * 255).astype(np.uint8).ravel(), minlength=256))
    return not 4 <= levels <= 12


def soft_edge(alpha: NDArray[np.float32], feather: float) -> NDArray[np.float32]:
    """A mask whose edge is soft: a hard one is shrunk by a pixel and blurred, a soft one stays as it is.

    Parameters
    ----------
    alpha : ndarray of float32, shape (height, width)
    feather : float
        Standard deviation of the blur in pixels; 0 leaves every mask as it is.
    """
    if feather == 0 or has_own_edge(alpha):
        return alpha
    shrunk = cv2.erode(alpha, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_REPLICATE)
    return np.asarray(cv2.GaussianBlur(shrunk, (0, 0), feather, borderType=cv2.BORDER_REPLICATE), np.float32)


def measured_edge(image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    """A mask whose edge is where and as soft as the image's own; a mask with a soft edge stays as it is.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    alpha : ndarray of float32, shape (height, width)

    See Also
    --------
    fit_edge : how it is measured.
    """
    if has_own_edge(alpha):
        return alpha
    from scipy.special import ndtr

    unit = max(1.0, float(max(alpha.shape)) / 512)  # outlines drawn on larger images are less exact
    window = _window(alpha >= 0.5, round(4 * REACH * unit))
    inside = _inside(alpha[window], unit)
    edge = fit_edge(image[window], inside, unit)
    share = ndtr((inside - edge.shift) / edge.width)
    measured = np.zeros_like(alpha)
    measured[window] = np.clip((share - 0.02) / 0.96, 0, 1)
    return measured


def fit_edge(image: NDArray[np.uint8], inside: NDArray[np.float32], unit: float = 1.0) -> Edge:
    """Where an image's edge is, and how wide.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    inside : ndarray of float32, shape (height, width)
        Distance from the mask's outline in pixels, negative outside.
    unit : float
        Pixels in the unit of lengths, 1 for small images.

    Notes
    -----
    A pixel at distance x is modelled as ``a F + (1 - a) B``, ``a = Phi((x - shift) / width)``; the colours F
    of the foreground and B of the background are carried over from beyond the edge. All pixels of one
    distance together tell their share a by least squares, so that the texture averages out; shift and width
    are those that fit best over all distances. Where the colours are too alike to tell, shift 0 and a usual
    width win.
    """
    from scipy.special import ndtr

    core = inside > min(REACH * unit, 0.5 * float(inside.max()))
    beyond = inside < -REACH * unit
    if not core.any() or not beyond.any():
        return Edge(0.0, USUAL_WIDTH * unit)
    band = np.abs(inside) < REACH * unit
    pixels, fore, back = (
        array[band].astype(np.float32) for array in (image, _carried(image, core), _carried(image, beyond))
    )
    contrast = fore - back
    place = np.floor((inside[band] / unit + REACH) * BINS).astype(np.intp)
    count = int(2 * REACH * BINS)
    weight = np.bincount(place, (contrast**2).sum(axis=1), count)
    seen = np.bincount(place, ((pixels - back) * contrast).sum(axis=1), count)
    middle = (np.arange(count) + 0.5) / BINS - REACH

    share = ndtr((middle - SHIFTS[:, None, None]) / WIDTHS[:, None])
    misfit = (share**2 * weight - 2 * share * seen).sum(axis=2)
    strange = SHIFTS[:, None] ** 2 + (WIDTHS - USUAL_WIDTH) ** 2
    misfit += strange * (0.001 * weight.sum() + 4.0 * len(pixels))
    shift, width = np.unravel_index(int(np.argmin(misfit)), misfit.shape)
    true_width = np.sqrt(max(WIDTHS[width] ** 2 - STAIRS, WIDTHS[0] ** 2))
    return Edge(float(SHIFTS[shift]) * unit, float(true_width) * unit)


def compose(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], background: NDArray[np.uint8], defringe: bool = True
) -> NDArray[np.uint8]:
    """Lay the foreground of an image on another background.

    Parameters
    ----------
    image, background : ndarray of uint8, shape (height, width, 3)
    alpha : ndarray of float32, shape (height, width)
        Share of foreground of each pixel.
    defringe : bool
        Take the old background out of the pixels at the edge.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Equal to `image` where the pixel is all foreground, to `background` where it is none of it.

    Notes
    -----
    At a soft edge the camera has mixed the foreground with the background behind it. The old background,
    carried over from beyond the edge, is taken off again; where little foreground is in the mix, the nearest
    foreground colour is more certain than what is left.
    """
    core = foreground_core(alpha)
    window = _window(alpha > 0, 2 * round(REACH))
    core, image, result = core[window], image[window], background.copy()
    share = np.where(core, np.float32(1), alpha[window])[:, :, None]
    colour = _own_colour(image, share, core) if defringe else image
    result[window] = np.rint(colour * share + background[window] * (1 - share))
    return result


def _own_colour(
    image: NDArray[np.uint8], share: NDArray[np.float32], core: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """The foreground's colour in every pixel; `share` has shape (height, width, 1)."""
    near = extend_colour(image, core).astype(np.float32)
    empty = share[:, :, 0] <= 1 - CORE
    if empty.any():
        old = _carried(image, empty)
        unmixed = np.clip((image - (1 - share) * old) / np.maximum(share, np.float32(0.1)), 0, 255)
        near += (unmixed - near) * np.clip((share - UNMIX[0]) / (UNMIX[1] - UNMIX[0]), 0, 1).astype(
            np.float32
        )
    return np.where(core[:, :, None], image.astype(np.float32), near)


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

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    core : ndarray of bool, shape (height, width)
    """
    _, labels = cv2.distanceTransformWithLabels(
        (~core).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )
    # Four bytes a pixel are looked up at once.
    packed = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA).view(np.uint32)[:, :, 0]
    colours = np.zeros(int(labels.max()) + 1, np.uint32)
    colours[labels[core]] = packed[core]
    found = colours[labels][:, :, None].view(np.uint8)
    return np.ascontiguousarray(found[:, :, :3])


def _carried(image: NDArray[np.uint8], core: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Colours of `core` carried over to the rest, smoothly."""
    smooth = cv2.GaussianBlur(extend_colour(image, core).astype(np.float32), (0, 0), 1.0)
    return np.where(core[:, :, None], image.astype(np.float32), smooth)


def _window(where: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """The rows and columns that `where` takes, and a margin around them; all of them if it takes none."""
    if not where.any():
        return slice(None), slice(None)
    sides = (np.flatnonzero(where.any(axis=axis)) for axis in (1, 0))
    rows, columns = (slice(max(0, int(side[0]) - margin), int(side[-1]) + 1 + margin) for side in sides)
    return rows, columns


def _inside(alpha: NDArray[np.float32], unit: float) -> NDArray[np.float32]:
    """Distance from a mask's outline, negative outside, its stairs smoothed."""
    shape = (alpha >= 0.5).astype(np.uint8)
    within, without = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (shape, 1 - shape))
    distance = np.where(shape, within - 0.5, 0.5 - without).astype(np.float32)
    return np.asarray(cv2.GaussianBlur(distance, (0, 0), unit), np.float32)
