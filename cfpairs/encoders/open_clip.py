"""The image towers of open_clip: any architecture of its factory, weights by tag, hub name or file."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Preprocessing, safe_name
from cfpairs.encoders.hub import fetch, hub_file
from cfpairs.encoders.network import NetworkEncoder
from cfpairs.encoders.open_clip_models import TowerPlan, image_tower, pooled_dim, tokens, whole_model
from cfpairs.errors import ConfigError, DataError, UnknownNameError

if TYPE_CHECKING:
    import torch

__all__ = ["OpenClipEncoder"]

_FORMS = "open_clip:MODEL/TAG, open_clip:MODEL@/path/to/weights or open_clip:hf-hub:ORG/NAME"
_HUB = "hf-hub:"
_HUB_WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class _Source:
    """What a SPEC's argument names; `model` starts with ``hf-hub:`` for a repository."""

    model: str
    tag: str | None
    path: Path | None


class OpenClipEncoder(NetworkEncoder):
    """The image tower of an open_clip model; what ``encode_image`` returns, not normalised.

    Parameters
    ----------
    argument : str
        ``MODEL/TAG``: weights that open_clip publishes under that tag, fetched once into its cache.
        ``MODEL@PATH``: weights in a safetensors file or in a torch checkpoint that holds tensors alone.
        ``hf-hub:ORG/NAME``: a repository with an ``open_clip_config.json`` and weights.
    config : EncoderConfig
        Device, runtime, precision and batch size; ``features: pooled`` leaves out CLIP's projection.

    Raises
    ------
    UnknownNameError
        If open_clip has no such model, or the model no such tag; the message suggests the nearest.
    ConfigError
        If no weights are named or the file cannot be read.
    CfpairsError
        If published weights cannot be fetched.

    Notes
    -----
    Preprocessing (size, resize mode, interpolation, mean, std) is the tag's or the repository's. For a file
    it is, in this order: ``preprocess_cfg`` of an ``open_clip_config.json`` in the same folder; what all
    published tags of MODEL agree on; open_clip's default. A tag that was trained with QuickGELU is run with
    it. The text side is built only for `encode_text`.
    """

    def __init__(self, argument: str, config: EncoderConfig) -> None:
        source = _parse(argument)
        weights, model_config, overlay = _resolve(source)
        self._model = TowerPlan(source.model, model_config)
        pooled = config.features == "pooled"
        super().__init__(
            config,
            name=safe_name("open_clip", source.model, *([source.tag] if source.tag else [])),
            dim=pooled_dim(self._model) if pooled else int(model_config["embed_dim"]),
            weights=weights,
            preprocessing=_preprocessing(source.model, model_config, overlay),
            features=config.features,
            libraries=("open_clip_torch", "timm"),
        )

    def build(self) -> torch.nn.Module:
        """The image tower alone, with its weights."""
        return image_tower(self._model, self.weights, self.info.features == "pooled")

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to (m, d), in the space of projected images; ``encode_text``'s result, not normalised.

        The whole model is built for it and dropped again: it is called once for a few texts.

        Raises
        ------
        ConfigError
            If images are not projected, so that texts and they share no space.
        CfpairsError
            If the model's tokenizer is not on disk and cannot be fetched.
        """
        import torch

        if self.info.features == "pooled":
            raise ConfigError(
                "texts have no place among pooled features", remedy="set encoder.features: projected"
            )
        numbers = tokens(self._model.name, prompts)
        whole = whole_model(self._model, self.weights)
        with torch.inference_mode():
            found: NDArray[np.float32] = whole.encode_text(numbers).float().numpy()
        return found


def _resolve(source: _Source) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """The weight file, the model's configuration and what its weights say of preprocessing."""
    import open_clip

    if source.model.startswith(_HUB):
        return _from_hub(source.model)
    model_config = dict(open_clip.get_model_config(source.model))
    if source.path is not None:
        return source.path, model_config, _file_preprocess(source.model, source.path)
    tag = dict(open_clip.get_pretrained_cfg(source.model, source.tag))
    if tag.get("quick_gelu"):
        model_config["quick_gelu"] = True
    weights = fetch(
        f"the weights of open_clip:{source.model}/{source.tag}",
        f"pass a file you have: open_clip:{source.model}@/path/to/weights",
        lambda: open_clip.download_pretrained(tag),
    )
    return weights, model_config, tag


