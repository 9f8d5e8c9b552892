"""New configurations, and what a command line makes of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import yaml
from fakes import fake_manifest
from pydantic import BaseModel

from cfpairs.config import Config, Strict, parse_config, read_config
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, make_table
from cfpairs.workflow import manifest as manifest_module
from cfpairs.workflow import start
from cfpairs.workflow.context import Context
from cfpairs.workflow.manifest import group_warnings
from cfpairs.workflow.start import pair_config, scan_data, starting_config
from cfpairs.workspace import Workspace


class BarsOptions(Strict):
    """Settings of `Bars`; a first configuration needs `column`."""

    column: str
    tiny: bool = False
    seed: int = 7


class Bars:
    """Bars, found only with the right column."""

    Options: ClassVar[type[BaseModel]] = BarsOptions
    version: ClassVar[int] = 1
    licence: ClassVar[str] = "CC0"
    asked: ClassVar[list[Path]] = []

    def __init__(self, options: BarsOptions) -> None:
        self.options = options

    def starting(self, root: Path) -> Mapping[str, Any]:
        self.asked.append(root)
        if not root.is_dir():
            raise DataError("no bars", got=f"no folder {root}", expected="bars")
        list(root.iterdir())
        return {
            "data": {"options": {"column": self.options.column.upper(), "tiny": True}},
            "pairs": ({"method": "random", "pairs": 7, "from": Path("p.csv")},),
            "probe": {"folds": 3},
        }

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        pass

    def digest(self, root: Path, seed: int) -> str:
        return "0" * 16

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        if self.options.column == "NONE":
            return make_table([], MANIFEST)
        table = fake_manifest(workspace, {("train", 0, 0): 3, ("test", 0, 1): 1, ("test", 1, 1): 12}, size=8)
        widths = pa.array(range(table.num_rows), pa.int32())
        return table.set_column(table.column_names.index("width"), MANIFEST.fields[9], widths)


@pytest.fixture(autouse=True)
def _bars(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(kind: str, name: str) -> Any:
        return Bars if name == "bars" else known(kind, name)

    known = start.resolve
    monkeypatch.setattr(start, "resolve", resolve)
    monkeypatch.setattr(manifest_module, "resolve", resolve)
    monkeypatch.setattr(Bars, "asked", [])


def starting(
    tmp_path: Path, *settings: str, preset: str = "bars", root: str = ""
) -> tuple[Config, dict[str, Any]]:
    config, text = starting_config(preset, tmp_path / root, tmp_path / "c.yaml", None, None, settings)
    (tmp_path / "c.yaml").write_text(text)
    assert read_config(tmp_path / "c.yaml") == config
    return config, yaml.safe_load(text)


def test_the_data_and_then_the_command_line_go_over_the_usual_values(tmp_path: Path) -> None:
    config, values = starting(tmp_path, "column=x", "probe.r=4,8", "data.options.tiny=false")
    assert values["data"]["options"] == {"column": "x", "tiny": False}
    assert values["pairs"] == [{"method": "random", "pairs": 7, "from": "p.csv"}]
    assert values["probe"] == {"methods": ["erm", "ncm"], "r": "4,8", "folds": 3}
    assert config.pairs[0].from_ == tmp_path / "p.csv" and config.workspace == tmp_path / "cfpairs-work"
    assert Bars.asked == [tmp_path]


def test_a_key_of_the_configuration_needs_no_dot_unless_the_data_set_has_it(tmp_path: Path) -> None:
    config, values = starting(tmp_path, "column=x", "seed=5", "workspace=w", "pairs=[{method: nearest}]")
    assert config.seed == 0 and values["data"]["options"] == {"column": "x", "tiny": True, "seed": 5}
    assert config.workspace == tmp_path / "w" and [p.method for p in config.pairs] == ["nearest"]
    assert starting(tmp_path, "seed=5", preset="digits")[0].seed == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "data.options: column: Field required"),
        (("column=3",), "data.options: column"),
        (("colum=x",), "data.options: "),
        (("column=x", "tyni=1"), "unknown key 'tyni', expected perhaps 'tiny'"),
        (("column=x", "prob.r=1"), "unknown key 'prob', expected perhaps 'probe'"),
        (("column=x", "probe.r=x"), "r cannot be read"),
        (("column=x", "data.root=y"), "data.root cannot be set; it is given by"),
        (("column=x", "data.preset=y"), "data.preset cannot be set"),
        (("data=x",), "are sections"),
        (("data.options=x",), "are sections"),
        (("column",), "KEY=VALUE"),
    ],
)
def test_wrong_settings_are_found_before_the_data_are_looked_at(
    tmp_path: Path, settings: tuple[str, ...], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        starting(tmp_path, *settings)
    assert Bars.asked == []


def test_a_root_that_is_not_there_or_is_no_folder_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no bars: got no folder"):
        starting(tmp_path, "column=x", root="none")
    monkeypatch.setattr(Bars, "starting", lambda self, root: list(root.iterdir()))
    with pytest.raises(DataError, match=r"cannot be read: .*/none: got No such file"):
        starting(tmp_path, "column=x", root="none")


@pytest.mark.parametrize("preset", ["waterbirds", "folders", "colored-mnist", "table"])
def test_every_preset_says_in_one_line_that_its_root_is_missing(tmp_path: Path, preset: str) -> None:
    with pytest.raises(CfpairsError, match="none") as caught:
        starting(tmp_path, preset=preset, root="none")
    assert "\n" not in str(caught.value)


def test_a_scan_tells_counts_sizes_and_groups(tmp_path: Path) -> None:
    scan = scan_data(Context(starting(tmp_path, "column=x")[0]))
    assert scan.counts == {"train": 3, "test": 13}
    assert (scan.width, scan.height) == ((1, 8, 15), (8, 8, 8))
    assert scan.line == "16 items: 3 train, 13 test; images 1-8-15 wide, 8 high (min-median-max)"
    assert scan.to_dict()["groups"] == scan.groups and len(scan.groups) == 8
    with pytest.raises(DataError, match="has no item"):
        scan_data(Context(starting(tmp_path, "column=NONE")[0]))


def test_sizes_of_one_kind_and_of_none() -> None:
    same = start.DataScan([], [], {"train": 1200}, (8, 8, 8), (9, 9, 9))
    assert same.line == "1,200 items: 1,200 train; images 8 x 9"
    assert start.DataScan([], [], {"train": 1}, None, None).line == "1 items: 1 train; no images"


def test_an_environment_that_a_split_lacks_is_one_warning(tmp_path: Path) -> None:
    counts = {
        **{("train", y, e): 12 for y in (0, 1) for e in (0, 1)},
        **{("test", y, 2): 12 for y in (0, 1)},
        ("val", 0, 0): 12,
        ("val", 0, 1): 3,
        ("val", 1, 1): 12,
    }
    assert group_warnings(fake_manifest(Workspace(tmp_path), counts, size=8)) == [
        "train: no item in blue",
        "val: no item in blue",
        "val: no item of standing in green",
        "val: fewer than 10 items of lying in brown (3)",
        "test: no item in green, brown",
    ]


def test_many_warnings_are_told_in_short(tmp_path: Path) -> None:
    rows = fake_manifest(Workspace(tmp_path), {("train", 0, 0): 1}, size=8).to_pylist()
    many = [
        rows[0]
        | {"item_id": f"{y}-{e}-{n}", "label": y, "label_name": f"L{y}", "env": e, "env_name": f"E{e}"}
        for y in range(7)
        for e in range(4)
        for n in range(2)
        if (y + e) % 4
    ]
    lines = group_warnings(make_table(many, MANIFEST))
    assert len(lines) == 2 and lines[0].endswith("L4 in E0 and 2 more")
    assert lines[1].endswith("and 16 more")


PAIRS = parse_config(
    {"pairs": [{"method": "import", "from": "/p.csv", "options": {"a": "x"}}, {"method": "random"}]}
)


def test_only_the_command_line_cuts_an_import() -> None:
    whole = pair_config(PAIRS, "import", None, None, None)
    assert whole == PAIRS.pairs[0] and "limit" not in whole.options
    cut = pair_config(PAIRS, "import", None, 5, Path("/q.csv"))
    assert cut.options == {"a": "x", "limit": 5} and cut.from_ == Path("/q.csv")
    assert pair_config(PAIRS, "random", None, 5, None).options == {}
    assert pair_config(PAIRS, "random", None, 5, None).pairs == 5


def test_options_of_a_builder_from_the_command_line() -> None:
    assert pair_config(PAIRS, "import", "new", None, None, ["b=y", "a=z"]).options == {"a": "z", "b": "y"}
    assert pair_config(PAIRS, "edit", None, None, None, ["checks.embedding=false"]).options == {
        "checks": {"embedding": False}
    }
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        pair_config(PAIRS, "import", None, None, None, ["b"])
