"""What editors that run a diffusion pipeline share: options, plans, batches, the way back to the source."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, field_validator, model_validator

from cfpairs.config import Strict
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditScene, EditTask, Mask
from cfpairs.pairs.edit.diffusion import (
    LoadedPipeline,
    Task,
    call_settings,
    check_lengths,
    load_pipeline,
)
from cfpairs.pairs.edit.diffusion_files import ModelSource, quiet, short
from cfpairs.pairs.edit.edges import compose, measured_edge, soft_edge
from cfpairs.pairs.edit.frame import Frame
from cfpairs.pairs.edit.pixels import decode_image, read_file
from cfpairs.pairs.edit.prompts import check_prompt, choose_prompts, image_seed

__all__ = ["DiffusionEditor", "DiffusionOptions"]


class DiffusionOptions(Strict):
    """Settings of every editor that runs a diffusion pipeline."""

    model: str = Field(default="", description="a folder of diffusers, a .safetensors file or a hub name")
    config: str | None = Field(default=None, description="folder with the settings of a .safetensors file")
    prompts: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="for each environment a prompt, or several that take turns; {label} and {env} stand for "
        "the item's label and the target environment",
    )
    negative_prompt: str | None = Field(default=None, description="what the images shall not show")
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(default=30, description="denoising steps")
    guidance: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="how closely the prompt is followed; default: the pipeline's own"
    )
    strength: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="how much of the image is made anew; default: the pipeline's own"
    )
    size: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] | None = Field(
        default=None, description="side in pixels of the square it works on; default: the model's own"
    )
    batch_size: Annotated[int, Field(ge=1, le=256)] | None = Field(
        default=None, description="images at once; default: 4 on a GPU, 1 on a CPU"
    )
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    safety_checker: bool | None = Field(
        default=None, description="false: run without; true: insist on one; default: as the model has it"
    )
    offline: bool = Field(
        default=False, description="true: the hub's cache only, as HF_HUB_OFFLINE in the environment has it"
    )
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub name")
    variant: str | None = Field(default=None, description="which of several weights, such as fp16")
    allow_pickle: bool = Field(
        default=False, description="load weights that are not safetensors; only from those you trust"
    )
    feather: Annotated[float, Field(ge=0.0, le=20.0)] | None = Field(
        default=None,
        description="softness in pixels of the edge of a mask that has none of its own; default: as soft as "
        "the image's own edge",
    )

    @field_validator("prompts", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {str(env): (text,) if isinstance(text, str) else text for env, text in value.items()}

    @field_validator("prompts")
    @classmethod
    def _usable(cls, value: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for env, texts in value.items():
            if not texts:
                raise ValueError(f"environment {env!r} has an empty list")
            for text in texts:
                check_prompt(text)
        return value

    @model_validator(mode="after")
    def _some_steps(self) -> DiffusionOptions:
        if self.strength is not None and int(self.steps * self.strength) < 1:
            raise ValueError(f"strength {self.strength} of {self.steps} steps leaves none")
        return self


class DiffusionEditor(ABC):
    """An editor that runs a diffusion pipeline; see `InpaintEditor` and `InstructEditor`.

    Notes
    -----
    Every image has its own noise, seeded by the run's seed, the item, the environment, the turn and the
    attempt, drawn on the CPU whatever the device. Batches are filled up to one size, so that the shapes that
    are computed with, and with them the last bits, are the same however many images are left.
    """

    task: ClassVar[Task]
    threaded: ClassVar[bool] = False
    null_edits: ClassVar[bool] = True
    options: DiffusionOptions

    def __init__(self) -> None:
        self._scene: EditScene | None = None
        self._loaded: LoadedPipeline | None = None
        self._prompts: dict[int, tuple[str, ...]] = {}
        self._settings: dict[str, Any] = {}
        self._batch = 0

    @property
    def batch_size(self) -> int:
        """How many images are made at once; 1 until `open` has found a GPU, unless an option says it."""
        return self._batch or self.options.batch_size or 1

    def open(self, scene: EditScene) -> frozenset[int]:
        """Load the pipeline.

        Returns
        -------
        frozenset of int
            The environments that have a prompt.

        Raises
        ------
        ConfigError
            If options do not fit the data or the pipeline, or there is no such model.
        CfpairsError
            If the model cannot be fetched or does not fit the GPU.
        MissingDependencyError
            If diffusers is not installed.
        """
        chosen = self.options
        self._prompts = choose_prompts(chosen.prompts, scene.env_names)
        self._check_scene(scene)
        source = ModelSource(
            model=chosen.model,
            config=chosen.config,
            revision=chosen.revision,
            variant=chosen.variant,
            offline=chosen.offline,
            allow_pickle=chosen.allow_pickle,
            root=scene.root,
        )
        loaded = load_pipeline(
            source,
            self.task,
            device=chosen.device,
            precision=chosen.precision,
            safety_checker=chosen.safety_checker,
        )
        self._settings = call_settings(loaded.pipeline, self._call_options())
        longest = max(scene.label_names.values(), key=len, default="")
        with quiet():
            check_lengths(
                loaded.pipeline,
                (
                    text.format(label=longest, env=scene.env_names[env])
                    for env, texts in self._prompts.items()
                    for text in texts
                ),
            )
        self._batch = chosen.batch_size or (4 if loaded.device == "cuda" else 1)
        self._scene, self._loaded = scene, loaded
        return frozenset(self._prompts)

    def plan(self, task: EditTask) -> EditPlan:
        """Read the image and its mask, and settle prompt and seed."""
        scene, loaded = self._opened()
        texts = self._prompts.get(task.env)
        if texts is None:  # only of null edits: `open` has said which environments have one
            raise EditRejectedError("its environment has no prompt")
        prompt = texts[task.turn % len(texts)].format(
            label=scene.label_names[int(task.item["label"])], env=scene.env_names[task.env]
        )
        content = read_file(scene.workspace.file(task.item["path"]), "image")
        image = decode_image(content, "image")
        mask = self._mask(scene, task.item, image, content)
        seed = image_seed(scene.seed, str(task.item["item_id"]), task.env, task.turn, task.attempt)
        key = (
            hashlib.sha256(content).hexdigest(),
            mask.key if mask else "",
            prompt,
            str(seed),
            str(self._side()),
            repr(sorted(self._settings.items())),
            loaded.identity,
        )
        columns = {"prompt": prompt, "edit_seed": seed}
        return EditPlan(image, key, mask, columns, {"prompt": prompt, "seed": seed})

    def edit(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        """The edited images; a batch for which the GPU has no memory is halved, then and from then on."""
        import torch

        made: list[NDArray[np.uint8] | EditRejectedError] = []
        while len(made) < len(plans):
            part = plans[len(made) : len(made) + self.batch_size]
            try:
                made += self._paint(part)
                continue
            except torch.cuda.OutOfMemoryError as error:
                if self._batch == 1:
                    raise CfpairsError(
                        "the GPU's memory is too small for a single image",
                        got=f"size {self._side()}",
                        remedy="lower size, set precision: bf16 or fp16, or set device: cpu",
                    ) from error
            # Only here, where the error no longer holds the failed call's tensors, can they be freed.
            torch.cuda.empty_cache()
            self._batch //= 2
        return made

    def close(self) -> None:
        """Drop the pipeline and what it holds on the GPU."""
        on_gpu = self._loaded is not None and self._loaded.device == "cuda"
        self._scene, self._loaded, self._batch = None, None, 0
        if on_gpu:
            import torch

            torch.cuda.empty_cache()

    @abstractmethod
    def _check_scene(self, scene: EditScene) -> None:
        """Raise a `CfpairsError` if its items cannot be edited, before the model is loaded."""

    @abstractmethod
    def _mask(
        self, scene: EditScene, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes
    ) -> Mask | None:
        """The foreground that is kept."""

    @abstractmethod
    def _images(self, plan: EditPlan, frame: Frame) -> dict[str, Image.Image]:
        """What the pipeline is given to look at, by its argument."""

    def _finish(self, plan: EditPlan, painted: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The foreground that is kept, laid on what the pipeline has painted."""
        if plan.mask is None:
            return painted
        alpha, feather = plan.mask.alpha, self.options.feather
        alpha = measured_edge(plan.source, alpha) if feather is None else soft_edge(alpha, feather)
        return compose(plan.source, alpha, painted)

    def _call_options(self) -> dict[str, Any]:
        chosen = self.options
        return {
            "steps": chosen.steps,
            "guidance": chosen.guidance,
            "strength": chosen.strength,
            "negative_prompt": chosen.negative_prompt,
        }

    def _opened(self) -> tuple[EditScene, LoadedPipeline]:
        if self._scene is None or self._loaded is None:
            raise DataError("the editor has not been opened", remedy="call open() first")
        return self._scene, self._loaded

    def _side(self) -> int:
        return self.options.size or self._opened()[1].side

    def _paint(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        frames = [Frame(plan.source.shape[0], plan.source.shape[1], self._side()) for plan in plans]
        pixels, flagged = self._run(plans, frames)
        made: list[NDArray[np.uint8] | EditRejectedError] = []
        for plan, frame, image, unsafe in zip(plans, frames, pixels, flagged, strict=True):
            if unsafe:
                made.append(EditRejectedError("safety checker: the pipeline withheld the image"))
            elif not np.isfinite(image).all():
                made.append(
                    EditRejectedError("the pipeline gave pixels that are no numbers; try precision bf16")
                )
            else:
                try:
                    made.append(self._finish(plan, frame.back(_levels(image))))
                except EditRejectedError as error:
                    made.append(error)
        return made

    def _run(
        self, plans: Sequence[EditPlan], frames: Sequence[Frame]
    ) -> tuple[list[NDArray[np.float32]], list[bool]]:
        """One call of the pipeline: pixels in 0..1, and which of the images its checker has blackened."""
        import torch

        _, loaded = self._opened()
        filled = [*range(len(plans)), *[len(plans) - 1] * (self._batch - len(plans))]
        given = [self._images(plan, frame) for plan, frame in zip(plans, frames, strict=True)]
        call: dict[str, Any] = dict(self._settings)
        call |= {name: [given[i][name] for i in filled] for name in given[0]}
        call["prompt"] = [plans[i].data["prompt"] for i in filled]
        if call.get("negative_prompt") is not None:
            call["negative_prompt"] = [call["negative_prompt"]] * len(filled)
        call["generator"] = [torch.Generator("cpu").manual_seed(plans[i].data["seed"]) for i in filled]
        try:
            with quiet(), torch.inference_mode():
                result = loaded.pipeline(**call, output_type="np")
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # pipelines check their arguments in many ways
            raise ConfigError(
                f"{type(loaded.pipeline).__name__} cannot work with these settings",
                got=short(error),
                remedy="change size, steps or strength, or take another model",
            ) from error
        flagged = getattr(result, "nsfw_content_detected", None) or [False] * len(filled)
        return list(result.images[: len(plans)]), [bool(unsafe) for unsafe in flagged[: len(plans)]]


def _levels(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray(np.rint(np.clip(image, 0, 1) * 255), np.uint8)
