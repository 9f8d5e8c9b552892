"""The real commands, as processes, on real images with the real encoder."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import yaml

pytestmark = pytest.mark.e2e

SMALL = {"size": 64, "train": 240, "val": 16, "test": 80}


def run(*args: object, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``cfpairs`` and fail with its output if the exit status is not the expected one."""
    done = subprocess.run(
        [sys.executable, "-m", "cfpairs", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


def write_config(folder: Path, **changes: object) -> Path:
    values = {
        "workspace": "work",
        "data": {"preset": "digits", "root": "digits", "options": SMALL},
        "pairs": [{"method": m, "pairs": 40} for m in ("edit", "nearest", "random")],
        "encoder": {"part_rows": 64},
        "probe": {"r": "1,4", "C": [1e-3, 1e-1], "seeds": [0, 1], "folds": 3},
    }
    path = folder / "cfpairs.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


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
    assert manifest.num_rows == 240 + 16 + 80 + 40
    assert set(manifest["origin"].to_pylist()) == {"source", "edit"}
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
    assert "<script" not in html


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
    assert "44 new" in run("embed", "-w", work, cwd=tmp_path).stdout
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


def parts_of(work: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(work.glob("embeddings/*/part-*.parquet"))}


def test_embed_killed_in_the_middle_makes_only_the_missing_parts(project, tmp_path):
    write_config(tmp_path, encoder={"part_rows": 16, "batch_size": 16})
    (tmp_path / "digits").symlink_to(project / "digits")
    whole = tmp_path / "whole"
    run("embed", "-w", whole, cwd=tmp_path)
    broken = tmp_path / "broken"
    process = subprocess.Popen(
        [sys.executable, "-m", "cfpairs", "embed", "-w", str(broken)], cwd=tmp_path, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while len(parts_of(broken)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {p: p.stat().st_mtime_ns for p in broken.glob("embeddings/*/part-*.parquet")}
    assert 3 <= len(kept) < 21
    run("embed", "-w", broken, cwd=tmp_path)
    assert kept == {p: p.stat().st_mtime_ns for p in kept}
    assert parts_of(broken) == parts_of(whole)
    assert not list(broken.rglob("*.tmp"))


def test_a_bad_image_is_set_aside(project, tmp_path):
    write_config(tmp_path, encoder={"part_rows": 512})
    (tmp_path / "digits").mkdir()
    subprocess.run(["cp", "-r", f"{project / 'digits'}/.", tmp_path / "digits"], check=True)
    victims = sorted((tmp_path / "digits" / "images").rglob("*.png"))[:2]
    victims[0].write_bytes(victims[0].read_bytes()[:100])
    victims[1].write_bytes(b"no image")
    done = run("embed", cwd=tmp_path)
    assert "2 images could not be read" in done.stdout
    (failures,) = (tmp_path / "work").glob("embeddings/*/failures.parquet")
    assert pq.read_table(failures).num_rows == 2
    run("build", "--method", "random", cwd=tmp_path)
    assert "2 items without a readable image were left out" in run("probe", cwd=tmp_path).stdout


def test_a_second_process_is_turned_away(project, tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from cfpairs.workspace import Workspace\n"
            f"with Workspace({str(project / 'work')!r}).lock():\n"
            " print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        done = run("embed", cwd=project, check=1)
        assert f"process {holder.pid}" in done.stderr and done.stderr.count("\n") == 1
    finally:
        holder.communicate("")


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


def test_no_configuration_at_all(tmp_path):
    assert "cfpairs init digits" in run("run", cwd=tmp_path, check=2).stderr


def test_unreadable_configuration(tmp_path):
    (tmp_path / "cfpairs.yaml").write_text("sede: 1")
    assert "perhaps 'seed'" in run("run", cwd=tmp_path, check=2).stderr


def test_init_writes_a_configuration_that_runs_and_shows_the_groups(tmp_path, project):
    done = run("init", "digits", "--root", "d", "--out", "c.yaml", "-w", "w", cwd=tmp_path)
    assert "items in every group" in done.stdout and "0-4" in done.stdout
    text = (tmp_path / "c.yaml").read_text()
    assert text.startswith("# cfpairs configuration: digits") and str(tmp_path) not in text
    printed = run("run", "-c", "c.yaml", "--print-config", cwd=tmp_path).stdout
    values = yaml.safe_load(printed)
    assert values["workspace"] == str(tmp_path / "w") and values["probe"]["r"] == "auto"
    assert not (tmp_path / "w").exists()


def test_help_is_quick_and_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['cfpairs', '--help']\n"
        "from cfpairs.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'pandas', 'sklearn', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    times = []
    for _ in range(3):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
        times.append(time.perf_counter() - begun)
        assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout
    assert min(times) < 0.4


def test_doctor_and_list(tmp_path):
    found = json.loads(run("doctor", "--json", cwd=tmp_path).stdout)["findings"]
    assert {f["name"] for f in found} >= {
        "python",
        "torch",
        "cuda",
        "faiss",
        "encoder lite",
        "disk",
        "memory",
    }
    assert not [f for f in found if f["level"] == "error"]
    assert "ncm" in run("list", "probes", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.startswith("cfpairs ")


def test_quiet_says_nothing(project):
    assert run("run", "--quiet", cwd=project).stdout == ""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_is_one_line(project, tmp_path):
    write_config(tmp_path, encoder={"part_rows": 16, "batch_size": 16})
    (tmp_path / "digits").symlink_to(project / "digits")
    process = subprocess.Popen(
        [sys.executable, "-m", "cfpairs", "embed"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not parts_of(tmp_path / "work") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    said = r"stopped: \d+ of 336 items are written; the same command goes on from there"
    assert re.fullmatch(said, error.strip())


def test_a_workspace_may_be_moved(project, tmp_path):
    """Paths inside a workspace are relative; what stands in it stays valid, the made images with it."""
    edit = {"method": "edit", "pairs": 20, "options": {"checks": {"embedding": False}}}
    write_config(tmp_path, data={"preset": "digits", "options": SMALL}, pairs=[edit])
    run("build", cwd=tmp_path)
    (tmp_path / "work").rename(tmp_path / "moved")
    states = json.loads(run("status", "--json", "-w", "moved", cwd=tmp_path).stdout)["stages"]
    assert {s["stage"]: s["state"] for s in states}["pairs:edit"] == "done"
    assert "pairs edit: up to date" in run("build", "-w", "moved", cwd=tmp_path).stdout
    (tmp_path / "moved" / "manifest.parquet").unlink()
    assert "pairs edit: 20 ok" in run("build", "-w", "moved", cwd=tmp_path).stdout
    manifest = pq.read_table(tmp_path / "moved" / "manifest.parquet")
    assert manifest["origin"].to_pylist().count("edit") == 20
