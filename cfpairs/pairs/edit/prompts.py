"""Prompts for environments, and a seed for every image."""

from __future__ import annotations

import hashlib
import string
from collections.abc import Mapping, Sequence

from cfpairs.errors import ConfigError
from cfpairs.registry import suggest

__all__ = ["check_prompt", "choose_prompts", "image_seed"]

PLACEHOLDERS = ("label", "env")


def check_prompt(text: str) -> str:
    """`text` if it is a prompt: not empty, and no placeholder in it but ``{label}`` and ``{env}``.

    Raises
    ------
    ValueError
        Otherwise, for pydantic to report.
    """
    if not text.strip():
        raise ValueError("a prompt is empty")
    try:
        fields = [
            (name, style, way) for _, name, style, way in string.Formatter().parse(text) if name is not None
        ]
    except ValueError as error:
        raise ValueError(f"{error}; write {{{{ and }}}} for braces in {text!r}") from error
    for name, style, way in fields:
        if name not in PLACEHOLDERS or style or way:
            raise ValueError(f"unknown placeholder {{{name}}} in {text!r}, expected {{label}} or {{env}}")
    return text


def choose_prompts(
    prompts: Mapping[str, Sequence[str]], env_names: Mapping[int, str]
) -> dict[int, tuple[str, ...]]:
    """The prompts of every environment that has some.

    Raises
    ------
    ConfigError
        If a name in `prompts` is no environment, or none of the environments has a prompt.
    """
    for name in prompts:
        if name not in env_names.values():
            raise ConfigError(
                "prompts for an unknown environment",
                got=repr(name),
                expected=suggest(name, tuple(env_names.values())),
            )
    found = {env: tuple(prompts[name]) for env, name in env_names.items() if name in prompts}
    if not found:
        raise ConfigError(
            "no environment has a prompt",
            got="no option 'prompts'" if not prompts else "prompts for other environments",
            expected=f"one or more for some of {', '.join(sorted(env_names.values()))}",
            remedy=f"write prompts: {{{min(env_names.values())}: 'a photo of a {{label}} ...'}}",
        )
    return found


def image_seed(*parts: object) -> int:
    """A seed of 52 bits, which every format of tables holds, that depends on all `parts` and nothing else.

    Examples
    --------
    >>> image_seed(0, "item-1") == image_seed(0, "item-1") != image_seed(0, "item-2")
    True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 12
