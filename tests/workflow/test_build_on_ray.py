"""Edit pairs made on a Ray cluster: the same bytes as made here, whoever is lost on the way."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import fake_workspace
from ray_runs import DeadlyShards, DyingShards
from typer.testing import CliRunner

from cfpairs.cli import app
from cfpairs.config import parse_options
from cfpairs.embedding.ray_cluster import on_cluster
from cfpairs.errors import CfpairsError, ConfigError, WorkspaceError
from cfpairs.pairs.base import BuildInputs, PairSet, Spread
from cfpairs.pairs.edit.builder import EditBuilder, EditOptions
from cfpairs.pairs.edit.making import Maker
from cfpairs.pairs.edit.sharding import EditShards
from cfpairs.progress import SILENT
from cfpairs.tables import load_manifest
from cfpairs.workflow.spreading import TRIES, RaySpread
from cfpairs.workspace import Workspace

pytestmark = [
    pytest.mark.embed,
    # Ray warns itself of its own old settings.
    pytest.mark.filterwarnings(r"ignore::DeprecationWarning:ray\..*"),
]

N_PAIRS = 12


def builder(**options: Any) -> EditBuilder:
    return EditBuilder(parse_options(EditOptions, {"checks": {"embedding": False}, **options}, "options"))


def inputs(workspace: Workspace, spread: Spread | None = None, **more: Any) -> BuildInputs:
    given = {"name": "edit", "n_pairs": N_PAIRS, "seed": 3, **more}
    return BuildInputs(workspace, manifest=load_manifest(workspace), spread=spread, **given)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which no image was edited; one image of it is broken."""
    workspace = fake_workspace(tmp_path_factory.mktemp("data") / "work")
    (workspace.root / "data" / "images" / "bar-train-0003.png").write_bytes(b"this is no image")
    return workspace.root


