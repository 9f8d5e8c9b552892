"""What ``cfpairs init`` and ``cfpairs build`` say."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from fakes import draw, png
from typer.testing import CliRunner, Result

from cfpairs.cli import app
from cfpairs.errors import CfpairsError

SMALL = ("train=80", "val=8", "test=8", "size=48")


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "80"})


def done(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def fault(*args: object) -> CfpairsError:
    error = run(*args).exception
    assert isinstance(error, CfpairsError), error
    assert "\n" not in str(error)
    return error


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder with a configuration, and what `init` said."""
    folder = tmp_path_factory.mktemp("project")
    settings = [part for setting in SMALL for part in ("--set", setting)]
    said = done(
        "init", "digits", "--root", folder / "d", "--out", folder / "c.yaml", "--set", "seed=3", *settings
    )
    return folder, said


@pytest.fixture
def at(project: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project[0])
    return project[0]


def items(folder: Path) -> dict[tuple[int, int], list[str]]:
    """Training items of every group."""
    found: dict[tuple[int, int], list[str]] = {}
    for row in pq.read_table(folder / "cfpairs-work" / "manifest.parquet").to_pylist():
        if row["split"] == "train" and row.get("pair_set") is None:
            found.setdefault((row["label"], row["env"]), []).append(row["item_id"])
    return found


def test_every_command_is_told_in_a_whole_line() -> None:
    lines = done("--help").partition("Commands:")[2].split("\n")
    told = [line.strip() for line in lines if line.strip()]
    assert len(told) == len(app.registered_commands)
    assert all(line.endswith(".") and not line.endswith("...") for line in told)


def test_init_shows_groups_counts_and_sizes(project: tuple[Path, str]) -> None:
    folder, said = project
    assert "│ 0-4   │ grass       │    39 │   2 │    2 │" in said
    assert "96 items: 80 train, 8 val, 8 test; images 48 x 48\n" in said
    assert "note: train: fewer than 10 items of 0-4 in stone (1), 5-9 in grass (1)" in said
    text = (folder / "c.yaml").read_text()
    assert "seed: 3" in text and "train: 80" in text and str(folder) not in text


def test_init_for_programs(at: Path) -> None:
    settings = [part for setting in SMALL for part in ("--set", setting)]
    found = json.loads(done("init", "digits", "--root", "d", "--out", "e.yaml", "--json", *settings))
    assert found["counts"] == {"train": 80, "val": 8, "test": 8} and found["width"] == [48, 48, 48]
    assert len(found["groups"]) == 12 and found["warnings"] and found["config"] == "e.yaml"


def test_a_wrong_setting_writes_nothing(at: Path) -> None:
    error = fault("init", "digits", "--root", "new", "--out", "n.yaml", "--set", "siez=48")
    assert "perhaps 'size'" in str(error) and error.exit_code == 2
    assert not (at / "n.yaml").exists() and not (at / "new").exists()


def test_build_shows_cells_yield_and_shortfall(at: Path) -> None:
    said = done("build", "-c", "c.yaml", "--method", "random", "--pairs", 500, "--name", "r")
    assert "│ 0-4   │ grass │ stone │ 39 │        0 │" in said
    assert "pairs r: 78 ok" in said and "yield: 78 of 78 tried (100.0 %)" in said
    assert "note: asked for 500 pairs, made 78" in said
    assert max(map(len, said.splitlines())) <= 80
    found = json.loads(
        done("build", "-c", "c.yaml", "--method", "random", "--pairs", 5, "--name", "r", "--json")
    )
    (stage,) = found["stages"]
    names = {"label", "label_name", "env_a", "env_a_name", "env_b", "env_b_name", "ok", "rejected", "dropped"}
    assert [set(cell) for cell in stage["cells"]] == [names] * 2
    assert [cell["ok"] for cell in stage["cells"]] == [3, 2] and stage["counts"] == {"ok": 5}
    assert "up to date" in done("build", "-c", "c.yaml", "--method", "random", "--pairs", 5, "--name", "r")
    assert done("build", "-c", "c.yaml", "--method", "random", "--pairs", 6, "--name", "r", "--quiet") == ""


