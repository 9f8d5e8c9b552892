"""The `instruct` editor: a diffusion pipeline follows an instruction for each environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, Field

from cfpairs.config import check_options
from cfpairs.pairs.edit.base import EditPlan, EditScene, Mask
from cfpairs.pairs.edit.diffusion import Task
from cfpairs.pairs.edit.diffusion_editor import DiffusionEditor, DiffusionOptions
from cfpairs.pairs.edit.frame import Frame

__all__ = ["InstructEditor", "InstructOptions"]


class InstructOptions(DiffusionOptions):
    """Settings of `InstructEditor`; its prompts are instructions, such as "make the background a forest"."""

    image_guidance: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="how closely the source is followed; default: the pipeline's own"
    )
    keep_foreground: bool = Field(
        default=True,
        description="paste the foreground back over what was made of it, where an item has a mask",
    )


class InstructEditor(DiffusionEditor):
    """Edit an item as an instruction says, with a pipeline in the style of InstructPix2Pix.

    Parameters
    ----------
    options : InstructOptions

    Notes
    -----
    After Brooks, Holynski and Efros (2023), "InstructPix2Pix: learning to follow image editing instructions".
    The whole image is made anew. Where the item has a mask and `keep_foreground` is on, the source's
    foreground is pasted over it, bit for bit where the mask is full.
    """

    Options: ClassVar[type[BaseModel]] = InstructOptions
    version: ClassVar[int] = 1
    task: ClassVar[Task] = "instruct"
    summary: ClassVar[str] = (
        "The item as a diffusion pipeline has changed it by the target environment's instruction; where it "
        "has a mask and keep_foreground is on, its own foreground is pasted back."
    )
    limits: ClassVar[tuple[str, ...]] = (
        "without a mask the foreground is made anew too and may lose what makes its label",
        "the model may not follow the instruction, or change more than it says",
        "a changed image has the model's own traces, which real images of the environment have not",
        "on a GPU the last bits of an image depend on device, batch size and library versions",
    )

    def __init__(self, options: BaseModel) -> None:
        options = check_options(InstructOptions, options)
        super().__init__()
        self.options: InstructOptions = options

    def _call_options(self) -> dict[str, Any]:
        return {**super()._call_options(), "image_guidance": self.options.image_guidance}

    def _check_scene(self, scene: EditScene) -> None:
        """Any item will do."""

    def _mask(
        self, scene: EditScene, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes
    ) -> Mask | None:
        if not self.options.keep_foreground or not scene.masks.has(item):
            return None
        return scene.masks.mask(item, image, content)

    def _images(self, plan: EditPlan, frame: Frame) -> dict[str, Image.Image]:
        return {"image": Image.fromarray(frame.image(plan.source))}
