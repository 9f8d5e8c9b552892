"""From a configuration to an encoder."""

from __future__ import annotations

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Encoder, split_spec
from cfpairs.registry import resolve

__all__ = ["open_encoder"]


def open_encoder(config: EncoderConfig) -> Encoder:
    """The encoder that ``config.spec`` names; its model is not built yet.

    Parameters
    ----------
    config : EncoderConfig
        ``spec`` is ``NAME`` or ``NAME:ARGUMENT``, such as ``lite`` or ``open_clip:ViT-B-32/openai``.

    Returns
    -------
    Encoder
        With `info` filled; call ``load()`` before ``encode()``.

    Raises
    ------
    UnknownNameError
        If no encoder, or no model of that encoder, has the name; the message suggests the nearest.
    ConfigError
        If the argument or a setting does not fit the encoder.
    MissingDependencyError
        If a library that it needs is not installed.

    Examples
    --------
    >>> encoder = open_encoder(EncoderConfig(spec="lite", runtime="torch", device="cpu"))
    >>> encoder.info.name, encoder.info.dim
    ('lite', 1280)
    """
    name, argument = split_spec(config.spec)
    encoder: Encoder = resolve("encoders", name)(argument, config)
    return encoder
