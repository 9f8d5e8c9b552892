"""Commands that are stopped, moved, given bad files, or asked for help: real processes, real encoder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pyarrow.parquet as pq
import pytest
from e2e_runs import SMALL, parts_of, run, write_config

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the images of a small data set."""
    folder = tmp_path_factory.mktemp("images")
    options = [f"--set={key}={value}" for key, value in SMALL.items()]
    run("init", "digits", "--root", "digits", *options, cwd=folder)
    return folder


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


def test_no_configuration_at_all(tmp_path):
    assert "cfpairs init digits" in run("run", cwd=tmp_path, check=2).stderr


def test_unreadable_configuration(tmp_path):
    (tmp_path / "cfpairs.yaml").write_text("sede: 1")
    assert "perhaps 'seed'" in run("run", cwd=tmp_path, check=2).stderr


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


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_ctrl_c_says_what_is_written_and_how_to_go_on(project, tmp_path):
    # The slow runtime: the rest takes ten seconds, so that Ctrl-C comes in time on a busy machine too.
    write_config(tmp_path, encoder={"part_rows": 16, "batch_size": 16, "runtime": "torch"})
    (tmp_path / "digits").symlink_to(project / "digits")
    process = subprocess.Popen(
        [sys.executable, "-m", "cfpairs", "embed"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not parts_of(tmp_path / "work") and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    written, stopped = error.strip().splitlines()
    assert written.endswith(" of 336 items are written")
    assert stopped == "stopped; what was finished is kept, the same command goes on from there"


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
