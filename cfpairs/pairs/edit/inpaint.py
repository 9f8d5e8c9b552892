"""The `inpaint` editor: a diffusion pipeline paints a new background around the foreground."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from cfpairs.config import check_options
from cfpairs.errors import DataError
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditScene, Mask
from cfpairs.pairs.edit.diffusion import Task
from cfpairs.pairs.edit.diffusion_editor import DiffusionEditor, DiffusionOptions
from cfpairs.pairs.edit.frame import Frame

__all__ = ["InpaintEditor", "InpaintOptions"]


class InpaintOptions(DiffusionOptions):
    """Settings of `InpaintEditor`."""

    dilate: Annotated[int, Field(ge=0, le=64)] = Field(
        default=4,
        description="pixels of the square by which the painted background reaches under the edge of the "
        "foreground, so that no ring of the old one stays",
    )


class InpaintEditor(DiffusionEditor):
    """Paint a new background around an item's foreground with any inpainting pipeline of diffusers.

    Parameters
    ----------
    options : InpaintOptions

    Notes
    -----
    The pipeline works on a square that holds the whole image. What it makes of the foreground is thrown away:
    the source is pasted over it, bit for bit where the mask is full, and in the foreground's own colour where
    the mask is soft. The inpainting of Rombach et al. (2022), "High-resolution image synthesis with latent
    diffusion models", is one such pipeline.
    """

    Options: ClassVar[type[BaseModel]] = InpaintOptions
    version: ClassVar[int] = 1
    task: ClassVar[Task] = "inpaint"
    summary: ClassVar[str] = (
        "The item's foreground, cut out by its mask, on a background that a diffusion pipeline has painted "
        "around it from the target environment's prompt."
    )
    limits: ClassVar[tuple[str, ...]] = (
        "a painted background has the model's own traces, which real images of the environment have not",
        "the model may paint a second object, or parts that seem to belong to the foreground",
        "light and shadow of the foreground stay those of its old background",
        "what the mask misses of the foreground is lost, what it takes of the background is kept",
        "on a GPU the last bits of a painted background depend on device, batch size and library versions",
    )

    def __init__(self, options: BaseModel) -> None:
        options = check_options(InpaintOptions, options)
        super().__init__()
        self.options: InpaintOptions = options

    def _check_scene(self, scene: EditScene) -> None:
        if not any(scene.masks.has(item) for item in scene.items.to_pylist()):
            raise DataError(
                "the inpaint editor needs masks of the foreground",
                got=f"{scene.items.num_rows} training items without one",
                remedy="add masks to the data set or set a masker that finds them, such as grabcut",
            )

    def _mask(
        self, scene: EditScene, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes
    ) -> Mask | None:
        mask = scene.masks.mask(item, image, content)
        if mask.alpha.min() >= 0.5:
            raise EditRejectedError("the mask leaves no background to paint")
        return mask

    def _images(self, plan: EditPlan, frame: Frame) -> dict[str, Image.Image]:
        if plan.mask is None:
            raise EditRejectedError("the item has no mask")
        hole = (frame.share(plan.mask.alpha) < 0.5).astype(np.uint8) * 255
        reach = 2 * self.options.dilate + 1
        hole = cv2.dilate(hole, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (reach, reach))).astype(np.uint8)
        return {
            "image": Image.fromarray(frame.image(plan.source)),
            "mask_image": Image.fromarray(hole),
        }
