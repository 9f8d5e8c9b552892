"""The recolour editor: what it makes is what the data set would have drawn, and it refuses the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fakes import png
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from idx_files import fake_part, write_idx
from numpy.typing import NDArray

from cfpairs.config import parse_options
from cfpairs.datasets.colored_mnist import ColoredMNIST, colour_image
from cfpairs.datasets.colored_mnist_plan import ColoredMNISTOptions
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.edit.base import EditRejectedError, EditScene, EditTask, Mask
from cfpairs.pairs.edit.builder import EditBuilder
from cfpairs.pairs.edit.options import EditOptions
from cfpairs.pairs.edit.pixels import decode_image
from cfpairs.pairs.edit.recolour import RecolourEditor, RecolourOptions, colour_of, recolour
from cfpairs.pairs.random import RandomOptions
from cfpairs.progress import SILENT
from cfpairs.registry import resolve
from cfpairs.workspace import Workspace

ENVS = {0: "red", 1: "green"}


class NoMasks:
    """There are no masks, and none is asked for."""

    def has(self, item: Mapping[str, Any]) -> bool:
        return False

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        raise AssertionError("the recolour editor needs no mask")


def scene(workspace: Workspace, items: pa.Table, envs: Mapping[int, str] = ENVS) -> EditScene:
    return EditScene(workspace, items, envs, {0: "0-4", 1: "5-9"}, NoMasks(), 0)


def opened(workspace: Workspace) -> RecolourEditor:
    editor = RecolourEditor(RecolourOptions())
    assert editor.open(scene(workspace, pa.table({}))) == {0, 1}
    return editor


def saved(folder: Path, content: bytes, env: int = 0) -> EditTask:
    (folder / "a.png").write_bytes(content)
    return EditTask({"path": "a.png", "env": env}, 1 - env, 0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, pa.Table]:
    folder = tmp_path_factory.mktemp("recolour")
    root, workspace = write_idx(folder / "idx"), Workspace(folder / "work")
    data = ColoredMNIST(ColoredMNISTOptions())
    data.prepare(root, workspace, 0, SILENT)
    return workspace, data.manifest(root, workspace, 0)


def test_an_edit_is_what_the_data_set_would_have_drawn(world: tuple[Workspace, pa.Table]) -> None:
    workspace, manifest = world
    items = manifest.filter(pc.equal(manifest["split"], "train"))
    editor = RecolourEditor(RecolourOptions())
    assert editor.open(scene(workspace, items)) == {0, 1}
    sources = fake_part(80, 9, 0)[0]
    keys = set()
    for turn, item in enumerate(items.to_pylist()):
        plan = editor.plan(EditTask(item, 1 - item["env"], turn))
        (edited,) = editor.edit([plan])
        grey = sources[int(item["subject"].removeprefix("train-"))]
        assert (plan.source == colour_image(grey, item["env"])).all()
        assert isinstance(edited, np.ndarray) and edited.dtype == np.uint8
        assert (edited == colour_image(grey, 1 - item["env"])).all()
        assert plan.mask is None
        keys.add(plan.key)
    assert len(keys) == 72
    assert editor.plan(EditTask(item, 1 - item["env"], turn=99, attempt=2)).key == plan.key


@settings(max_examples=50, deadline=None)
@given(image=arrays(np.uint8, (4, 5, 3)))
def test_recolouring_twice_changes_nothing_and_keeps_every_value(image: NDArray[np.uint8]) -> None:
    once = recolour(image)
    assert (recolour(once) == image).all()
    assert (once[..., ::-1].sum(-1) == image.sum(-1)).all()
    assert (once[..., 2] == image[..., 2]).all()


@settings(max_examples=50, deadline=None)
@given(grey=arrays(np.uint8, (3, 3)).filter(np.any), colour=st.sampled_from([0, 1]))
def test_the_colour_is_seen_in_the_pixels(grey: NDArray[np.uint8], colour: int) -> None:
    image = colour_image(grey, colour)
    assert colour_of(image) == colour
    assert colour_of(recolour(image)) == 1 - colour
    for channel in (1 - colour, 2):
        spoiled = image.copy()
        spoiled[0, 0, channel] = 1
        assert colour_of(spoiled) is None


PHOTO = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
RED = colour_image(fake_part(1, 9, 0)[0][0], 0)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(PHOTO), "not all red or all green"),
        (png(PHOTO[:, :, 0]), "not all red or all green"),
        (png(np.zeros((9, 9, 3), np.uint8)), "not all red or all green"),
        (png(RED[:, :, ::-1].copy()), "not all red or all green"),
        (png(recolour(RED)), "the image is green, its environment is red"),
        (png(RED)[:60], "image cannot be decoded"),
        (b"", "image cannot be decoded"),
    ],
    ids=["photograph", "grey", "black", "blue", "other colour", "truncated", "empty"],
)
def test_what_is_not_in_one_colour_is_rejected(tmp_path: Path, content: bytes, reason: str) -> None:
    editor = opened(Workspace(tmp_path))
    with pytest.raises(EditRejectedError, match=reason):
        editor.plan(saved(tmp_path, content))
    # Positive control: the same editor takes an image that is red.
    assert (editor.plan(saved(tmp_path, png(RED))).source == RED).all()


def test_a_missing_image_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(EditRejectedError, match="image cannot be read"):
        opened(Workspace(tmp_path)).plan(EditTask({"path": "gone.png", "env": 0}, 1, 0))


@pytest.mark.parametrize(
    "envs",
    [
        {0: "domain 0 (0.1 flipped)", 1: "domain 1 (0.2 flipped)"},
        {0: "red", 1: "blue"},
        {0: "red", 1: "green", 2: "blue"},
        {0: "red", 1: "red"},
    ],
)
def test_other_environments_are_refused_with_the_remedy(tmp_path: Path, envs: dict[int, str]) -> None:
    with pytest.raises(DataError, match=r"needs the environments red and green: got .*environment: colour"):
        RecolourEditor(RecolourOptions()).open(scene(Workspace(tmp_path), pa.table({}), envs))


def test_red_and_green_may_have_any_numbers(tmp_path: Path) -> None:
    editor = RecolourEditor(RecolourOptions())
    assert editor.open(scene(Workspace(tmp_path), pa.table({}), {3: "green", 7: "red"})) == {3, 7}
    (tmp_path / "a.png").write_bytes(png(RED))
    assert editor.plan(EditTask({"path": "a.png", "env": 7}, 3, 0)).key
    with pytest.raises(EditRejectedError):
        editor.plan(EditTask({"path": "a.png", "env": 3}, 7, 0))


def test_it_says_when_it_is_not_open(tmp_path: Path) -> None:
    editor = opened(Workspace(tmp_path))
    editor.close()
    with pytest.raises(DataError, match="has not been opened"):
        editor.plan(saved(tmp_path, png(RED)))
    with pytest.raises(ConfigError):
        RecolourEditor(RandomOptions())


def test_the_registry_knows_the_editor() -> None:
    assert resolve("editors", "recolour") is RecolourEditor
    assert RecolourEditor.threaded and RecolourEditor(RecolourOptions()).batch_size == 1


def build(workspace: Workspace, manifest: pa.Table, name: str = "exact", n: int = 12) -> Any:
    starting = ColoredMNIST(ColoredMNISTOptions()).starting(workspace.root.parent / "idx")
    options = parse_options(EditOptions, starting["pairs"][0]["options"], "options")
    return EditBuilder(options).build(BuildInputs(workspace, name, manifest, n, 0))


def test_the_pairs_that_a_new_configuration_asks_for_are_exact(world: tuple[Workspace, pa.Table]) -> None:
    workspace, manifest = world
    made = build(workspace, manifest)
    assert made.counts() == {"ok": 12}
    rows = {row["item_id"]: row for row in [*manifest.to_pylist(), *made.items.to_pylist()]}
    sources = fake_part(80, 9, 0)[0]
    for pair in made.pairs.to_pylist():
        a, b = rows[pair["a_id"]], rows[pair["b_id"]]
        assert (a["env"], b["env"]) == (pair["env_a"], 1 - pair["env_a"])
        assert (a["label"], a["subject"]) == (b["label"], b["subject"])
        grey = sources[int(a["subject"].removeprefix("train-"))]
        written = decode_image(workspace.file(b["path"]).read_bytes(), "edit")
        assert (written == colour_image(grey, b["env"])).all()
        assert b["mask_path"] is None


def test_images_of_another_kind_give_no_pair(world: tuple[Workspace, pa.Table], tmp_path: Path) -> None:
    workspace, manifest = world
    (tmp_path / "photo.png").write_bytes(png(PHOTO))
    paths = pa.array([str(tmp_path / "photo.png")] * len(manifest))
    photos = manifest.set_column(manifest.column_names.index("path"), "path", paths)
    with pytest.raises(DataError, match="72 items rejected, 72 of them because: the image is not all red"):
        build(workspace, photos, "photos")
