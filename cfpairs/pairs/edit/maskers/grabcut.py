"""Masks by GrabCut (Rother, Kolmogorov and Blake 2004), as OpenCV has it; needs no model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.pairs.edit.base import EditRejectedError, Mask
from cfpairs.tables import fingerprint
from cfpairs.workspace import Workspace

__all__ = ["GrabCutMasker", "GrabCutOptions", "guided_filter"]

SMALLEST_SIDE = 16
"""An image that is shorter than this holds no foreground that GrabCut could tell."""


class GrabCutOptions(Strict):
    """Settings of `GrabCutMasker`."""

    inset: Annotated[float, Field(gt=0.0, lt=0.45)] = Field(
        default=0.06, description="share of the image on each side that is background for certain"
    )
    centre: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.1,
        description="diameter of a disc in the middle that is certainly foreground, as a share of the sides, "
        "0 where the foreground may lie anywhere",
    )
    iterations: Annotated[int, Field(ge=1, le=50)] = 4
    side: Annotated[int, Field(ge=32, le=2048)] = Field(
        default=160, description="longest side in pixels at which the image is cut; the mask is then enlarged"
    )
    smallest: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.01, description="a foreground below this share of the image is held to be a mistake"
    )
    smallest_part: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.1, description="parts smaller than this share of the largest are dropped"
    )


class GrabCutMasker:
    """What is unlike the image's border, cut out where colours change.

    Parameters
    ----------
    options : GrabCutOptions
    workspace : Workspace
    root : Path or None

    Notes
    -----
    The cut is made on a small copy; a guided filter (He, Sun and Tang 2010) then lays its edge along that of
    the image itself, softly. The same image gives the same mask in whatever thread: OpenCV's random numbers,
    from which the colour models start, belong to the thread, and are seeded before each cut.
    """

    Options: ClassVar[type[BaseModel]] = GrabCutOptions
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel, *, workspace: Workspace, root: Path | None) -> None:
        options = check_options(GrabCutOptions, options)
        self.options = options
        self._key = fingerprint("grabcut", self.version, options.model_dump(mode="json"))

    def has(self, item: Mapping[str, Any]) -> bool:
        """True: any image can be cut."""
        return True

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The foreground that the cut finds, with a soft edge."""
        height, width = image.shape[:2]
        if min(height, width) < SMALLEST_SIDE:
            raise EditRejectedError("grabcut: the image is too small")
        scale = min(1.0, self.options.side / max(height, width))
        size = (max(8, round(width * scale)), max(8, round(height * scale)))
        small = image if scale == 1 else cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        cut = self._main_parts(self._cut(np.ascontiguousarray(small, np.uint8)))
        if not cut.any() or cut.mean() < self.options.smallest:
            raise EditRejectedError("grabcut: no foreground found")
        return Mask(_soften(cut, image), self._key, "grabcut")

    def _cut(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = image.shape[:2]
        left, top = (max(1, round(self.options.inset * side)) for side in (width, height))
        marks = np.full((height, width), cv2.GC_BGD, np.uint8)
        marks[top : height - top, left : width - left] = cv2.GC_PR_FGD
        if self.options.centre:
            axes = [max(1, round(self.options.centre * side / 2)) for side in (width, height)]
            cv2.ellipse(marks, (width // 2, height // 2), axes, 0, 0, 360, cv2.GC_FGD, thickness=-1)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(1)
        try:
            cv2.grabCut(image, marks, (0, 0, 0, 0), *models, self.options.iterations, cv2.GC_INIT_WITH_MASK)
        except cv2.error as error:
            raise EditRejectedError("grabcut: foreground and border cannot be told apart") from error
        return np.asarray((marks & 1), np.uint8)

    def _main_parts(self, cut: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The largest connected part and those not much smaller, small holes closed."""
        disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        cut = np.asarray(cv2.morphologyEx(cut, cv2.MORPH_OPEN, disc), np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(cut, connectivity=4)
        areas = stats[1:count, cv2.CC_STAT_AREA]
        if not len(areas):
            return cut
        least = self.options.smallest_part * areas.max()
        keep = np.concatenate([[False], areas >= least])
        kept = keep[labels]
        count, labels, stats, _ = cv2.connectedComponentsWithStats((~kept).astype(np.uint8), connectivity=4)
        holes = stats[:, cv2.CC_STAT_AREA] < 0.01 * kept.sum()
        holes[0] = False  # the kept parts themselves
        return np.asarray(kept | holes[labels], np.uint8)


def guided_filter(
    guide: NDArray[np.float32], values: NDArray[np.float32], radius: int, smoothness: float
) -> NDArray[np.float32]:
    """Values smoothed so that they change where the guide does (He, Sun and Tang 2010, equations 4-8).

    Parameters
    ----------
    guide, values : ndarray of float32, shape (height, width)
        Both in 0..1.
    radius : int
        Half the side of the windows in pixels.
    smoothness : float
        Variance of the guide below which it counts as flat.
    """

    def mean(array: NDArray[np.float32]) -> NDArray[np.float32]:
        box = (2 * radius + 1, 2 * radius + 1)
        return np.asarray(cv2.blur(array, box, borderType=cv2.BORDER_REFLECT), np.float32)

    guide_mean, value_mean = mean(guide), mean(values)
    covariance = mean(guide * values) - guide_mean * value_mean
    variance = mean(guide * guide) - guide_mean * guide_mean
    slope = np.asarray(covariance / (variance + np.float32(smoothness)), np.float32)
    return np.asarray(mean(slope) * guide + mean(value_mean - slope * guide_mean), np.float32)


def _soften(cut: NDArray[np.uint8], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The small cut at the image's size, its edge along that of the image, a few pixels soft."""
    height, width = image.shape[:2]
    rough = np.asarray(
        cv2.resize(cut.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR), np.float32
    )
    step = max(1.0, height / cut.shape[0])
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    soft = guided_filter(np.asarray(grey, np.float32), rough, radius=round(2 * step), smoothness=1e-4)
    # The filter spreads thinly over its windows; what is nearly all or nothing is made so.
    soft = np.clip((soft - 0.5) * 1.6 + 0.5, 0, 1)
    # It may move the edge, yet not beyond the cut's own uncertainty.
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(2 * step) + 1,) * 2)
    whole = (rough >= 0.5).astype(np.uint8)
    soft[cv2.dilate(whole, reach) == 0] = 0
    soft[cv2.erode(whole, reach, borderType=cv2.BORDER_REPLICATE) == 1] = 1
    return np.asarray(soft, np.float32)
