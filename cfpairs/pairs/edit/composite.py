"""The `composite` editor: the masked foreground on a real background of the other environment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator

from cfpairs.config import Strict
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.cells import cell_rng
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditTask
from cfpairs.pairs.edit.fill import fill_hole
from cfpairs.pairs.edit.masks import (
    decode_image,
    decode_mask,
    extend_colour,
    foreground_core,
    read_file,
    soft_edge,
)
from cfpairs.workspace import Workspace

__all__ = ["CompositeEditor", "CompositeOptions"]

TRIES = 4
"""Backgrounds tried for one item before it is given up: a broken background is no fault of the item."""

MARGIN = 0.012
"""Pixels around a foreground that go with it when it is removed, as a share of the image's side."""


class CompositeOptions(Strict):
    """Settings of `CompositeEditor`."""

    feather: Annotated[float, Field(ge=0.0, le=20.0)] = Field(
        default=1.0, description="softness in pixels of the edge of a mask that has none of its own"
    )
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
        return self


class CompositeEditor:
    """Paste an item's foreground on the background of a training image of another environment.

    Parameters
    ----------
    options : CompositeOptions

    Notes
    -----
    The background's own foreground is covered with texture from elsewhere in it. Where the mask is soft the
    pasted colour is the foreground's own, so that no ring of the old background stays; where the mask is
    full the pixels are those of the source, bit for bit.
    """

    Options: ClassVar[type[BaseModel]] = CompositeOptions
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "The item's foreground, cut out by its mask, on the background of a training image of another "
        "environment; that image's own foreground is covered with its texture first."
    )
    limits: ClassVar[tuple[str, ...]] = (
        "light and shadow of the foreground stay those of its old background",
        "what the mask misses of the foreground is lost, what it takes of the background is kept",
        "where a foreground was removed the background's texture repeats",
    )

    def __init__(self, options: BaseModel) -> None:
        if not isinstance(options, CompositeOptions):
            raise ConfigError("wrong options", got=type(options).__name__, expected="CompositeOptions")
        self.options = options
        self._workspace: Workspace | None = None
        self._bank: dict[int, list[Mapping[str, Any]]] = {}

    def open(self, workspace: Workspace, items: pa.Table, seed: int) -> frozenset[int]:
        """Put the training images of each environment in a seeded order, as backgrounds.

        Raises
        ------
        DataError
            If no item has a mask.
        """
        masked = items.filter(pc.is_valid(items["mask_path"])).sort_by("item_id")
        if not masked.num_rows:
            raise DataError(
                "the composite editor needs masks of the foreground",
                got=f"{items.num_rows} training items without one",
                expected="a mask_path in the manifest",
                remedy="add masks to the data set, or use method nearest",
            )
        self._workspace = workspace
        self._bank = {}
        for env in sorted(set(masked["env"].to_pylist())):
            rows = masked.filter(pc.equal(masked["env"], env)).select(["item_id", "path", "mask_path"])
            order = cell_rng(seed, "background", env).permutation(rows.num_rows)
            self._bank[env] = rows.take(order).to_pylist()
        return frozenset(self._bank)

    def plan(self, task: EditTask) -> EditPlan:
        """Read the source, its mask and the background whose turn it is."""
        if task.item["mask_path"] is None:
            raise EditRejectedError("the item has no mask")
        image, image_hash = self._image(task.item, "image")
        mask, mask_hash = self._mask(task.item, image, self.options.largest, "mask")
        bank = self._bank[task.env]
        fault = ""
        for step in range(min(TRIES, len(bank))):
            chosen = bank[(task.turn + step * (len(bank) // TRIES or 1)) % len(bank)]
            try:
                behind, behind_hash = self._image(chosen, "background")
                largest = self.options.largest_in_background
                hidden, hidden_hash = self._mask(chosen, behind, largest, "mask of the background")
            except EditRejectedError as error:
                fault = str(error)
                continue
            return EditPlan(
                source=image,
                key=(image_hash, mask_hash, behind_hash, hidden_hash),
                columns={"background_id": chosen["item_id"]},
                data={"mask": mask, "behind": behind, "hidden": hidden},
            )
        raise EditRejectedError(fault)

    def edit(self, plan: EditPlan) -> NDArray[np.uint8]:
        """The composite, of the size of the source."""
        alpha = soft_edge(plan.data["mask"], self.options.feather)
        background = clear_background(plan.data["behind"], plan.data["hidden"])
        height, width = alpha.shape
        return compose(plan.source, alpha, cover(background, width, height))

    def _image(self, item: Mapping[str, Any], what: str) -> tuple[NDArray[np.uint8], str]:
        content = self._read(item["path"], what)
        return decode_image(content, what), _hash(content)

    def _mask(
        self, item: Mapping[str, Any], image: NDArray[np.uint8], largest: float, what: str
    ) -> tuple[NDArray[np.float32], str]:
        content = self._read(item["mask_path"], what)
        height, width = image.shape[:2]
        return decode_mask(content, (height, width), (self.options.smallest, largest), what), _hash(content)

    def _read(self, path: str, what: str) -> bytes:
        if self._workspace is None:
            raise DataError("the editor has not been opened", remedy="call open() first")
        return read_file(self._workspace.file(path), what)


def compose(
    image: NDArray[np.uint8], alpha: NDArray[np.float32], background: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay the foreground of an image on another background.

    Parameters
    ----------
    image, background : ndarray of uint8, shape (height, width, 3)
    alpha : ndarray of float32, shape (height, width)
        Share of foreground of each pixel.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        Equal to `image` where the pixel is all foreground, to `background` where it is none of it.
    """
    core = foreground_core(alpha)
    colour = extend_colour(image, core)
    share = np.where(core, np.float32(1), alpha)[:, :, None]
    mixed = colour * share + background * (1 - share)
    return np.asarray(np.rint(mixed), np.uint8)


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


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