def test_build_takes_options(at: Path) -> None:
    args = ("build", "-c", "c.yaml", "--method", "random", "--name", "once", "--pairs", 40)
    assert "pairs once: 2 ok" in done(*args, "--set", "reuse=false")
    assert "perhaps 'reuse'" in str(fault(*args, "--set", "resue=false"))
    assert "add --method" in str(fault("build", "-c", "c.yaml", "--set", "reuse=false"))


def test_import_takes_the_whole_list_and_adds_its_images(at: Path) -> None:
    done("build", "-c", "c.yaml", "--method", "random", "--pairs", 4)
    known = items(at)
    image, _ = draw(0, 1, 30, np.random.default_rng(0))
    (at / "d" / "mine.png").write_bytes(png(image))
    pairs = [(a, b) for y in (0, 1) for a in known[y, 0] for b in known[y, 1]]
    lines = ["a,b,env_b", *(f"{a},{b}," for a, b in pairs), f"{known[0, 0][0]},mine.png,stone", "no,such,"]
    (at / "pairs.csv").write_text("\n".join(lines))
    said = done("build", "-c", "c.yaml", "--method", "import", "--from", "pairs.csv")
    assert "pairs import: 79 ok, 1 rejected" in said and "yield: 79 of 80 tried (98.8 %)" in said
    assert "note: rejected 1, such as line 81: no such item or file: a is 'no'" in said
    manifest = pq.read_table(at / "cfpairs-work" / "manifest.parquet").to_pylist()
    (new,) = [row for row in manifest if row["pair_set"] == "import"]
    assert (at / "d" / "mine.png").samefile(at / "cfpairs-work" / new["path"])
    assert pq.read_table(at / "cfpairs-work" / "pairs" / "import" / "pairs.parquet").num_rows == 80
    assert "up to date" in done("build", "-c", "c.yaml", "--method", "import", "--from", "pairs.csv")
    cut = done("build", "-c", "c.yaml", "--method", "import", "--from", "pairs.csv", "--pairs", 6)
    assert "pairs import: 6 ok, 73 dropped, 1 rejected" in cut
    manifest = pq.read_table(at / "cfpairs-work" / "manifest.parquet").to_pylist()
    assert [row["item_id"] for row in manifest if row["pair_set"] == "import"] in ([], [new["item_id"]])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "needs a file of pairs; name it with --from FILE"),
        (("--from", "none.csv"), "none.csv: got No such file"),
        (("--from", "list.xlsx"), "expected one of .csv, .tsv, .parquet"),
        (("--from", "c.yaml"), "expected one of .csv, .tsv, .parquet"),
        (("--from", "other.csv"), "--set a=left --set b=right"),
        (("--from", "other.csv", "--set", "a=left", "--set", "b=right"), "1 rows; 1, such as line 2"),
        (("--from", "other.csv", "--set", "c=left"), "unknown key 'c'"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(at: Path, args: tuple[Any, ...], words: str) -> None:
    (at / "list.xlsx").write_text("x")
    (at / "other.csv").write_text("left,right\nx,y\n")
    assert words in str(fault("build", "-c", "c.yaml", "--method", "import", "--name", "bad", *args))
    assert not (at / "cfpairs-work" / "pairs" / "bad" / "pairs.parquet").exists()


def complete(words: str, place: int) -> list[str]:
    """What a shell would offer for the word at `place`."""
    env = {"_CFPAIRS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(place)}
    return CliRunner().invoke(app, [], env=env, prog_name="cfpairs").stdout.split()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_options(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    script = CliRunner().invoke(app, ["--show-completion"], prog_name="cfpairs").stdout
    assert f"_CFPAIRS_COMPLETE=complete_{shell}" in script
    assert complete("cfpairs re", 1) == ["report", "review"]
    assert complete("cfpairs review --p", 2) == ["--pair-set", "--port"]


def test_versions_that_matter_without_loading_anything() -> None:
    code = "import sys; sys.argv = ['cfpairs', '--version']\nfrom cfpairs.cli import main\ntry: main()\n"
    code += "finally: assert not {'numpy', 'torch', 'pyarrow', 'rich.table'} & set(sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    versions = dict(line.split() for line in found.stdout.splitlines())
    assert list(versions)[:2] == ["cfpairs", "python"]
    for name in ("cfpairs", "torch", "numpy", "scikit-learn", "faiss-cpu"):
        assert versions[name] == version(name)
