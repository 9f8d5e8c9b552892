"""The `composite` editor: the masked foreground on a real background of the other environment."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from cfpairs.config import Strict, check_options
from cfpairs.errors import DataError
from cfpairs.pairs.edit.backgrounds import Background, BackgroundBank, FolderBank, ItemBank
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditScene, EditTask
from cfpairs.pairs.edit.edges import compose, measured_edge, soft_edge
from cfpairs.pairs.edit.fill import fill_hole
from cfpairs.pairs.edit.masks import check_share
from cfpairs.pairs.edit.pixels import decode_image, read_file

__all__ = ["CompositeEditor", "CompositeOptions", "clear_background", "cover"]

MARGIN = 0.012
"""Pixels around a foreground that go with it when it is removed, as a share of the image's side."""


class CompositeOptions(Strict):
    """Settings of `CompositeEditor`."""

    backgrounds: Literal["other-environment", "folder"] = Field(
        default="other-environment",
        description="training images of the target environment, or the images in 'folder'",
    )
    folder: Path | None = Field(
        default=None,
        description="folder of backgrounds below the data root: ENVIRONMENT_NAME/any/image; used as they are",
    )
    feather: Annotated[float, Field(ge=0.0, le=20.0)] | None = Field(
        default=None,
        description="softness in pixels of the edge of a mask that has none of its own; "
        "default: where and as soft as the edge in the image is",
    )
    defringe: bool = Field(default=True, description="take the old background's colour out of the edge")
    smallest: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.002, description="smallest share of the image that the foreground may take"
    )
    largest: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.9, description="largest share of the image that the foreground may take"
    )
    largest_in_background: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="largest foreground of an image whose background is used"
    )

    @model_validator(mode="after")
    def _ordered(self) -> CompositeOptions:
        if self.smallest >= min(self.largest, self.largest_in_background):
            raise ValueError("smallest must be below largest and largest_in_background")
        if (self.folder is None) == (self.backgrounds == "folder"):
            raise ValueError("backgrounds: folder and a 'folder' go together")
        return self


class CompositeEditor:
    """Paste an item's foreground on a background of another environment.

    Parameters
    ----------
    options : CompositeOptions

    Notes
    -----
    The foreground of a training image that serves as background is covered with texture from elsewhere in it.
    A mask without a soft edge gets that of the image; where the edge is soft the old background is taken out
    of the pasted colour, so that no ring of it stays. Where the edge is full foreground the pixels are those
    of the source, bit for bit. A null edit lays the foreground on its own background, its place there
    covered first as that of any other foreground would be.
    """

    Options: ClassVar[type[BaseModel]] = CompositeOptions
    version: ClassVar[int] = 2
    threaded: ClassVar[bool] = True
    null_edits: ClassVar[bool] = True
    summary: ClassVar[str] = (
        "The item's foreground, cut out by its mask, on a background of another environment: a training "
        "image whose own foreground is covered with its texture first, or an image of a folder."
    )
    limits: ClassVar[tuple[str, ...]] = (
        "light and shadow of the foreground stay those of its old background",
        "what the mask misses of the foreground is lost, what it takes of the background is kept",
        "where a foreground was removed the background's texture repeats; a probe on an encoder that sees "
        "such places tells edited images from unedited ones a little more often than by chance",
    )

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(CompositeOptions, options)
        self._scene: EditScene | None = None
        self._bank: BackgroundBank | None = None

    @property
    def batch_size(self) -> int:
        """One: edits run beside each other in threads."""
        return 1

    def open(self, scene: EditScene) -> frozenset[int]:
        """Put the backgrounds of each environment in a seeded order.

        Raises
        ------
        ConfigError, DataError
            If no item can have a mask, or the folder of backgrounds cannot be used.
        """
        self._scene = scene
        if self.options.folder is not None:
            self._bank = FolderBank(scene, self.options.folder)
        else:
            self._bank = ItemBank(scene, self.options.smallest, self.options.largest_in_background)
        return self._bank.envs

    def plan(self, task: EditTask) -> EditPlan:
        """Read the source, its mask and the background whose turn it is."""
        if self._scene is None or self._bank is None:
            raise DataError("the editor has not been opened", remedy="call open() first")
        content = read_file(self._scene.workspace.file(task.item["path"]), "image")
        image = decode_image(content, "image")
        mask = self._scene.masks.mask(task.item, image, content)
        check_share(mask.alpha, self.options.smallest, self.options.largest)
        if task.null:
            background = Background(image, mask.alpha, str(task.item["item_id"]), ("own",))
        else:
            background = self._bank.take(task.env, task.turn, task.attempt)
        return EditPlan(
            source=image,
            key=(hashlib.sha256(content).hexdigest(), mask.key, *background.key),
            mask=mask,
            columns={"background_id": background.name},
            data={"background": background},
        )

    def edit(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        """The composites, each of the size of its source."""
        return [self._edit(plan) for plan in plans]

    def _edit(self, plan: EditPlan) -> NDArray[np.uint8] | EditRejectedError:
        if plan.mask is None:
            raise DataError("a plan without a mask", remedy="give edit() what plan() made")
        behind = plan.data["background"]
        if self.options.feather is None:
            alpha = measured_edge(plan.source, plan.mask.alpha)
        else:
            alpha = soft_edge(plan.mask.alpha, self.options.feather)
        pixels = behind.pixels
        if behind.foreground is not None:
            pixels = clear_background(pixels, behind.foreground)
        height, width = alpha.shape
        try:
            return compose(plan.source, alpha, cover(pixels, width, height), self.options.defringe)
        except EditRejectedError as error:
            return error

    def close(self) -> None:
        """Forget the scene."""
        self._scene = self._bank = None


def clear_background(image: NDArray[np.uint8], alpha: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image with its foreground and a margin around it covered by texture of the rest."""
    margin = max(2, round(MARGIN * max(alpha.shape)))
    reach = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * margin + 1, 2 * margin + 1))
    return fill_hole(image, cv2.dilate((alpha > 0.02).astype(np.uint8), reach).astype(bool))


def cover(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """The middle of an image, scaled so that it fills `width` x `height`."""
    rows, columns = image.shape[:2]
    if (columns, rows) == (width, height):
        return image
    scale = max(width / columns, height / rows)
    wide, high = max(width, round(columns * scale)), max(height, round(rows * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    scaled = cv2.resize(image, (wide, high), interpolation=way)
    left, top = (wide - width) // 2, (high - height) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width], np.uint8)
