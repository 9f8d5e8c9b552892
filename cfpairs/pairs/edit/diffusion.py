"""Diffusion pipelines: device, precision, loading, the settings of a call."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from cfpairs.errors import CfpairsError, ConfigError, MissingDependencyError
from cfpairs.pairs.edit.diffusion_files import (
    INDEX,
    REMEDY,
    ModelSource,
    check_weights,
    digest,
    locate,
    places,
    read_index,
    short,
    silent,
)

__all__ = [
    "LoadedPipeline",
    "call_settings",
    "check_lengths",
    "choose_precision",
    "load_pipeline",
    "require_libraries",
]

Task = Literal["inpaint", "instruct"]

ARGUMENTS = {
    "steps": "num_inference_steps",
    "guidance": "guidance_scale",
    "image_guidance": "image_guidance_scale",
    "strength": "strength",
    "negative_prompt": "negative_prompt",
}
"""What pipelines call the options of the editors."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline that is ready to be called.

    Attributes
    ----------
    pipeline : diffusers.DiffusionPipeline
    identity : str
        Its class, how it is run, and a hash of its files.
    side : int
        Side in pixels of the square images that it was trained on.
    device : str
    """

    pipeline: Any
    identity: str
    side: int
    device: str


def require_libraries() -> None:
    """Raise `MissingDependencyError` unless diffusers and transformers are installed."""
    for name in ("diffusers", "transformers"):
        if find_spec(name) is None:
            raise MissingDependencyError(
                f"diffusion editors need the library {name}", remedy="pip install 'cfpairs[edit]'"
            )


def choose_precision(device: str, precision: str) -> tuple[str, str]:
    """Settle ``auto``: the first GPU where there is one, bf16 (or fp16) on it, fp32 on a CPU.

    Returns
    -------
    tuple of str
        ``cpu`` or ``cuda``, and ``fp32``, ``fp16`` or ``bf16``.

    Raises
    ------
    CfpairsError
        If ``cuda`` is asked for and there is none.
    ConfigError
        If fp16 is asked for on a CPU.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and not torch.cuda.is_available():
        raise CfpairsError("no NVIDIA GPU can be used here", got="device cuda", remedy="set device: cpu")
    if device == "cpu" and precision == "fp16":
        raise ConfigError("fp16 needs a GPU", got="precision fp16 on cpu", expected="fp32 or bf16")
    if precision == "auto":
        if device == "cpu":
            return device, "fp32"
        # Ampere was the first to compute in bfloat16, whose range keeps images from turning black.
        return device, "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp16"
    return device, precision


def load_pipeline(
    source: ModelSource,
    task: Task,
    *,
    device: str,
    precision: str,
    safety_checker: bool | None,
) -> LoadedPipeline:
    """Find, check and load a pipeline.

    Parameters
    ----------
    source : ModelSource
    task : {"inpaint", "instruct"}
        What it must be able to do. A text-to-image model becomes its family's pipeline for inpainting, or
        from image to image.
    device, precision : str
        ``auto`` or as `choose_precision` gives them.
    safety_checker : bool or None
        True insists on one, False drops it, None keeps what the model has.

    Raises
    ------
    ConfigError
        If it is no pipeline for the task, or its weights are not safetensors.
    CfpairsError
        If it cannot be found, read, or held in the GPU's memory.
    MissingDependencyError
        If diffusers is not installed.
    """
    require_libraries()
    place = locate(source)
    settings = _settings_of(source, place)
    index = read_index(settings)
    if settings == place and not source.allow_pickle:
        check_weights(place, index, frozenset({"safety_checker"} if safety_checker is False else ()))
    device, precision = choose_precision(device, precision)
    hashes = [digest(part, source.variant) for part in dict.fromkeys((settings, place))]
    with silent(), _no_bars():
        pipeline = _read(source, place, settings, str(index["_class_name"]), task, precision, safety_checker)
        _check_task(pipeline, task)
        if safety_checker and getattr(pipeline, "safety_checker", None) is None:
            raise ConfigError(
                "the model has no safety checker", got="safety_checker: true", remedy="leave the option out"
            )
        pipeline.set_progress_bar_config(disable=True)
        _move(pipeline, device)
    identity = "-".join([type(pipeline).__name__, precision, device, str(safety_checker), *hashes])
    return LoadedPipeline(pipeline, identity, _side(pipeline), device)


def _settings_of(source: ModelSource, place: Path) -> Path:
    """The folder that has the settings of what lies at `place`: itself, if it is one."""
    if place.is_dir():
        return place
    for folder in places(source.config, source.root) if source.config else ():
        if (folder / INDEX).is_file():
            return folder
    raise ConfigError(
        "a single file holds weights but no settings",
        got=f"config: {source.config}" if source.config else source.model,
        expected=f"option config: a folder with {INDEX} and the settings below it",
        remedy="get one with hf download NAME --include '*.json' '*.txt' --local-dir DIR",
    )


