"""What ``--json`` prints is what the documentation says, key by key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from review_runs import project
from typer.testing import CliRunner

from cfpairs import cli
from cfpairs.encoders.findings import Measurement
from cfpairs.review import server
from cfpairs.workflow.doctor import EncoderReport, Finding

DOCUMENT = Path(__file__).parent.parent / "docs" / "json.md"


def documented() -> dict[str, dict[str, dict[str, bool]]]:
    """For each command and each place in its answer: every key, and whether it is always there."""
    found: dict[str, dict[str, dict[str, bool]]] = {}
    command = ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            command = line[3:].strip()
            found[command] = {}
        row = re.fullmatch(r"\| `([^`]+)` \| (.+) \|", line)
        if row:
            keys = re.findall(r"`([^`]+)`(\?)?", row[2])
            found[command][row[1]] = {key: not may_lack for key, may_lack in keys}
    return found


def places(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object within `value`, and where it is."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from places(inner, f"{path}.{key}" if path != "answer" else key)
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, f"{path}[]")


def check(command: str, answer: Any) -> None:
    wanted, seen = documented()[command], {}
    for path, found in places(answer, "answer"):
        if path not in wanted:
            outer = [p for p in wanted if path.startswith((f"{p}.", f"{p}["))]
            free = [p for p in outer if wanted[p] == {"…": True}]
            assert free, f"{command}: {path} with {sorted(found)} is not documented"
            continue
        keys = wanted[path]
        seen[path] = seen.get(path, set()) | set(found)
        if keys == {"…": True}:
            continue
        always = {key for key, needed in keys.items() if needed}
        assert always <= set(found) <= set(keys), f"{command}: {path}: {set(found) ^ set(keys)}"
    assert "answer" in seen


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
    check("run", answer(root, "run"))
    check("status", answer(root, "status"))
    check("review", answer(root, "review", "--no-open"))
    check("list", answer(root, "list"))
    out = str(tmp_path / "c.yaml")
    check("init", answer(root, "init", "table", "--root", "data", "--out", out))


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
