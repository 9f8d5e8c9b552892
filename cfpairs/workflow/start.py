"""Where a run begins: new configurations, and the changes that a command line makes to one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from cfpairs.config import Config, PairConfig, parse_config, parse_options
from cfpairs.errors import ConfigError
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, write_bytes
from cfpairs.workflow.context import CONFIG_NAME, Context
from cfpairs.workflow.manifest import group_table, group_warnings, open_dataset

__all__ = ["change", "demo_config", "pair_config", "scan_data", "starting_config"]

PAIR_COUNT = 240

HEADER = """\
# cfpairs configuration: {preset}
# Run every stage that is missing or stale:   cfpairs run -c {name}
# One stage at a time:                        cfpairs build|embed|probe|report -c {name}
# The whole configuration with its defaults:  cfpairs run -c {name} --print-config
"""


def _shown_path(path: Path, folder: Path) -> str:
    """`path` as a configuration in `folder` names it: relative where it lies inside."""
    absolute = Path(os.path.abspath(path))
    try:
        return absolute.relative_to(folder).as_posix()
    except ValueError:
        return str(absolute)


def starting_config(
    preset: str, root: Path, out: Path, workspace: Path | None, seed: int | None
) -> tuple[Config, str]:
    """A new configuration and its text.

    Parameters
    ----------
    preset : str
        Name of a data set.
    root : Path
        Its folder.
    out : Path
        Where the configuration will lie; paths in the text are relative to its folder where they can be.
    workspace : Path, optional
        Default: ``cfpairs-work`` beside the configuration.
    seed : int, optional
    """
    resolve("datasets", preset)
    folder = Path(os.path.abspath(out)).parent
    values: dict[str, Any] = {
        "workspace": _shown_path(workspace or folder / "cfpairs-work", folder),
        "seed": seed or 0,
        "data": {"preset": preset, "root": _shown_path(root, folder)},
        "pairs": [{"method": m, "pairs": PAIR_COUNT} for m in ("edit", "nearest", "random")],
        "encoder": {"spec": "lite"},
        "probe": {"methods": ["erm", "ncm"], "r": "auto"},
    }
    text = HEADER.format(preset=preset, name=out.name) + "\n" + yaml.safe_dump(values, sort_keys=False)
    config = parse_config(values)
    absolute = {
        "workspace": folder / config.workspace,
        "data": config.data.model_copy(update={"root": folder / str(values["data"]["root"])}),
    }
    return config.model_copy(update=absolute), text


def scan_data(context: Context) -> tuple[list[dict[str, Any]], list[str]]:
    """Sizes of the groups of a data set and lines about those that are empty or tiny.

    Makes the files of a preset that draws its own images; what is made from a read-only root goes into
    the workspace.
    """
    dataset = open_dataset(context)
    dataset.prepare(context.data_root, context.workspace, context.config.seed, context.progress)
    table = MANIFEST.validate(dataset.manifest(context.data_root, context.workspace, context.config.seed))
    return group_table(table), group_warnings(table)


def demo_config(out: Path, seed: int | None) -> Path:
    """Write the configuration of the demo into its folder, which is its workspace too.

    A demo that is there already is kept and gone on with; another seed writes the configuration anew.
    """
    path = Path(os.path.abspath(out)) / CONFIG_NAME
    _, text = starting_config("digits", path.parent / "data", path, path.parent, seed)
    values = yaml.safe_load(text)
    values["report"] = {"title": "cfpairs demo: handwritten digits on photographs"}
    header = text[: text.index("\nworkspace:") + 1]
    content = (header + yaml.safe_dump(values, sort_keys=False)).encode()
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)
    return path


def pair_config(
    config: Config, method: str | None, name: str | None, pairs: int | None, from_: Path | None
) -> PairConfig:
    """The pair set that a command line asks for, with what the configuration says of it.

    Raises
    ------
    ConfigError
        If only a name is given and the configuration has no such pair set.
    """
    known = {p.set_name: p for p in config.pairs}
    found = known.get(name or method or "")
    if found is None and method is None:
        raise ConfigError(f"the configuration has no pair set {name!r}", remedy="add --method")
    if found is not None and method is not None and found.method != method:
        found = None
    if found is None:
        same = next((p for p in config.pairs if p.method == method), None)
        found = PairConfig(method=str(method), name=name)
        if same is not None:
            found = same.model_copy(update={"name": name})
    resolve("pairs", found.method)
    changes: dict[str, Any] = {}
    if pairs is not None:
        changes["pairs"] = pairs
    if from_ is not None:
        changes["from_"] = from_.absolute()
    values = found.model_copy(update=changes).model_dump(by_alias=True)
    return parse_options(PairConfig, values, "build")


def change(config: Config, section: str, **values: Any) -> Config:
    """The configuration with some values of one section replaced; None leaves a value as it is.

    Raises
    ------
    ConfigError
        If a value is not allowed.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if not given:
        return config
    old = getattr(config, section)
    new = parse_options(type(old), old.model_dump() | given, section)
    return config.model_copy(update={section: new})