def _from_hub(name: str) -> tuple[Path, dict[str, Any], dict[str, Any]]:
    """Configuration and weights of a repository, both from the hub's cache if they are there."""
    repo = name.removeprefix(_HUB)
    remedy = "pass a file you have: open_clip:MODEL@/path/to/weights"
    described = fetch(
        f"the configuration of open_clip:{name}", remedy, lambda: hub_file(repo, ("open_clip_config.json",))
    )
    try:
        found = json.loads(described.read_text(encoding="utf-8"))
        model_config, preprocess = dict(found["model_cfg"]), dict(found.get("preprocess_cfg", {}))
        int(model_config["embed_dim"]), dict(model_config["vision_cfg"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"open_clip:{name} does not describe an open_clip model",
            got=f"{type(error).__name__}: {error}",
            expected="open_clip_config.json with model_cfg",
        ) from error
    return (
        fetch(f"the weights of open_clip:{name}", remedy, lambda: hub_file(repo, _HUB_WEIGHTS)),
        model_config,
        preprocess,
    )


def _parse(argument: str) -> _Source:
    """Check MODEL against open_clip's own list and that weights are named."""
    import open_clip

    if argument.startswith(_HUB):
        repo = argument.removeprefix(_HUB)
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
            raise ConfigError("no repository is named", got=repr(argument), expected="hf-hub:ORG/NAME")
        return _Source(argument, None, None)
    model, at, path = argument.partition("@")
    tag = ""
    if not at:
        model, _, tag = argument.partition("/")
    if not model:
        raise ConfigError("open_clip needs a model", got=repr(argument), expected=_FORMS)
    models = open_clip.list_models()
    if model not in models:
        raise UnknownNameError(
            "open_clip has no such model", got=repr(model), expected=_nearest(model, models, "ViT-B-32")
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if at:
        if not path:
            raise ConfigError("no path after '@'", got=repr(argument), expected=_FORMS)
        return _Source(model, None, Path(path).expanduser().absolute())
    if not tag:
        choice = f"{model}/TAG with TAG one of {', '.join(tags)}, or " if tags else ""
        raise ConfigError(
            f"no weights are named for {model}",
            got=f"open_clip:{argument}",
            expected=f"{choice}{model}@/path/to/weights",
        )
    clean = tag.lower().replace("-", "_")
    if clean not in tags:
        raise UnknownNameError(
            f"{model} has no such tag",
            got=repr(tag),
            expected="one of " + ", ".join(tags) if tags else f"{model}@/path/to/weights: it has no tags",
        )
    return _Source(model, clean, None)


def _nearest(name: str, known: list[str], example: str) -> str:
    """The nearest of many names, whatever their case."""
    by_lower = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)
    if near:
        return "perhaps " + " or ".join(repr(by_lower[n]) for n in near)
    return f"one of open_clip.list_models(), such as {example!r}"


def _preprocessing(model: str, model_config: dict[str, Any], overlay: dict[str, Any]) -> Preprocessing:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    found = merge_preprocess_dict(PreprocessCfg(), overlay)
    side = model_config["vision_cfg"].get("image_size", 224)
    if not isinstance(side, int):
        side = side[0] if len(set(side)) == 1 else side
    if not isinstance(side, int):
        raise ConfigError("the model's input is not square", got=f"{model}: {side}")
    return Preprocessing(
        size=side,
        resize=side,
        interpolation="bilinear" if found["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        resize_mode=found["resize_mode"],
        fill=int(found["fill_color"]),
    )


def _file_preprocess(model: str, weights: Path) -> dict[str, Any]:
    """What a weight file's own folder, or else the published tags of the model, say of preprocessing."""
    import open_clip

    beside = weights.parent / "open_clip_config.json"
    if beside.is_file():
        try:
            return dict(json.loads(beside.read_text(encoding="utf-8"))["preprocess_cfg"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{beside} cannot be read",
                got=f"{type(error).__name__}: {error}",
                expected="JSON with preprocess_cfg",
                remedy="mend it, or move it away to use the published preprocessing of the model",
            ) from error
    published = [
        {key: config[key] for key in _PREPROCESS_KEYS if config.get(key) is not None}
        for tag in open_clip.list_pretrained_tags_by_model(model)
        if (config := open_clip.get_pretrained_cfg(model, tag))
    ]
    agreed = all(config == published[0] for config in published)
    return published[0] if published and agreed else {}