@pytest.fixture
def workspace(data: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(data, tmp_path / "work")
    return Workspace(tmp_path / "work")


@pytest.fixture(scope="module")
def local(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PairSet, dict[str, bytes]]:
    """The pair set made in this process, and every file that it wrote."""
    root = tmp_path_factory.mktemp("local") / "work"
    shutil.copytree(data, root)
    made = builder().build(inputs(Workspace(root)))
    assert made.counts()["ok"] == N_PAIRS and made.counts()["rejected"] >= 1
    return made, contents(Workspace(root).pair_images("edit"))


def assert_same(made: PairSet, workspace: Workspace, local: tuple[PairSet, dict[str, bytes]]) -> None:
    assert made.pairs.equals(local[0].pairs) and made.items.equals(local[0].items)
    assert (made.card, made.notes) == (local[0].card, local[0].notes)
    assert contents(workspace.pair_images("edit")) == local[1]


class Elsewhere:
    """Stands for other processes: what is sent is pickled, then made by a maker of its own."""

    def __init__(self, change: Callable[[EditShards], None] = lambda _shards: None) -> None:
        self.change = change
        self.made: list[int] = []

    def __call__(self, maker: EditShards, tasks: Sequence[Any]) -> None:
        copy: EditShards = pickle.loads(pickle.dumps(maker))
        self.change(copy)
        copy.open(1)
        copy.make(tasks)
        self.made.append(len(tasks))


class TestShards:
    """What is sent to other processes and what the builder makes of it, without a cluster."""

    def test_what_others_made_is_kept(self, workspace: Workspace, local, monkeypatch: pytest.MonkeyPatch):
        kept: list[bool] = []
        make = Maker.make

        def watched(self: Maker, tasks: Any) -> Iterator[Any]:
            for made in make(self, tasks):
                kept.append(getattr(made, "kept", None))
                yield made

        def spread(maker: EditShards, tasks: Sequence[Any]) -> None:
            elsewhere(maker, tasks)
            kept.clear()

        elsewhere = Elsewhere()
        monkeypatch.setattr(Maker, "make", watched)
        assert_same(builder().build(inputs(workspace, spread)), workspace, local)
        assert elsewhere.made[0] == N_PAIRS and len(elsewhere.made) > 1, "a wave for each rejection"
        assert set(kept) <= {True, None}, "this process edits nothing itself"

    def test_nothing_that_stays_here_is_sent(self, workspace: Workspace):
        seen = []

        def spread(maker: EditShards, _tasks: Sequence[Any]) -> None:
            seen.append(pickle.loads(pickle.dumps(maker)).__dict__)

        builder().build(replace(inputs(workspace, spread), judge=object(), embeddings=object()))
        sent = seen[0]["_inputs"]
        assert (sent.judge, sent.embeddings, sent.spread) == (None, None, None) and sent.progress is SILENT
        assert set(sent.manifest["split"].to_pylist()) == {"train"}

    def test_others_that_would_edit_otherwise_are_refused(self, workspace: Workspace):
        def other_version(shards: EditShards) -> None:
            shards._versions["numpy"] = "0.1"

        def other_images(shards: EditShards) -> None:
            shards._inputs = replace(shards._inputs, name="another")

        with pytest.raises(ConfigError, match=r"would edit in another way \(numpy\): got .*, expected 0.1"):
            builder().build(inputs(workspace, Elsewhere(other_version)))
        with pytest.raises(ConfigError, match=r"another way \(image, mask, model or device\)"):
            builder().build(inputs(workspace, Elsewhere(other_images)))

    def test_edits_that_were_not_opened_are_refused(self, workspace: Workspace):
        def spread(maker: EditShards, tasks: Sequence[Any]) -> None:
            maker.make(tasks)

        with pytest.raises(CfpairsError, match="not been opened"):
            builder().build(inputs(workspace, spread))


def test_only_edits_ask_for_ray(workspace: Workspace, monkeypatch: pytest.MonkeyPatch):
    config = workspace.root / "c.yaml"
    config.write_text(
        f"data:\n  preset: digits\n  root: {workspace.root}/none\nworkspace: {workspace.root}\n"
    )
    command = ["build", "--method", "random", "--pairs", "4", "-c", str(config), "--ray-address", "auto"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, ConfigError) and "add --engine ray" in str(result.exception)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of processes on this machine, for all tests that need one: it takes seconds to start."""
    pytest.importorskip("ray", reason="Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[1]
        patch.setenv("PYTHONPATH", os.pathsep.join([str(tests.parent), str(tests)]))
        with on_cluster(None):
            yield


@pytest.mark.usefixtures("cluster")
class TestOnACluster:
    """Workers in processes of their own."""

    def test_a_worker_is_killed_and_the_bytes_are_those_of_the_local_engine(
        self, workspace: Workspace, local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        marker = tmp_path / "killed"
        monkeypatch.setattr(Maker, "_edit", None)  # a call in this process would be an error
        with RaySpread(workspace, cpus_per_actor=1) as ray:
            made = builder().build(inputs(workspace, lambda m, t: ray(DyingShards(m, marker), t)))
        assert int(marker.read_text()) != os.getpid(), "a process of its own must have been killed"
        assert_same(made, workspace, local)
        assert not (workspace.root / ".ray-token").exists()

    def test_an_error_in_a_worker_is_one_line_here(self, workspace: Workspace):
        def spread(maker: EditShards, tasks: Sequence[Any]) -> None:
            maker.witness = workspace.root / "elsewhere.png"
            ray(maker, tasks)

        with RaySpread(workspace) as ray, pytest.raises(WorkspaceError, match="does not see the images"):
            builder().build(inputs(workspace, spread))

    def test_edits_that_kill_every_worker_end(self, workspace: Workspace):
        with (
            RaySpread(workspace) as ray,
            pytest.raises(CfpairsError, match=f"edits have lost {TRIES} workers") as caught,
        ):
            builder().build(inputs(workspace, lambda m, t: ray(DeadlyShards(m, workspace.root), t)))
        assert "\n" not in str(caught.value)
        assert not (workspace.root / ".ray-token").exists()
