"""Edit pairs made on a Ray cluster: the same bytes as made here, whoever is lost on the way."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from embedding_runs import contents
from fakes import fake_workspace
from ray_runs import DyingShards
from typer.testing import CliRunner

from cfpairs.cli import app
from cfpairs.config import Config, DataConfig, EncoderConfig, PairConfig, parse_options
from cfpairs.errors import CfpairsError, ConfigError, WorkspaceError
from cfpairs.pairs.base import BuildInputs, PairSet, Spread
from cfpairs.pairs.edit.builder import EditBuilder
from cfpairs.pairs.edit.making import Maker
from cfpairs.pairs.edit.options import EditOptions
from cfpairs.pairs.edit.sharding import EditShards
from cfpairs.tables import load_manifest
from cfpairs.workflow import Context, spreading
from cfpairs.workflow.pairs import _spreading, open_builder
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
        assert (sent.judge, sent.embeddings, sent.spread) == (None, None, None)
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


def test_only_the_engine_ray_and_methods_that_make_images_ask_for_a_cluster(tmp_path: Path):
    asked = {}
    for engine in ("local", "ray"):
        config = Config(
            workspace=tmp_path, data=DataConfig(preset="digits"), encoder=EncoderConfig(engine=engine)
        )
        for method in ("edit", "random"):
            with _spreading(Context(config), open_builder(PairConfig(method=method))) as spread:
                asked[engine, method] = spread is not None
    assert asked.pop(("ray", "edit")) and not any(asked.values())


def test_an_address_needs_the_engine_ray(tmp_path: Path):
    (tmp_path / "c.yaml").write_text(f"workspace: {tmp_path}\ndata: {{preset: digits}}\n")
    command = ["build", "--method", "edit", "--pairs", "4", "-c", str(tmp_path / "c.yaml")]
    for more, told in (
        (["--ray-address", "auto"], "add --engine ray"),
        (["--engine", "clay"], "(got 'clay')"),
    ):
        result = CliRunner().invoke(app, [*command, *more])
        assert isinstance(result.exception, ConfigError) and told in str(result.exception)
        assert not (tmp_path / "manifest.parquet").exists()


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


class _LostError(Exception):
    """Stands for an error of Ray's own."""


class FakeRay:
    """Actors in this process; those whose number is in `dying` are lost in the call of that name.

    Calls are answered when they are waited for, in their order.
    """

    def __init__(self, machine: dict[str, float], dying: dict[str, range]) -> None:
        self.exceptions = SimpleNamespace(RayError=_LostError)
        self.machine, self.dying = machine, dying
        self.options: dict[str, object] = {}
        self.started = 0
        self.alive: set[int] = set()

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": self.machine}]

    def put(self, value: object) -> bytes:
        return pickle.dumps(value)

    def remote(self, kind: Callable[..., object]) -> Any:
        def options(**given: object) -> Any:
            self.options = given
            return SimpleNamespace(remote=partial(self._start, kind))

        return SimpleNamespace(options=options)

    def _start(self, kind: Callable[..., Any], maker: bytes, *rest: object) -> Any:
        number, actor = self.started, kind(pickle.loads(maker), *rest)
        self.started += 1
        self.alive.add(number)
        calls = {
            name: SimpleNamespace(remote=partial(self._Call, number, name, getattr(actor, name)))
            for name in ("open", "make")
        }
        return SimpleNamespace(number=number, **calls)

    class _Call:
        def __init__(self, number: int, name: str, work: Callable[..., Any], *given: object) -> None:
            self.number, self.name, self.work, self.given = number, name, work, given

    def wait(self, calls: list[_Call], num_returns: int) -> tuple[list[_Call], list[_Call]]:
        assert num_returns == 1
        return calls[:1], calls[1:]

    def get(self, call: _Call) -> Any:
        if call.number in self.dying.get(call.name, ()):
            raise _LostError("a page\n\nof the worker's end\n")
        return call.work(*call.given)

    def kill(self, actor: Any) -> None:
        self.alive.discard(actor.number)


@pytest.fixture
def on_fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRay]:
    """Put a `FakeRay` where a cluster would be joined."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # a worker sets it in its own process

    def start(machine: dict[str, float], **dying: range) -> FakeRay:
        ray = FakeRay(machine, dying)
        monkeypatch.setattr(spreading, "on_cluster", lambda *_: nullcontext(ray))
        return ray

    return start


class TestCrew:
    """Who is given what, and what is made of their answers, without a cluster."""

    @pytest.mark.parametrize("dying", [{"make": range(3)}, {"open": range(3)}])
    def test_lost_workers_are_replaced(self, dying, on_fake, workspace: Workspace, local):
        ray = on_fake({"CPU": 4.0}, **dying)
        with RaySpread(workspace, cpus_per_actor=1) as spread:
            assert_same(builder().build(inputs(workspace, spread)), workspace, local)
            assert ray.started == 4 + 3 and len(ray.alive) == 4
        assert not ray.alive and not (workspace.root / ".ray-token").exists()
        assert ray.options == {"num_cpus": 1, "num_gpus": None, "max_restarts": 0}

    @pytest.mark.parametrize(
        ("call", "told"),
        [("make", f"edits have lost {TRIES} workers"), ("open", "got _LostError: of the worker's end")],
    )
    def test_what_loses_every_worker_ends(self, call: str, told: str, on_fake, workspace: Workspace):
        ray = on_fake({"CPU": 1.0}, **{call: range(99)})
        with RaySpread(workspace) as spread, pytest.raises(CfpairsError, match=told) as caught:
            builder().build(inputs(workspace, spread))
        assert "\n" not in str(caught.value) and ray.started == TRIES and not ray.alive
        assert not (workspace.root / ".ray-token").exists()

    def test_an_error_in_a_worker_is_one_line_here(self, on_fake, workspace: Workspace):
        def away(maker: EditShards, tasks: Sequence[Any]) -> None:
            maker.witness = workspace.root / "elsewhere.png"
            spread(maker, tasks)

        ray = on_fake({"CPU": 1.0})
        with RaySpread(workspace) as spread, pytest.raises(WorkspaceError, match="does not see the images"):
            builder().build(inputs(workspace, away))
        assert not ray.alive and not workspace.pair_images("edit").exists()

    @pytest.mark.parametrize(("wants", "gpus"), [(True, 1), (False, None)])
    def test_who_makes_use_of_a_gpu_has_one_for_itself(
        self, wants: bool, gpus: int | None, on_fake, workspace: Workspace
    ):
        def spread(maker: EditShards, tasks: Sequence[Any]) -> None:
            seen.append(maker.wants_gpu)
            maker.wants_gpu = wants
            crew(maker, tasks)

        seen: list[bool] = []
        ray = on_fake({"CPU": 8.0, "GPU": 2.0})
        with RaySpread(workspace, cpus_per_actor=2) as crew:
            builder().build(inputs(workspace, spread))
            assert len(ray.alive) == (2 if wants else 4)
        assert ray.options["num_gpus"] == gpus
        assert not seen[0], "an editor of many threads works on the CPU"
