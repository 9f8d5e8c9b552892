"""The real commands, as processes, on real images with the real encoder."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import yaml
from e2e_runs import holding_the_lock, run, write_config

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder in which `cfpairs run` has run."""
    folder = tmp_path_factory.mktemp("project")
    write_config(folder)
    done = run("run", cwd=folder)
    assert "report.html" in done.stdout
    return folder


def test_run_makes_every_file_of_the_contract(project):
    work = project / "work"
    manifest = pq.read_table(work / "manifest.parquet")
    assert manifest.num_rows == 240 + 16 + 80 + 40 + 40  # items of three splits, edits, control items
    assert set(manifest["origin"].to_pylist()) == {"source", "edit", "control"}
    for name in ("edit", "nearest", "random"):
        pairs = pq.read_table(work / "pairs" / name / "pairs.parquet")
        known = set(manifest["item_id"].to_pylist())
        assert set(pairs["a_id"].to_pylist()) | set(pairs["b_id"].to_pylist()) <= known
        assert (work / "pairs" / name / "card.md").read_text().startswith("#")
    (embeddings,) = (work / "embeddings").iterdir()
    parts = [pq.read_table(p) for p in sorted(embeddings.glob("part-*.parquet"))]
    assert sorted(i for p in parts for i in p["item_id"].to_pylist()) == sorted(known)
    run_id = json.loads((work / "probes" / "latest.json").read_text())["run_id"]
    assert {p.name for p in (work / "probes" / run_id).iterdir()} >= {
        "spec.json",
        "results.parquet",
        "predictions.parquet",
        "coefficients.safetensors",
    }


def test_the_report_holds_the_contract(project):
    found = json.loads((project / "work" / "report.json").read_text())
    assert {"schema_version", "verdict", "pair_sets", "results", "groups", "data", "provenance"} <= set(found)
    assert found["verdict"]["level"] in {"good", "usable", "needs_pairs", "fix_pairs", "changes_label"}
    assert set(found["pair_sets"]) == {"edit", "nearest", "random"}
    assert found["pair_sets"]["edit"]["n_pairs"] == 40
    columns = {
        "pair_set", "method", "r", "selection", "seed", "worst_group", "worst_group_low", "worst_group_high",
        "average", "adjusted", "flip_rate", "n_pairs", "seconds", "params",
    }  # fmt: skip
    for row in found["results"]:
        assert columns <= set(row)
        assert row["worst_group_low"] <= row["worst_group"] <= row["worst_group_high"]
        assert row["worst_group"] <= row["average"]
    html = (project / "work" / "report.html").read_text()
    assert html.startswith("<!DOCTYPE html>") or html.startswith("<!doctype html>")
    assert html.count("<script") == 1 and "<script src" not in html


def test_stored_weights_are_blind_to_the_pairs(project):
    work = project / "work"
    run_id = json.loads((work / "probes" / "latest.json").read_text())["run_id"]
    tensors = safetensors.numpy.load_file(work / "probes" / run_id / "coefficients.safetensors")
    from cfpairs import difference_matrix, read_embeddings
    from cfpairs.config import PreprocessConfig
    from cfpairs.preprocessing import Preprocessor

    (folder,) = (work / "embeddings").iterdir()
    embeddings = Preprocessor(PreprocessConfig()).transform_embeddings(read_embeddings(folder))
    D = difference_matrix(pq.read_table(work / "pairs" / "edit" / "pairs.parquet"), embeddings)
    Q = np.linalg.svd(D, full_matrices=False)[2][:1].T
    assert np.abs(tensors["edit/ncm/pairs/0/coef"] @ Q).max() < 1e-10
    assert np.abs(tensors["edit/erm/pairs/0/coef"] @ Q).max() > 1e-6


def test_a_second_run_does_nothing(project):
    before = {p: p.stat().st_mtime_ns for p in (project / "work").rglob("*.parquet")}
    done = run("run", cwd=project)
    assert done.stdout.count("up to date") >= 7
    assert before == {p: p.stat().st_mtime_ns for p in (project / "work").rglob("*.parquet")}


