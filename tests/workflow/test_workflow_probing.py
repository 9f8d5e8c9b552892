"""``cfpairs probe`` on a table of embeddings, good and bad."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from cfpairs.cli import app
from cfpairs.config import read_config
from cfpairs.errors import CfpairsError
from cfpairs.registry import entries
from cfpairs.tables import fingerprint
from cfpairs.workflow import Context, probing

N, DIM = 72, 5
NEED_PAIRS = {"matchdg", "ncm", "ncm-group", "ncm-soft", "ncm-whitened", "random-projection"}

Change = Callable[[dict[str, list[str]], np.ndarray], Any]


def project(folder: Path, change: Change | None = None, pairs: int = 12) -> Path:
    """A configuration over a table whose columns and vectors `change` has spoilt, built and embedded."""
    number = np.arange(N)
    label, env = number % 2, number // 2 % 2
    vectors = np.random.default_rng(0).normal(size=(N, DIM)) + 3.0 * np.outer(label, np.eye(DIM)[0])
    columns = {
        "id": [f"s{i:02d}" for i in number],
        "label": [("cat", "dog")[y] for y in label],
        "site": [f"site {e}" for e in env],
        "split": [("train", "train", "val", "test")[i // 4 % 4] for i in number],
    }
    if change is not None:
        change(columns, vectors)
    root = folder / "data"
    root.mkdir()
    lines = [",".join(columns), *map(",".join, zip(*columns.values(), strict=True))]
    (root / "cases.csv").write_text("\n".join(lines) + "\n")
    np.save(root / "embeddings.npy", vectors.astype(np.float32))
    done("init", "table", "--root", root, "--out", folder / "c.yaml")
    values = yaml.safe_load((folder / "c.yaml").read_text())
    values |= {
        "workspace": str(folder / "work"),
        "pairs": [{"method": "random", "pairs": pairs}],
        "probe": {"r": [1], "C": [0.1], "budget": 1, "seeds": [0], "folds": 2, "selection": ["worst-group"]},
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(values))
    return folder / "c.yaml"


def run(*args: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in args], env={"COLUMNS": "80"})


def done(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def fault(*args: object) -> str:
    error = run(*args).exception
    assert isinstance(error, CfpairsError), error
    assert "\n" not in str(error)
    return str(error)


def probed(config: Path, *args: object) -> dict[str, Any]:
    (found,) = json.loads(done("probe", "-c", config, "--json", *args))["stages"]
    return dict(found)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = project(tmp_path_factory.mktemp("ready"))
    done("build", "-c", config)
    done("embed", "-c", config)
    return config


def test_every_method_in_one_table_of_eighty_columns(ready: Path) -> None:
    text = done("probe", "-c", ready, "--method", "all")
    table = text[text.index("settings chosen by") :]
    assert max(map(len, table.splitlines())) <= 80
    assert {line.split()[0] for line in table.splitlines() if line.split()} >= set(entries("probes")) - {
        "oracle"
    }


def test_a_rank_over_that_of_the_pairs(ready: Path) -> None:
    assert "r is over the rank of pair set 'random': got r = 9, expected at most 5" in fault(
        "probe", "-c", ready, "--r", 9
    )


def test_a_run_that_an_earlier_version_made_is_stale(ready: Path) -> None:
    probed(ready)
    context = Context(read_config(ready))
    assert probing.probe_state(context) == ("done", "")
    spec = probing.run_spec(context, ["random"])
    now = context.workspace.probe_run(str(json.loads(context.workspace.latest_probe.read_text())["run_id"]))
    for version in range(1, 4):
        run_id = fingerprint("probe", version, spec)
        shutil.copytree(now, context.workspace.probe_run(run_id))
        context.workspace.latest_probe.write_text(json.dumps({"run_id": run_id}))
        assert probing.probe_state(context) == ("stale", "it was made by another version")
    probed(ready)
    assert probing.probe_state(context) == ("done", "")


def test_without_pairs_all_are_those_that_need_none(tmp_path: Path) -> None:
    config = project(tmp_path)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"pairs": []}))
    done("build", "-c", config)
    done("embed", "-c", config)
    found = probed(config, "--method", "all")
    assert {row["method"] for row in found["results"]} == set(entries("probes")) - NEED_PAIRS - {"oracle"}
    assert any("there is no pair set" in note and "ncm-soft" in note for note in found["notes"])
    assert "ncm needs a pair set: got none; run 'cfpairs build' first" in fault(
        "probe", "-c", config, "--method", "ncm"
    )


def one_class(columns: dict[str, list[str]], vectors: np.ndarray) -> None:
    columns["label"] = [
        "cat" if split == "train" else name
        for name, split in zip(columns["label"], columns["split"], strict=True)
    ]


def one_site(columns: dict[str, list[str]], vectors: np.ndarray) -> None:
    columns["site"] = ["site 0"] * N


def test_one_class_in_train(tmp_path: Path) -> None:
    config = project(tmp_path, one_class)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"pairs": []}))
    done("build", "-c", config)
    done("embed", "-c", config)
    assert "one class" in fault("probe", "-c", config, "--method", "erm")


def test_one_environment(tmp_path: Path) -> None:
    config = project(tmp_path, one_site)
    values = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(values | {"pairs": []}))
    done("build", "-c", config)
    done("embed", "-c", config)
    found = probed(config, "--method", "irm", "--method", "erm")
    assert {row["method"] for row in found["results"]} == {"erm"}
    assert "irm was left out: train has one environment only" in found["notes"]


def test_vectors_that_are_not_finite(tmp_path: Path) -> None:
    def spoil(columns: dict[str, list[str]], vectors: np.ndarray) -> None:
        vectors[4] = np.nan

    config = project(tmp_path, spoil)
    result = run("embed", "-c", config) if run("build", "-c", config).exit_code == 0 else None
    text = str(result.exception) if result is not None and result.exit_code else ""
    if not text:
        text = fault("probe", "-c", config, "--method", "erm")
    assert "finite" in text or "NaN" in text
