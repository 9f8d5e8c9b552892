"""Settings on the command line, ``--set KEY=VALUE``, and how they go over those that are there."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import yaml

from cfpairs.errors import ConfigError

__all__ = ["merged", "parse_settings"]


def parse_settings(
    settings: Sequence[str], options: Collection[str] = (), prefix: Sequence[str] = ()
) -> dict[str, Any]:
    """Nested settings from texts ``KEY=VALUE``.

    Parameters
    ----------
    settings : sequence of str
        Keys are dotted, values are YAML; a later one goes over an earlier one.
    options : collection of str
        Names that belong under `prefix`; other dotted keys are taken as they stand, other plain ones belong
        there too.
    prefix : sequence of str

    Raises
    ------
    ConfigError
        If one cannot be read, or two contradict each other in what is a section.

    Examples
    --------
    >>> parse_settings(["test_env=sketch", "probe.r=[4, 8]"], ["test_env"], ["data", "options"])
    {'data': {'options': {'test_env': 'sketch'}}, 'probe': {'r': [4, 8]}}
    """
    found: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        path = [part.strip() for part in key.split(".")]
        if not equals or not all(path):
            raise ConfigError(
                "a setting cannot be read", got=repr(setting), expected="KEY=VALUE, such as probe.r=16"
            )
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            reason = getattr(error, "problem", None) or "no YAML"
            raise ConfigError(
                f"the value of setting {key!r} cannot be read", got=f"{text!r} ({reason})", expected="YAML"
            ) from error
        if len(path) == 1 or path[0] in options:
            path = [*prefix, *path]
        _put(found, path, value, setting)
    return found


def _put(found: dict[str, Any], path: Sequence[str], value: Any, setting: str) -> None:
    for part in path[:-1]:
        found = found.setdefault(part, {})
        if not isinstance(found, dict):
            raise ConfigError(
                f"setting {setting!r} contradicts another", got=f"{part!r} as a value and as a section"
            )
    found[path[-1]] = value


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`under` with the values of `over` put over it; sections are merged, lists and values replaced whole.

    Examples
    --------
    >>> merged({"a": {"x": 1, "y": [1, 2]}, "b": 3}, {"a": {"y": [5]}})
    {'a': {'x': 1, 'y': [5]}, 'b': 3}
    """
    result = dict(under)
    for key, value in over.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result
