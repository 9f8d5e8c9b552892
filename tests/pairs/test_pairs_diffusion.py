"""Editors that run diffusion pipelines: real ones of diffusers, tiny and with random weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusion_fakes import save_inpainting, save_instruct, save_text_to_image
from fakes import fake_workspace
from numpy.typing import NDArray

from cfpairs.config import parse_options
from cfpairs.pairs.edit.base import EditRejectedError, EditScene, EditTask, Mask
from cfpairs.pairs.edit.inpaint import InpaintEditor, InpaintOptions
from cfpairs.pairs.edit.instruct import InstructEditor, InstructOptions
from cfpairs.pairs.edit.pixels import decode_levels, read_file
from cfpairs.tables import load_manifest

COUNTS = {("train", y, e): 2 for y in (0, 1) for e in (0, 1)}
PROMPTS = {"green": "a {label} bar on grass", "brown": ["{env} sand", "mud"]}


class FileMasks:
    """The masks that the manifest lists."""

    def __init__(self, scene_root: Path) -> None:
        self.root = scene_root

    def has(self, item: Mapping[str, Any]) -> bool:
        return item["mask_path"] is not None

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        found = read_file(self.root / item["mask_path"], "mask")
        return Mask(decode_levels(found, "mask"), hashlib.sha256(found).hexdigest(), "file")


class NoMasks:
    def has(self, item: Mapping[str, Any]) -> bool:
        return False

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        raise EditRejectedError("no mask")


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    save_inpainting(root / "inpainting")
    save_inpainting(root / "checked", checker=True)
    save_instruct(root / "instruct")
    save_text_to_image(root / "text")
    return root


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> EditScene:
    workspace = fake_workspace(tmp_path_factory.mktemp("scene") / "work", COUNTS, size=48)
    items = load_manifest(workspace)
    return EditScene(
        workspace,
        items,
        {0: "green", 1: "brown"},
        {0: "lying", 1: "standing"},
        FileMasks(workspace.root),
        seed=0,
    )


def inpaint(models: Path, name: str = "inpainting", **options: Any) -> InpaintEditor:
    values = {"model": str(models / name), "prompts": PROMPTS, "steps": 2, "device": "cpu", **options}
    return InpaintEditor(parse_options(InpaintOptions, values, "editor 'inpaint'"))


def instruct(models: Path, name: str = "instruct", **options: Any) -> InstructEditor:
    values = {"model": str(models / name), "prompts": PROMPTS, "steps": 2, "device": "cpu", **options}
    return InstructEditor(parse_options(InstructOptions, values, "editor 'instruct'"))


@pytest.fixture(scope="session")
def painter(models: Path, scene: EditScene) -> Iterator[InpaintEditor]:
    """An open editor that makes four at once."""
    editor = inpaint(models, batch_size=4)
    assert editor.open(scene) == {0, 1}
    yield editor
    editor.close()


def task(scene: EditScene, row: int, *, turn: int = 0, attempt: int = 0) -> EditTask:
    item = scene.items.slice(row, 1).to_pylist()[0]
    return EditTask(item, 1 - item["env"], turn, attempt)


def image(made: NDArray[np.uint8] | EditRejectedError) -> NDArray[np.uint8]:
    assert isinstance(made, np.ndarray), made
    return made


def test_the_foreground_is_kept_bit_for_bit_and_the_background_painted(
    painter: InpaintEditor, scene: EditScene
) -> None:
    plan = painter.plan(task(scene, 0))
    edited = image(painter.edit([plan])[0])
    assert plan.mask is not None and edited.shape == plan.source.shape and edited.dtype == np.uint8
    core, outside = plan.mask.alpha == 1, plan.mask.alpha == 0
    assert core.sum() > 300 and (edited[core] == plan.source[core]).all()
    moved = np.abs(edited.astype(int) - plan.source).max(axis=2)
    assert (moved[outside] > 8).mean() > 0.9
    assert plan.columns == {
        "prompt": "a lying bar on grass" if plan.data["prompt"] != "brown sand" else "brown sand",
        "edit_seed": plan.data["seed"],
    }


def test_an_image_does_not_depend_on_its_batch(painter: InpaintEditor, scene: EditScene) -> None:
    plans = [painter.plan(task(scene, row)) for row in range(6)]
    together = [image(made) for made in painter.edit(plans)]
    alone = [image(painter.edit([plan])[0]) for plan in plans]
    for one, other in zip(together, alone, strict=True):
        assert (one == other).all()
    assert len({one.tobytes() for one in together}) == 6


def test_the_same_plan_gives_the_same_pixels_in_another_editor(
    painter: InpaintEditor, models: Path, scene: EditScene
) -> None:
    plan = painter.plan(task(scene, 3))
    other = inpaint(models, batch_size=1)
    other.open(scene)
    again = other.plan(task(scene, 3))
    assert again.key == plan.key
    assert (image(other.edit([again])[0]) == image(painter.edit([plan])[0])).all()


def test_attempts_turns_and_seeds_give_other_images(painter: InpaintEditor, scene: EditScene) -> None:
    plans = [
        painter.plan(t)
        for t in (task(scene, 1), task(scene, 1, attempt=1), task(scene, 1, turn=2), task(scene, 1))
    ]
    assert len({plan.key for plan in plans}) == 3
    edited = [image(made).tobytes() for made in painter.edit(plans)]
    assert len(set(edited)) == 3 and edited[0] == edited[3]