def _read(
    source: ModelSource,
    place: Path,
    settings: Path,
    name: str,
    task: Task,
    precision: str,
    safety_checker: bool | None,
) -> Any:
    import diffusers
    import torch

    kind = getattr(diffusers, name, None)
    if kind is None:
        raise ConfigError(
            "diffusers has no such pipeline", got=name, remedy="upgrade diffusers or take another model"
        )
    options: dict[str, Any] = {
        "torch_dtype": {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision],
        "local_files_only": True,
    }
    takes = inspect.signature(kind.__init__).parameters
    if safety_checker is False and "safety_checker" in takes:
        options["safety_checker"] = None
        if "requires_safety_checker" in takes:
            options["requires_safety_checker"] = False
    try:
        if place != settings:
            return kind.from_single_file(str(place), config=str(settings), **options)
        options |= {"use_safetensors": None if source.allow_pickle else True, "variant": source.variant}
        return _loader(kind, task).from_pretrained(str(place), **options)
    except Exception as error:  # libraries raise anything, from KeyError to OSError
        raise ConfigError(
            f"the diffusion model {source.model}, a {name}, cannot be loaded to {task}",
            got=short(error),
            remedy=REMEDY,
        ) from error


def _loader(kind: type, task: Task) -> Any:
    """What loads a folder: the pipeline that it names if that can do the task, else its family's that can."""
    import diffusers

    needed = {"inpaint": "mask_image", "instruct": "image"}[task]
    if needed in inspect.signature(kind.__call__).parameters:
        return kind
    return {
        "inpaint": diffusers.AutoPipelineForInpainting,
        "instruct": diffusers.AutoPipelineForImage2Image,
    }[task]


def _check_task(pipeline: Any, task: Task) -> None:
    takes = inspect.signature(type(pipeline).__call__).parameters
    needed = {"image", "prompt", "generator"} | ({"mask_image"} if task == "inpaint" else set())
    missing = sorted(needed - takes.keys())
    if missing:
        raise ConfigError(
            "the pipeline cannot be used by this editor",
            got=f"{type(pipeline).__name__}, which takes no {missing[0]}",
            remedy="name an inpainting model" if task == "inpaint" else "name an InstructPix2Pix-style model",
        )
    if task == "instruct" and "mask_image" in takes:
        raise ConfigError(
            "an inpainting pipeline follows no instructions",
            got=type(pipeline).__name__,
            remedy="use it with editor inpaint",
        )


def _move(pipeline: Any, device: str) -> None:
    import torch

    try:
        pipeline.to(device)
    except torch.cuda.OutOfMemoryError as error:
        raise CfpairsError(
            "the diffusion model does not fit the GPU's memory",
            remedy="set precision: bf16 or fp16, take a smaller model, or set device: cpu",
        ) from error


def _side(pipeline: Any) -> int:
    core = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latent = getattr(pipeline, "default_sample_size", None) or getattr(core, "config", {}).get("sample_size")
    return int(latent) * int(pipeline.vae_scale_factor) if isinstance(latent, int) else 512


@contextmanager
def _no_bars() -> Iterator[None]:
    """Within it diffusers and transformers draw no bars while they load."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    shown = [
        module for module in (diffusers_logging, transformers_logging) if module.is_progress_bar_enabled()
    ]
    for module in shown:
        module.disable_progress_bar()
    try:
        yield
    finally:
        for module in shown:
            module.enable_progress_bar()


def call_settings(pipeline: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a pipeline is called with, by the names of its own arguments.

    Parameters
    ----------
    pipeline : diffusers.DiffusionPipeline
    options : mapping
        Values by the names of `ARGUMENTS`; None stands for the pipeline's own default.

    Raises
    ------
    ConfigError
        If a value is given that the pipeline does not take.
    """
    takes = inspect.signature(type(pipeline).__call__).parameters
    settings = {}
    for option, value in options.items():
        argument = ARGUMENTS[option]
        if argument in takes:
            settings[argument] = takes[argument].default if value is None else value
        elif value is not None:
            raise ConfigError(f"{type(pipeline).__name__} takes no {option}", got=f"{option}: {value}")
    return settings


def check_lengths(pipeline: Any, prompts: Iterable[str]) -> None:
    """Raise `ConfigError` if the pipeline would cut off the end of a prompt."""
    tokenizers = [getattr(pipeline, f"tokenizer{suffix}", None) for suffix in ("", "_2", "_3")]
    known = [one for one in tokenizers if one is not None and hasattr(one, "model_max_length")]
    if not known:
        return
    # Where a pipeline reads a prompt in several ways, what one cuts off another still sees.
    widest = max(known, key=lambda one: int(one.model_max_length))
    for prompt in prompts:
        tokens = len(widest(prompt).input_ids)
        if tokens > widest.model_max_length:
            raise ConfigError(
                "a prompt is longer than the model reads",
                got=f"{tokens} tokens in {prompt[:40]!r}",
                expected=f"at most {widest.model_max_length}",
            )
