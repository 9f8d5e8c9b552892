"""What ``--json`` prints is what the documentation says, key by key."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from documented import check as check_with
from documented import documented as places_of
from review_runs import project
from typer.testing import CliRunner

from cfpairs import cli
from cfpairs.encoders.findings import Measurement
from cfpairs.errors import ConfigError, DataError, WorkspaceError
from cfpairs.report.assess import recommended
from cfpairs.review import server
from cfpairs.tables import write_table
from cfpairs.workflow import compare, comparing
from cfpairs.workflow.doctor import EncoderReport, Finding

DOCUMENT = Path(__file__).parent.parent / "docs" / "json.md"
REPORT = DOCUMENT.parent / "report-json.md"


def documented() -> dict[str, dict[str, dict[str, bool]]]:
    return places_of(DOCUMENT)


def check(command: str, answer: Any) -> None:
    check_with(command, answer, DOCUMENT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("project")
    project(made, images=False, n=48, pairs=12)
    return made


def answer(root: Path, *args: str) -> Any:
    result = CliRunner().invoke(cli.app, [*args, "--json"])
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_every_command_prints_the_documented_keys(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(server, "serve", lambda _app, place, ready: (ready(), place.socket.close()))
    check("status", answer(root, "status"))
    check("build", answer(root, "build", "--method", "random", "--pairs", "9", "--name", "again"))
    check("build", answer(root, "build", "--method", "random", "--pairs", "9", "--name", "again"))
    check("embed", answer(root, "embed"))
    check("probe", answer(root, "probe"))
    check("report", answer(root, "report"))
    both = ("--compare", "work", "work", "--out", str(tmp_path / "both.html"))
    check("report --compare", answer(root, "report", *both))
    check_with("The comparison", json.loads((tmp_path / "both.json").read_text()), REPORT)
    check_with("The report", json.loads((root / "work" / "report.json").read_text()), REPORT)
    check("run", answer(root, "run"))
    check("status", answer(root, "status"))
    check("review", answer(root, "review", "--no-open"))
    check("list", answer(root, "list"))
    out = str(tmp_path / "c.yaml")
    check("init", answer(root, "init", "table", "--root", "data", "--out", out))


@pytest.mark.parametrize(
    ("other", "said"),
    [("nowhere", "no workspace: got nowhere"), ("unprobed", "workspace unprobed has no probe run")],
)
def test_what_cannot_be_compared_is_said_in_a_line(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "unprobed").mkdir()
    for name in ("cfpairs.yaml", "manifest.parquet"):
        kept = root / "work" / name
        (tmp_path / "unprobed" / name).write_bytes(kept.read_bytes())
    with pytest.raises(WorkspaceError, match=re.escape(said)):
        compare(Path(other), root / "work", tmp_path / "both.html")
    with pytest.raises(WorkspaceError, match=re.escape(said)):
        compare(root / "work", Path(other), tmp_path / "both.html")
    assert not (tmp_path / "both.html").exists()


@pytest.mark.parametrize("out", ["", ".", "..", "folder", "both.json", "none/.."])
def test_a_page_needs_the_name_of_a_file(out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    result = CliRunner().invoke(cli.app, ["report", "--compare", "a", "b", "--out", out])
    assert isinstance(result.exception, ConfigError)
    assert "page of the comparison cannot have this name" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--out", "page.html"], "got page.html without --compare"),
        (["--compare", "a", "b", "-c", "c.yaml"], "as they are: got -c;"),
        (["--compare", "a", "b", "-w", "w", "--seed", "0"], "as they are: got -w, --seed;"),
        (["--compare", "a", "b", "--encoder", "lite"], "as they are: got --encoder;"),
    ],
)
def test_report_takes_no_option_that_it_would_not_follow(args: list[str], said: str) -> None:
    error = CliRunner().invoke(cli.app, ["report", *args]).exception
    assert isinstance(error, ConfigError) and said in str(error)


def test_a_comparison_reads_the_predictions_of_the_best_probe_alone(root: Path, tmp_path: Path) -> None:
    answer(root, "probe", "-c", str(root / "cfpairs.yaml"), "--method", "erm", "--method", "ncm")
    found = comparing._run(root / "work", "one")
    best, _ = recommended(found.results, found.selection, found.levels)
    assert best is not None and {row["method"] for row in found.results} == {"erm", "ncm"}
    assert list(found.right) == [(best.pair_set, best.method, best.selection)]
    shares = found.right[best.pair_set, best.method, best.selection]
    assert best.worst_group == min(
        np.mean([shares[item] for item in shares if found.groups[item] == group])
        for group in {found.groups[item] for item in shares}
    )


@pytest.mark.parametrize("pair_set", [None, "edit"])
def test_shares_are_those_of_the_seeds_of_one_probe(tmp_path: Path, pair_set: str | None) -> None:
    seeds = {("a", 0): 1, ("b", 0): 0, ("a", 1): 1, ("b", 1): 1}
    mine = {"pair_set": pair_set, "method": "ncm", "selection": "pairs"}
    others = [mine | change for change in ({"method": "erm"}, {"selection": "oracle"}, {"pair_set": "other"})]
    rows = [
        kind | {"item_id": item, "label": 1, "predicted": label if kind is mine else 2}
        for kind in (mine, *others)
        for (item, _), label in seeds.items()
    ]
    write_table(tmp_path / "predictions.parquet", pa.Table.from_pylist(rows))
    best = SimpleNamespace(**mine)
    assert comparing._right(tmp_path, best) == {(pair_set, "ncm", "pairs"): {"a": 1.0, "b": 0.5}}
    assert comparing._right(tmp_path / "nowhere", best) == {}
    (tmp_path / "predictions.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        comparing._right(tmp_path, best)


def test_the_documented_keys_of_doctor() -> None:
    found = documented()
    assert list(found["doctor"]["answer"]) == ["findings"]
    assert list(found["doctor"]["findings[]"]) == [f.name for f in fields(Finding)]
    assert list(found["doctor --encoder"]["answer"]) == [f.name for f in fields(EncoderReport)]
    assert list(found["doctor --encoder"]["measurements[]"]) == [f.name for f in fields(Measurement)]
    assert set(found) >= {
        c.name or c.callback.__name__ for c in cli.app.registered_commands if c.callback
    } - {"demo"}


def test_a_key_that_is_not_documented_is_seen() -> None:
    with pytest.raises(AssertionError, match="surprise"):
        check("list", {"datasets": {}, "surprise": {}})
    with pytest.raises(AssertionError, match="findings"):
        check("doctor", {})
