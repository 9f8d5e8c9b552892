"""Any model of timm: its pooled features, with weights by tag or from a file."""

from __future__ import annotations

import difflib
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Preprocessing, safe_name
from cfpairs.encoders.hub import fetch, hub_file
from cfpairs.encoders.network import NetworkEncoder
from cfpairs.encoders.weights import read_state_dict
from cfpairs.errors import ConfigError, DataError, UnknownNameError

if TYPE_CHECKING:
    import torch

__all__ = ["TimmEncoder"]

_FORMS = "timm:MODEL.TAG, or timm:MODEL@/path/to/weights"
_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class _Source:
    """What a SPEC's argument names."""

    model: str
    path: Path | None


class TimmEncoder(NetworkEncoder):
    """A timm model without its classifier; the embedding is its pooled feature.

    Parameters
    ----------
    argument : str
        ``MODEL`` or ``MODEL.TAG``: weights that timm publishes, fetched once into the hub's cache.
        ``MODEL@PATH``: weights in a safetensors file or in a torch checkpoint that holds tensors alone.
    config : EncoderConfig
        Device, runtime, precision and batch size.

    Raises
    ------
    UnknownNameError
        If timm has no such model or tag; the message suggests the nearest.
    ConfigError
        If the model has no published weights, its input is not a square of three channels, or the file cannot
        be read.
    CfpairsError
        If published weights cannot be fetched.

    Notes
    -----
    The features are those of ``timm.create_model(NAME, num_classes=0)``. The preprocessing is timm's
    evaluation transform of the model's resolved data configuration: resize to ``size / crop_pct`` (of the
    shorter side, or of both where ``crop_mode`` is ``squash``), then a centre crop.
    """

    def __init__(self, argument: str, config: EncoderConfig) -> None:
        self._source = _parse(argument)
        described = _described(self._source)
        super().__init__(
            config,
            name=safe_name("timm", self._source.model),
            dim=_dim(self._source.model),
            weights=self._source.path or _published(self._source, described),
            preprocessing=_preprocessing(self._source.model, described),
            libraries=("timm",),
        )

    def build(self) -> torch.nn.Module:
        """Timm's network with the weights."""
        return _network(self._source.model, self.weights)


def _parse(argument: str) -> _Source:
    import timm

    model, at, path = argument.partition("@")
    if not model:
        raise ConfigError("timm needs a model", got=repr(f"timm:{argument}"), expected=_FORMS)
    if at and not path:
        raise ConfigError("no path after '@'", got=repr(f"timm:{argument}"), expected=_FORMS)
    if not timm.is_model(model):
        raise UnknownNameError("timm has no such model", got=repr(model), expected=_nearest(model))
    _, _, tag = model.partition(".")
    if tag and model not in timm.list_pretrained(f"{model}*"):
        base = model.partition(".")[0]
        tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{base}.*")]
        raise UnknownNameError(
            f"{base} has no such tag",
            got=repr(tag),
            expected="one of " + ", ".join(tags) if tags else f"timm:{base}@/path/to/weights: it has no tags",
        )
    return _Source(model, Path(path).expanduser().absolute() if at else None)


def _nearest(name: str) -> str:
    import timm

    near = difflib.get_close_matches(name.partition(".")[0].lower(), timm.list_models(), n=3, cutoff=0.5)
    if near:
        return "perhaps " + " or ".join(repr(n) for n in near)
    return "one of timm.list_models(), such as 'vit_small_patch14_dinov2'"


def _described(source: _Source) -> dict[str, Any]:
    """What timm knows of the model's weights and input."""
    import timm

    found = timm.get_pretrained_cfg(source.model, allow_unregistered=True)
    return asdict(found) if found is not None else {}


def _published(source: _Source, described: dict[str, Any]) -> Path:
    """The file of published weights, from the cache or the network."""
    repo, address = described.get("hf_hub_id"), described.get("url")
    remedy = f"pass a file you have: timm:{source.model}@/path/to/weights"
    if not repo and not address:
        raise ConfigError(f"timm publishes no weights of {source.model}", remedy=remedy)

    def download() -> str | Path:
        if repo:
            named = described.get("hf_hub_filename")
            return hub_file(str(repo), (named,) if named else _HUB_WEIGHTS)
        from timm.models import download_cached_file  # type: ignore[attr-defined, unused-ignore]

        return str(download_cached_file(str(address)))

    return fetch(f"the weights of timm:{source.model}", remedy, download)


def _dim(model: str) -> int:
    """Dimension of the features, from a network without memory."""
    import timm
    import torch

    with torch.device("meta"):
        network: Any = timm.create_model(model, pretrained=False, num_classes=0)
    return int(getattr(network, "head_hidden_size", network.num_features))


def _preprocessing(model: str, described: dict[str, Any]) -> Preprocessing:
    """Timm's evaluation transform as a `Preprocessing`."""
    from timm.data.config import resolve_data_config

    found: dict[str, Any] = resolve_data_config(pretrained_cfg=described)  # type: ignore[no-untyped-call]
    channels, height, width = found["input_size"]
    if channels != 3 or height != width:
        raise ConfigError(
            f"the input of timm:{model} is no square of three channels",
            got=f"{channels} x {height} x {width}",
        )
    modes = {"center": "shortest", "squash": "squash"}
    kind = str(found["interpolation"])
    if found["crop_mode"] not in modes or kind.upper() not in Image.Resampling.__members__:
        raise ConfigError(
            f"timm:{model} prepares images in a way that is not known here",
            got=f"crop_mode {found['crop_mode']}, interpolation {kind}",
        )
    return Preprocessing(
        size=height,
        resize=math.floor(height / found["crop_pct"]),
        interpolation=kind,
        mean=tuple(found["mean"]),
        std=tuple(found["std"]),
        resize_mode=modes[found["crop_mode"]],
    )


def _network(model: str, weights: Path) -> torch.nn.Module:
    """Build without a classifier and put the weights in; every tensor of the network must be there."""
    import timm

    state = read_state_dict(weights)
    network: torch.nn.Module = timm.create_model(model, pretrained=False, num_classes=0)
    try:
        _load(network, state)
    except Exception as error:  # timm's converters raise whatever a foreign file makes them
        raise DataError(
            f"{weights} does not hold the weights of timm's {model}",
            got=f"{type(error).__name__}: {str(error)[:160]}",
            remedy="name the model that the file was saved from",
        ) from error
    return network.eval()


def _load(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load `state` as it is, or through the model family's own converter if names are missing."""
    state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    needed = network.state_dict().keys()
    if not needed <= state.keys():
        convert = getattr(sys.modules[type(network).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            state = dict(convert(state, network))
    absent = sorted(needed - state.keys())
    if absent:
        raise KeyError(f"no tensor {absent[0]}, and {len(absent) - 1} more are missing")
    network.load_state_dict({name: state[name] for name in needed})
