"""Where a run begins: new configurations, and the changes that a command line makes to one."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from cfpairs.config import Config, PairConfig, anchor, parse_config, parse_options
from cfpairs.datasets.files import notes_of
from cfpairs.errors import ConfigError, DataError
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, SPLITS, write_bytes
from cfpairs.workflow.context import CONFIG_NAME, Context
from cfpairs.workflow.manifest import group_table, group_warnings, open_dataset
from cfpairs.workflow.settings import merged, parse_settings

__all__ = ["DataScan", "change", "demo_config", "pair_config", "scan_data", "starting_config"]

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
    preset: str,
    root: Path,
    out: Path,
    workspace: Path | None,
    seed: int | None,
    settings: Sequence[str] = (),
) -> tuple[Config, str]:
    """A new configuration and its text.

    What suits the data that are found goes over the values that every configuration starts with, and
    `settings` go over both.

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
    settings : sequence of str
        ``KEY=VALUE`` each, the key dotted and the value YAML. A key that is a setting of the data set, or
        neither dotted nor a section of the configuration, stands for ``data.options.KEY``.

    Raises
    ------
    ConfigError
        If a setting is wrong; this is found before the data are looked at.
    DataError
        If `root` holds no such data set.
    """
    kind = resolve("datasets", preset)
    folder = Path(os.path.abspath(out)).parent
    values: dict[str, Any] = {
        "workspace": _shown_path(workspace or folder / "cfpairs-work", folder),
        "seed": seed or 0,
        "data": {"preset": preset, "root": _shown_path(root, folder)},
        "pairs": [{"method": m, "pairs": PAIR_COUNT} for m in ("edit", "nearest", "random")],
        "encoder": {"spec": "lite"},
        "probe": {"methods": ["erm", "ncm"], "r": "auto"},
    }
    given = _given(settings, kind)
    parse_config(merged(values, given))
    found = _starting(kind, given.get("data", {}).get("options", {}), Path(os.path.abspath(root)))
    values = merged(merged(values, found), given)
    config = parse_config(values)
    parse_options(kind.Options, config.data.options, "data.options")
    text = HEADER.format(preset=preset, name=out.name) + "\n" + yaml.safe_dump(values, sort_keys=False)
    return anchor(config, folder), text


def _given(settings: Sequence[str], kind: Any) -> dict[str, Any]:
    own = set(kind.Options.model_fields)
    top = set(Config.model_fields) - own
    sections = [s for s in settings if s.partition("=")[0].strip() in top]
    others = parse_settings([s for s in settings if s not in sections], own, ("data", "options"))
    given = merged(parse_settings(sections), others)
    data = given.get("data", {})
    if not isinstance(data, dict) or not isinstance(data.get("options", {}), dict):
        raise ConfigError("'data' and 'data.options' are sections", remedy="set what is in them one by one")
    for key in ("preset", "root"):
        if key in data:
            raise ConfigError(f"data.{key} cannot be set", remedy="it is given by 'init PRESET --root DIR'")
    return given


def _starting(kind: Any, options: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """What the data set itself suggests, as plain values that YAML can hold."""
    dataset = kind(parse_options(kind.Options, options, "data.options"))
    try:
        found = dataset.starting(root)
    except OSError as error:
        raise DataError(
            f"the folder of the data set cannot be read: {root}", got=error.strerror or str(error)
        ) from error
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


@dataclass(frozen=True)
class DataScan:
    """What ``cfpairs init`` tells of a data set.

    Attributes
    ----------
    groups : list of dict
        Rows ``split, label, label_name, env, env_name, n``.
    warnings : list of str
        Lines about groups that are empty or tiny.
    counts : dict of str to int
        Items of every split.
    width, height : tuple of int or None
        Smallest, median and largest of the images, in pixels; None if the items have no images.
    """

    groups: list[dict[str, Any]]
    warnings: list[str]
    counts: dict[str, int]
    width: tuple[int, int, int] | None
    height: tuple[int, int, int] | None

    @property
    def line(self) -> str:
        """The counts and sizes in words."""
        splits = ", ".join(f"{n:,} {split}" for split, n in self.counts.items())
        line = f"{sum(self.counts.values()):,} items: {splits}"
        if self.width is None or self.height is None:
            return f"{line}; no images"
        if self.width[0] == self.width[2] and self.height[0] == self.height[2]:
            return f"{line}; images {self.width[0]} x {self.height[0]}"
        width, height = ("-".join(map(str, dict.fromkeys(side))) for side in (self.width, self.height))
        return f"{line}; images {width} wide, {height} high (min-median-max)"

    def to_dict(self) -> dict[str, Any]:
        """The same for programs."""
        return asdict(self)


def scan_data(context: Context) -> DataScan:
    """Sizes of the groups of a data set and lines about those that are empty or tiny.

    Makes the files of a preset that draws its own images; what is made from a read-only root goes into
    the workspace.

    Raises
    ------
    DataError
        If the data set has no item.
    """
    dataset = open_dataset(context)
    dataset.prepare(context.data_root, context.workspace, context.config.seed, context.progress)
    table = MANIFEST.validate(dataset.manifest(context.data_root, context.workspace, context.config.seed))
    if not len(table):
        raise DataError("the data set has no item", got=str(context.data_root), remedy="check --root")
    splits = Counter(table["split"].to_pylist())
    return DataScan(
        group_table(table),
        [*notes_of(table), *group_warnings(table)],
        {split: splits[split] for split in SPLITS if splits[split]},
        _range(table["width"].to_pylist()),
        _range(table["height"].to_pylist()),
    )


def _range(sizes: Sequence[int]) -> tuple[int, int, int] | None:
    known = sorted(size for size in sizes if size > 0)
    return (known[0], known[len(known) // 2], known[-1]) if known else None


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
    config: Config,
    method: str | None,
    name: str | None,
    pairs: int | None,
    from_: Path | None,
    settings: Sequence[str] = (),
) -> PairConfig:
    """The pair set that a command line asks for, with what the configuration says of it.

    A file of pairs is taken whole: only the command line's `pairs` limits it, or the option ``limit``.

    Parameters
    ----------
    settings : sequence of str
        Options of the builder, ``KEY=VALUE`` each.

    Raises
    ------
    ConfigError
        If only a name is given and the configuration has no such pair set, or a setting is wrong.
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
    given = parse_settings(settings)
    if pairs is not None:
        changes["pairs"] = pairs
        if found.method == "import":
            given = {"limit": pairs} | given
    if from_ is not None:
        changes["from_"] = Path(os.path.abspath(from_))
    if given:
        changes["options"] = merged(found.options, given)
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