def test_status_tells_done_from_stale(project, tmp_path):
    states = {s["stage"]: s for s in json.loads(run("status", "--json", cwd=project).stdout)["stages"]}
    assert {s["state"] for s in states.values()} == {"done"}
    other = write_config(tmp_path, workspace=str(project / "work"), probe={"r": 2})
    values = yaml.safe_load(other.read_text())
    values["data"]["root"] = str(project / "digits")
    other.write_text(yaml.safe_dump(values))
    states = {s["stage"]: s for s in json.loads(run("status", "--json", cwd=tmp_path).stdout)["stages"]}
    assert states["probe"]["state"] == "stale" and states["pairs:edit"]["state"] == "done"
    fresh = run("status", "--json", "-w", tmp_path / "none", cwd=project)
    assert {s["state"] for s in json.loads(fresh.stdout)["stages"]} == {"missing"}


def test_commands_need_only_the_workspace(project, tmp_path):
    """build && embed && probe --r 4 && report with -w alone, from another folder."""
    work = project / "work"
    made = run("build", "--method", "edit", "--pairs", 44, "--name", "more", "-w", work, cwd=tmp_path)
    assert "pairs more: 44 ok" in made.stdout
    assert "quality of more: " in made.stdout and "run 'cfpairs embed'" not in made.stdout
    assert "up to date" in run("embed", "-w", work, cwd=tmp_path).stdout  # embedded for that line
    probe = run(
        "probe", "--r", 4, "--pair-set", "more", "--pair-set", "edit", "-w", work, "--json", cwd=tmp_path
    )
    results = json.loads(probe.stdout)["stages"][0]["results"]
    assert {r["pair_set"] for r in results} == {"more", "edit", None}
    assert {r["r"] for r in results if r["method"] == "ncm"} == {4}
    assert "report.html" in run("report", "-w", work, cwd=tmp_path).stdout
    first = pq.read_table(work / "pairs" / "edit" / "pairs.parquet").select(["a_id", "env_b"]).to_pylist()
    more = pq.read_table(work / "pairs" / "more" / "pairs.parquet").select(["a_id", "env_b"]).to_pylist()
    assert more[: len(first)] == first


def test_a_second_process_is_turned_away(project, tmp_path):
    with holding_the_lock(project / "work") as holder:
        done = run("embed", cwd=project, check=1)
        assert f"process {holder.pid}" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["status", "-c", "none.yaml"], 2, "no file none.yaml"),
        (["build", "--method", "edti"], 2, "perhaps 'edit'"),
        (["build", "--pairs", "5"], 2, "add --method"),
        (["build", "--name", "nothing"], 2, "no pair set 'nothing'"),
        (["probe", "--method", "nmc"], 2, "perhaps 'ncm'"),
        (["probe", "--pair-set", "edot"], 2, "perhaps 'edit'"),
        (["probe", "--r", "41"], 1, "r = 41, expected at most 40"),
        (["probe", "--r", "a few"], 2, "r cannot be read"),
        (["embed", "--encoder", "lit"], 2, "'lite'"),
        (["embed", "--device", "tpu"], 2, "device"),
        (["run", "-w", "/proc/none"], 1, "cannot be written"),
        (["init", "digits", "--root", "d"], 2, "exists already"),
        (["init", "digitz", "--root", "d", "--out", "new.yaml"], 2, "'digits'"),
        (["list", "nothing"], 2, "unknown kind"),
        (["run", "--seed", "-1"], 2, "0 or more"),
        (["frobnicate"], 2, "No such command"),
    ],
)
def test_bad_input_is_one_clear_line(project, args, status, message):
    done = run(*args, cwd=project, check=status)
    assert message in done.stderr
    if args[0] != "frobnicate":
        assert done.stderr.startswith("cfpairs: ") and done.stderr.count("\n") == 1


def test_init_writes_a_configuration_that_runs_and_shows_the_groups(tmp_path, project):
    done = run("init", "digits", "--root", "d", "--out", "c.yaml", "-w", "w", cwd=tmp_path)
    assert "items in every group" in done.stdout and "0-4" in done.stdout
    text = (tmp_path / "c.yaml").read_text()
    assert text.startswith("# cfpairs configuration: digits") and str(tmp_path) not in text
    printed = run("run", "-c", "c.yaml", "--print-config", cwd=tmp_path).stdout
    values = yaml.safe_load(printed)
    assert values["workspace"] == str(tmp_path / "w") and values["probe"]["r"] == "auto"
    assert not (tmp_path / "w").exists()


def test_quiet_says_nothing(project):
    assert run("run", "--quiet", cwd=project).stdout == ""
