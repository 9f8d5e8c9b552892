"""The engine on a Ray cluster: the same bytes as the local engine, whoever is lost on the way."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from embedding_runs import BATCH, PART_ROWS, Heard, MeanEncoder, contents, list_items, run
from PIL import Image
from ray_runs import BrokenEncoder, DyingEncoder

from cfpairs.config import EncoderConfig
from cfpairs.embedding import EmbedReport, ray_engine
from cfpairs.embedding.parts import Item
from cfpairs.embedding.ray_cluster import Machine, Pool, plan_pool
from cfpairs.embedding.ray_engine import embed_items_on_ray
from cfpairs.embedding.ray_worker import TRIES, Assignment, Job, PartWorker
from cfpairs.errors import CfpairsError, ConfigError, DataError, MissingDependencyError, WorkspaceError
from cfpairs.tables import file_metadata
from cfpairs.workspace import Workspace

pytestmark = [
    pytest.mark.embed,
    # Ray warns itself of its own old settings.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
]

N_IMAGES = 18
FOLDER = MeanEncoder().info.id


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    """Eighteen sound images and a bad one, so parts of 5, 5, 5 and 4."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(N_IMAGES):
        pixels = np.random.default_rng([number, 3]).integers(0, 256, (9 + number, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "07-bad.png").write_bytes(b"this is no image")
    return list_items(folder)


@pytest.fixture(scope="module")
def local(items: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file that the local engine writes."""
    return contents(run(tmp_path_factory.mktemp("local"), items).folder)


def on_ray(root: Path, items: pa.Table, factory=MeanEncoder, **settings: object) -> EmbedReport:
    chosen = {"part_rows": PART_ROWS, "batch_size": BATCH, "cpus_per_actor": 1, **settings}
    return embed_items_on_ray(items, workspace=Workspace(root), encoder_factory=factory, **chosen)


def assignment(items: pa.Table, number: int = 0) -> Assignment:
    chosen = items.slice(number * PART_ROWS, PART_ROWS).to_pylist()
    return Assignment(number, tuple(Item(**row) for row in chosen), ())


def job(root: Path, **changes: object) -> Job:
    token = root / ".ray-token"
    root.mkdir(parents=True, exist_ok=True)
    token.write_text("seen")
    chosen = {
        "root": root,
        "token_file": token,
        "token": "seen",
        "witness": None,
        "encoder_factory": MeanEncoder,
        "metadata": MeanEncoder().info.metadata(),
        "store": "float32",
        "batch_size": BATCH,
        "workers": 2,
        "threads": 1,
        **changes,
    }
    return Job(**chosen)


def answer(job: Job, given: Assignment) -> Exception | None:
    (row,) = PartWorker(job)(given.to_table()).to_pylist()
    assert (row["number"], row["n_items"]) == (given.number, len(given.items))
    return None if row["error"] is None else pickle.loads(row["error"])


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker sets the variable in its own process; here that is the tests'."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("one_thread")
class TestWorker:
    """What an actor does, without a cluster."""

    def test_parts_in_any_order_are_those_of_the_local_engine(self, items: pa.Table, local, tmp_path: Path):
        for number in (3, 0, 2, 1):
            assert answer(job(tmp_path), assignment(items, number)) is None
        made = contents(Workspace(tmp_path).embeddings(FOLDER))
        assert made == {name: content for name, content in local.items() if name.startswith("part")}

    def test_a_part_that_is_there_is_kept_and_another_is_replaced(self, items: pa.Table, tmp_path: Path):
        given = assignment(items)
        assert answer(job(tmp_path), given) is None
        file = Workspace(tmp_path).embeddings(FOLDER) / "part-00000.parquet"
        before, content = file.stat().st_mtime_ns, file.read_bytes()
        assert answer(job(tmp_path), given) is None
        assert file.stat().st_mtime_ns == before
        file.write_bytes(content[:-9])
        assert answer(job(tmp_path), given) is None
        assert file.read_bytes() == content

    def test_a_machine_without_the_workspace_is_told(self, items: pa.Table, tmp_path: Path):
        elsewhere = job(tmp_path, token="of another run")
        error = answer(elsewhere, assignment(items))
        assert isinstance(error, WorkspaceError) and "does not see the workspace" in str(error)
        error = answer(job(tmp_path, token_file=tmp_path / "none"), assignment(items))
        assert isinstance(error, WorkspaceError) and str(tmp_path) in str(error)

    def test_a_machine_without_the_images_is_told(self, items: pa.Table, tmp_path: Path):
        error = answer(job(tmp_path, witness=tmp_path / "none.png"), assignment(items))
        assert isinstance(error, WorkspaceError) and "does not see the images" in str(error)
        assert not Workspace(tmp_path).embeddings(FOLDER).exists(), "no failure may be recorded"

    def test_a_machine_with_other_versions_is_told(self, items: pa.Table, tmp_path: Path):
        metadata = {**MeanEncoder().info.metadata(), "libraries": '{"mean": "2"}'}
        error = answer(job(tmp_path, metadata=metadata), assignment(items))
        assert isinstance(error, ConfigError) and "would embed in another way (libraries)" in str(error)

    def test_a_part_that_loses_every_worker_ends(self, items: pa.Table, tmp_path: Path):
        folder = Workspace(tmp_path).embeddings(FOLDER)
        folder.mkdir(parents=True)
        marks = [folder / f".part-00000.parquet.try-{n}.tmp" for n in range(TRIES)]
        for mark in marks[:-1]:
            mark.touch()
        assert answer(job(tmp_path), assignment(items)) is None, "one more try"
        assert [file.name for file in folder.iterdir()] == ["part-00000.parquet"]
        (folder / "part-00000.parquet").unlink()
        for mark in marks:
            mark.touch()
        error = answer(job(tmp_path), assignment(items))
        assert isinstance(error, CfpairsError) and f"part 0 has lost {TRIES} workers" in str(error)
        run(tmp_path, items)
        assert not any(mark.exists() for mark in marks), "the next run starts anew"

    def test_an_error_that_cannot_be_pickled_still_arrives(self, items: pa.Table, tmp_path: Path):
        class Odd(Exception):
            def __init__(self) -> None:
                super().__init__("odd", threading.Lock())

        class Encoder(MeanEncoder):
            def load(self) -> None:
                raise Odd

        error = answer(job(tmp_path, encoder_factory=Encoder), assignment(items))
        assert isinstance(error, RuntimeError) and "Odd: ('odd'" in str(error)


def test_without_ray_the_extra_is_named(items: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'cfpairs\[ray\]'"):
        on_ray(tmp_path, items)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://10.0.0.1:10001", "expected auto or HOST:PORT; run the command on a machine"),
        ("localhost", "got 'localhost', expected auto or HOST:PORT"),
        ("localhost:99999", "got 'localhost:99999', expected auto or HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: got Connection refused; start one"),
    ],
)
def test_an_address_without_a_cluster_is_refused_at_once(
    address: str, reason: str, items: pa.Table, tmp_path: Path
):
    with pytest.raises(ConfigError, match=reason):
        on_ray(tmp_path, items, address=address)


def test_the_settings_of_the_engine():
    assert EncoderConfig(engine="ray", ray_address="auto").ray_address == "auto"


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    """What the driver makes of the workers' answers."""

    def test_a_worker_is_killed_and_the_bytes_are_those_of_the_local_engine(
        self, items: pa.Table, local, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ):
        heard, marker = Heard(), tmp_path / "killed"
        report = on_ray(tmp_path / "work", items, partial(DyingEncoder, marker), progress=heard)
        assert int(marker.read_text()) != os.getpid(), "a process of its own must have been killed"
        assert contents(report.folder) == local
        assert (report.n_items, report.n_new, report.n_failed) == (N_IMAGES + 1, N_IMAGES + 1, 1)
        assert sum(heard.steps) == N_IMAGES + 1 and sorted(heard.steps) == [4, 5, 5, 5] and all(heard.totals)
        (line,) = heard.lines
        assert re.fullmatch(r"part \d lost its worker and was made by another", line)
        assert not (tmp_path / "work" / ".ray-token").exists()
        assert capfd.readouterr().out == "", "Ray says nothing where programs read"

    def test_another_cluster_cannot_be_joined_meanwhile(self, items: pa.Table, tmp_path: Path):
        with pytest.raises(ConfigError, match="connected to a Ray cluster already"):
            on_ray(tmp_path, items, address="auto")


class _Down(Exception):
    """Stands for an error of Ray's own."""


@pytest.fixture
def no_cluster(one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of the driver in this process, one part after the other, last part first."""

    def answers(_ray: object, job: Job, given: Sequence[Assignment], _pool: Pool):
        worker = PartWorker(job)
        for assignment in reversed(given):
            yield from worker(assignment.to_table()).to_pylist()

    machine = {"Alive": True, "Resources": {"CPU": 2.0}}
    ray = SimpleNamespace(nodes=lambda: [machine], exceptions=SimpleNamespace(RayError=_Down))
    monkeypatch.setattr(ray_engine, "on_cluster", lambda *_: contextlib.nullcontext(ray))
    monkeypatch.setattr(ray_engine, "_answers", answers)


@pytest.mark.usefixtures("no_cluster")
class TestDriver:
    """What is handed out and what is made of the answers, without a cluster."""

    def test_a_lost_part_alone_is_made_again(self, items: pa.Table, local, tmp_path: Path):
        folder = run(tmp_path, items).folder
        (folder / "part-00001.parquet").unlink()
        kept = {name: (folder / name).stat().st_mtime_ns for name in local if name != "part-00001.parquet"}
        report = on_ray(tmp_path, items)
        assert report.n_new == PART_ROWS and contents(folder) == local
        assert kept == {name: (folder / name).stat().st_mtime_ns for name in kept}
        heard = Heard()
        assert on_ray(tmp_path, items, progress=heard).n_new == 0 and not heard.steps

    def test_an_error_in_a_worker_is_one_line_here(self, items: pa.Table, tmp_path: Path):
        with pytest.raises(DataError, match="the embedding of item 'id-00' is not finite") as caught:
            on_ray(tmp_path, items.slice(0, 1), BrokenEncoder)
        assert "\n" not in str(caught.value)
        assert list(Workspace(tmp_path).embeddings(FOLDER).iterdir()) == []
        assert not (tmp_path / ".ray-token").exists()

    def test_a_failed_item_is_tried_again_as_by_the_local_engine(self, items: pa.Table, tmp_path: Path):
        bad = tmp_path / "bad.png"
        for engine in (run, on_ray):
            bad.write_bytes(b"this is no image")
            mixed = pa.table({"item_id": ["id-00", "bad"], "path": [items["path"][0].as_py(), str(bad)]})
            root = tmp_path / engine.__name__
            assert engine(root, mixed).n_failed == 1
            bad.write_bytes(b"nor is this")
            assert engine(root, mixed).n_new == 1
        folders = [Workspace(tmp_path / name).embeddings(FOLDER) for name in ("run", "on_ray")]
        assert contents(folders[0]) == contents(folders[1])
        records = json.loads(file_metadata(folders[1] / "part-00001.parquet")["failures"])
        assert [record["attempt"] for record in records] == [2]

    def test_what_the_workers_read_need_not_be_read_again(self, items: pa.Table, tmp_path: Path):
        newest = max(Path(path).stat().st_ctime for path in items["path"].to_pylist())
        time.sleep(max(0.0, newest + 2.1 - time.time()))  # what changed just now is not kept in mind
        run(tmp_path / "run", items)
        on_ray(tmp_path / "ray", items)
        both = [Workspace(tmp_path / name).files.read_bytes() for name in ("run", "ray")]
        assert len(both[0]) > 24 * N_IMAGES and both[0] == both[1]

    def test_what_ray_gives_up_on_is_one_line(self, items: pa.Table, tmp_path: Path, monkeypatch):
        def answers(*_: object):
            raise _Down("a page\n\n of trace\nModuleNotFoundError: No module named 'cfpairs'\n")
            yield

        monkeypatch.setattr(ray_engine, "_answers", answers)
        with pytest.raises(CfpairsError, match="got _Down: ModuleNotFoundError: No module named") as caught:
            on_ray(tmp_path, items)
        assert "a page" not in str(caught.value)


def test_the_pool_fills_the_cluster():
    big, small = Machine(8, 0), Machine(6, 0)
    assert plan_pool([big, small], "cpu", 100, 2) == Pool(7, 2, 0)
    assert plan_pool([big, small], "cpu", 3, 2) == Pool(3, 2, 0)
    assert plan_pool([big, small], "cpu", 100, 64) == Pool(1, 8, 0)
    assert plan_pool([Machine(1, 0), big], "cpu", 100) == Pool(9, 1, 0)
    assert plan_pool([Machine(16, 4), Machine(0, 0), big], "cuda", 100) == Pool(4, 4, 1)
    with pytest.raises(CfpairsError, match=r"no GPU; set encoder.device: cpu"):
        plan_pool([big], "cuda", 100)
    with pytest.raises(CfpairsError, match="no CPU to give"):
        plan_pool([Machine(0, 2)], "cpu", 100)
