"""The image towers of open_clip: any architecture of its factory, weights by tag or from a file."""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import EncoderInfo, Preprocessing, file_sha256, library_versions, safe_name
from cfpairs.encoders.preprocessing import preprocess_image
from cfpairs.encoders.runtimes import Runtime, build_runtime, plan_run
from cfpairs.encoders.weights import read_state_dict
from cfpairs.errors import CfpairsError, ConfigError, DataError, MissingDependencyError, UnknownNameError

if TYPE_CHECKING:
    import torch

__all__ = ["OpenClipEncoder"]

_FORMS = "open_clip:MODEL/TAG or open_clip:MODEL@/path/to/weights"


@dataclass(frozen=True)
class _Source:
    """What a SPEC's argument names."""

    model: str
    tag: str | None
    path: Path | None


class OpenClipEncoder:
    """The image tower of an open_clip model; the embedding is what ``encode_image`` returns, not normalised.

    Parameters
    ----------
    argument : str
        ``MODEL/TAG``: weights that open_clip publishes under that tag, fetched once into its cache.
        ``MODEL@PATH``: weights in a safetensors file or in a torch checkpoint that holds tensors alone.
    config : EncoderConfig
        Device, runtime, precision and batch size.

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
    Preprocessing (size, resize mode, interpolation, mean, std) is the tag's. For a file it is, in this order:
    ``preprocess_cfg`` of an ``open_clip_config.json`` in the same folder; what all published tags of MODEL
    agree on; open_clip's default. A tag that was trained with QuickGELU is run with it.
    """

    def __init__(self, argument: str, config: EncoderConfig) -> None:
        self._source = _parse(argument)
        self._plan = plan_run(config)
        tag_config = _tag_config(self._source)
        self._quick_gelu = bool(tag_config.get("quick_gelu", False))
        self._weights = self._source.path or _fetch(self._source, tag_config)
        self._preprocessing = _preprocessing(self._source, tag_config)
        self._runtime: Runtime | None = None
        self.info = EncoderInfo(
            spec=config.spec,
            name=safe_name(
                "open_clip", self._source.model, *([self._source.tag] if self._source.tag else [])
            ),
            dim=int(_model_config(self._source.model)["embed_dim"]),
            weights_sha256=file_sha256(self._weights),
            runtime=self._plan.runtime,
            precision=self._plan.precision,
            device=self._plan.device,
            preprocessing=self._preprocessing,
            libraries=library_versions("numpy", "Pillow", "open_clip_torch", "timm", *self._plan.libraries),
        )

    def load(self) -> None:
        """Build the model, keep its image tower and compile it."""
        self._ready()

    def _ready(self) -> Runtime:
        if self._runtime is None:
            tower = _image_tower(self._source.model, self._weights, self._quick_gelu)
            side = self._preprocessing.size
            self._runtime = build_runtime(tower, self._plan, side, self._source.model)
        return self._runtime

    def preprocess(self, image: Image.Image) -> NDArray[np.float32]:
        """One RGB image to (3, size, size), as open_clip's own transform does to within 1e-6."""
        return preprocess_image(image, self._preprocessing)

    def encode(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """(b, 3, size, size) to (b, d)."""
        return self._ready()(batch)

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Texts to (m, d), in the images' space; what ``encode_text`` returns, not normalised.

        The whole model is built for it and dropped again: it is called once for a few texts.

        Raises
        ------
        CfpairsError
            If the model's tokenizer is not on disk and cannot be fetched.
        """
        import torch

        tokens = _tokens(self._source.model, prompts)
        whole = _whole_model(self._source.model, self._weights, self._quick_gelu)
        with torch.inference_mode():
            found: NDArray[np.float32] = whole.encode_text(tokens).float().numpy()
        return found

    def close(self) -> None:
        """Drop the model."""
        self._runtime = None


def _parse(argument: str) -> _Source:
    """Check MODEL against open_clip's own list and that weights are named."""
    import open_clip

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


def _model_config(model: str) -> dict[str, Any]:
    import open_clip

    return dict(open_clip.get_model_config(model))


def _tag_config(source: _Source) -> dict[str, Any]:
    import open_clip

    return dict(open_clip.get_pretrained_cfg(source.model, source.tag)) if source.tag else {}


def _fetch(source: _Source, tag_config: dict[str, Any]) -> Path:
    """The file of published weights, from open_clip's cache or the network."""
    import open_clip

    # The hub's client logs every retry; what the user needs to know is in the error.
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        return Path(open_clip.download_pretrained(tag_config))
    except Exception as error:  # every hub client raises its own kinds
        reason = str(error).split(". ")[0]
        raise CfpairsError(
            f"the weights of open_clip:{source.model}/{source.tag} cannot be fetched",
            got=f"{type(error).__name__}: {reason}",
            remedy=f"pass a file you have: open_clip:{source.model}@/path/to/weights",
        ) from error
    finally:
        log.setLevel(level)


def _preprocessing(source: _Source, tag_config: dict[str, Any]) -> Preprocessing:
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    overlay = tag_config if source.path is None else _file_preprocess(source.model, source.path)
    found = merge_preprocess_dict(PreprocessCfg(), overlay)
    side = _model_config(source.model)["vision_cfg"].get("image_size", 224)
    if not isinstance(side, int):
        raise ConfigError("the model's input is not square", got=f"{source.model}: {side}")
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
    keys = ("mean", "std", "interpolation", "resize_mode")
    published = [
        {key: config[key] for key in keys if config.get(key) is not None}
        for tag in open_clip.list_pretrained_tags_by_model(model)
        if (config := open_clip.get_pretrained_cfg(model, tag))
    ]
    agreed = all(config == published[0] for config in published)
    return published[0] if published and agreed else {}


def _image_tower(model: str, weights: Path, quick_gelu: bool) -> torch.nn.Module:
    return _pooled(_whole_model(model, weights, quick_gelu).visual)


def _tokens(model: str, prompts: Sequence[str]) -> torch.Tensor:
    import open_clip

    try:
        found: torch.Tensor = open_clip.get_tokenizer(model)(list(prompts))
    except Exception as error:  # tokenizers from a hub raise its client's own kinds
        raise CfpairsError(
            f"the tokenizer of {model} cannot be had",
            got=f"{type(error).__name__}: {str(error).split('. ')[0][:160]}",
        ) from error
    return found


def _whole_model(model: str, weights: Path, quick_gelu: bool) -> Any:
    """Build the model by open_clip's factory and load the file."""
    import open_clip

    read_state_dict(weights)
    try:
        whole = open_clip.create_model(
            model,
            pretrained=str(weights),
            precision="fp32",
            device="cpu",
            force_quick_gelu=quick_gelu,
            pretrained_text=False,
            weights_only=True,
        )
    except Exception as error:  # mismatches surface as anything from KeyError to RuntimeError
        if "transformers" in str(error) and find_spec("transformers") is None:
            raise MissingDependencyError(
                f"the text side of {model} needs the library transformers",
                remedy="pip install transformers",
            ) from error
        raise DataError(
            f"{weights} does not hold the weights of open_clip's {model}",
            got=f"{type(error).__name__}: {str(error)[:160]}",
            remedy="name the model that the file was saved from",
        ) from error
    return whole.eval()


def _pooled(visual: torch.nn.Module) -> torch.nn.Module:
    """The tower with one output; some towers return the tokens beside the pooled embedding."""
    import torch

    class ImageTower(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = visual

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            found = self.visual(images)
            pooled: torch.Tensor = found[0] if isinstance(found, tuple) else found
            return pooled

    return ImageTower().eval()
