"""The pixels of an edit: cores kept, no ring of the old background, no trace of the other foreground."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow.compute as pc
import pytest
from fakes import fake_manifest
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.edit.base import EditRejectedError, EditScene, EditTask
from cfpairs.pairs.edit.composite import CompositeEditor, CompositeOptions, clear_background, cover
from cfpairs.pairs.edit.edges import (
    compose,
    extend_colour,
    fit_edge,
    foreground_core,
    has_own_edge,
    measured_edge,
    soft_edge,
)
from cfpairs.pairs.edit.fill import fill_hole
from cfpairs.pairs.edit.masks import decode_mask, open_masks
from cfpairs.pairs.random import RandomOptions
from cfpairs.workspace import Workspace

RED, BLUE, GREY = (np.array(c, np.float64) for c in ((230, 20, 20), (20, 30, 230), (128, 128, 128)))


def disc(size: int = 64, radius: float = 18, soft: float = 2.0) -> NDArray[np.float32]:
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return np.clip((radius - np.hypot(x, y)) / soft + 0.5, 0, 1).astype(np.float32)


def painted(
    alpha: NDArray[np.float32], fore: NDArray[np.float64], back: NDArray[np.float64]
) -> NDArray[np.uint8]:
    return np.rint(alpha[..., None] * fore + (1 - alpha[..., None]) * back).astype(np.uint8)


def redness(pixels: NDArray[np.uint8]) -> NDArray[np.int16]:
    """How far red stands above the foreground's grey and the new blue; both have none."""
    return pixels[..., 0].astype(np.int16) - pixels[..., 1]


def test_no_ring_of_the_old_background_stays() -> None:
    alpha = disc()
    image = painted(alpha, GREY, RED)
    ground = np.tile(BLUE.astype(np.uint8), (64, 64, 1))
    edited = compose(image, alpha, ground)
    ring = (alpha > 0) & (alpha < 1)
    assert ring.sum() > 100
    assert redness(edited)[ring].max() <= 4
    # Positive control: pasting the pixels as they are leaves the ring red.
    naive = np.rint(image * alpha[..., None] + ground * (1 - alpha[..., None])).astype(np.uint8)
    assert redness(naive)[ring].max() > 40


def test_a_hard_mask_leaves_no_ring_either() -> None:
    alpha = disc(soft=3.0)
    image = painted(alpha, GREY, RED)
    hard = (alpha > 0.5).astype(np.float32)
    edited = compose(image, soft_edge(hard, 1.0), np.tile(BLUE.astype(np.uint8), (64, 64, 1)))
    naive = np.where((hard > 0.5)[..., None], image, BLUE.astype(np.uint8))
    near = cv2.morphologyEx(hard, cv2.MORPH_GRADIENT, np.ones((7, 7))) > 0
    assert redness(edited)[near].max() < 0.4 * redness(naive)[near].max()


def test_core_is_kept_bit_for_bit_and_the_rest_is_the_new_background() -> None:
    rng = np.random.default_rng(0)
    image, ground = rng.integers(0, 256, (2, 64, 64, 3), np.uint8)
    alpha = disc()
    edited = compose(image, alpha, ground)
    assert (edited[alpha == 1] == image[alpha == 1]).all()
    assert (edited[alpha == 0] == ground[alpha == 0]).all()


def test_extend_colour_gives_the_nearest_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    core = np.zeros((20, 30), bool)
    core[5:9, 4:8] = core[12:16, 20:24] = True
    filled = extend_colour(image, core)
    assert (filled[core] == image[core]).all()
    assert (filled[0, 5] == image[5, 5]).all() and (filled[14, 29] == image[14, 23]).all()


def test_soft_edges_stay_and_hard_ones_are_shrunk_and_blurred() -> None:
    soft = disc()
    assert soft_edge(soft, 1.0) is soft
    hard = (soft > 0.5).astype(np.float32)
    assert soft_edge(hard, 0.0) is hard
    blurred = soft_edge(hard, 1.0)
    assert ((blurred > 0.05) & (blurred < 0.95)).sum() > 80
    assert blurred.sum() < hard.sum()
    assert foreground_core(blurred).any()


def test_votes_of_annotators_are_no_drawn_edge() -> None:
    votes = np.rint(disc(soft=5.0) * 5) / 5
    assert has_own_edge(disc(soft=5.0)) and not has_own_edge(votes.astype(np.float32))


@pytest.mark.parametrize(("grown", "blur"), [(0, 0.7), (0, 1.4), (1, 0.9), (2, 0.9), (-1, 0.9)])
def test_the_edge_is_found_where_the_image_has_it(grown: int, blur: float) -> None:
    hard = (disc(128, 36) > 0.5).astype(np.uint8)
    alpha = cv2.GaussianBlur(hard.astype(np.float32), (0, 0), blur)
    image = painted(alpha, texture(3, 128) * 0.3 + [150.0, 60.0, 40.0], texture(4, 128) * 0.4)
    around = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * abs(grown) + 1,) * 2)
    given = (cv2.dilate if grown > 0 else cv2.erode)(hard, around)
    inside = cv2.distanceTransform(given, cv2.DIST_L2, 5) - cv2.distanceTransform(1 - given, cv2.DIST_L2, 5)
    edge = fit_edge(image, inside - 0.5 * np.sign(inside))
    assert edge.shift == pytest.approx(grown, abs=0.3)
    assert edge.width == pytest.approx(blur, abs=0.4)
    measured = measured_edge(image, given.astype(np.float32))
    assert np.abs(measured - alpha).mean() < 0.6 * np.abs(given - alpha).mean()


def test_an_edge_that_cannot_be_seen_stays_at_the_outline() -> None:
    given = (disc(64, 18) > 0.5).astype(np.float32)
    plain = np.full((64, 64, 3), 90, np.uint8)
    assert np.abs(measured_edge(plain, given) - given).sum() < 0.35 * (given > 0).sum() ** 0.5 * 8
    everything = np.ones((64, 64), np.float32)
    assert (measured_edge(plain, everything) > 0.9).all()


def test_a_foreground_without_core_is_rejected() -> None:
    with pytest.raises(EditRejectedError, match="thinner"):
        foreground_core(np.full((9, 9), 0.5, np.float32))


def texture(seed: int, size: int = 112) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).normal(size=(size, size, 1)).astype(np.float32)
    rough = cv2.GaussianBlur(noise, (0, 0), 1.2)[..., None]
    return np.clip(120 + 70 * rough / rough.std() * np.array([0.6, 1.0, 0.5]), 0, 255).astype(np.uint8)


def roughness(pixels: NDArray[np.uint8], where: NDArray[np.bool_]) -> float:
    return float(np.abs(cv2.Laplacian(pixels, cv2.CV_32F))[where].mean())


def test_a_removed_foreground_leaves_texture_not_a_smooth_ghost() -> None:
    alpha = disc(112, 26)
    plain = texture(0)
    image = np.where((alpha > 0.5)[..., None], np.uint8(250), plain)
    cleared = clear_background(image, alpha)
    inside = alpha > 0.5
    usual = roughness(plain, ~inside)
    assert roughness(cleared, inside) > 0.6 * usual
    assert abs(float(cleared[inside].mean()) - float(plain[~inside].mean())) < 15
    far = disc(112, 34) == 0
    assert (cleared[far] == image[far]).all()
    # Positive control: diffusion alone leaves a ghost that this measure sees.
    ghost = cv2.inpaint(image, (alpha > 0.02).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    assert roughness(ghost, inside) < 0.4 * usual


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.97])
def test_every_hole_is_filled(share: float) -> None:
    image = texture(1, 48)
    hole = np.zeros((48, 48), bool)
    hole[:, : round(share * 48)] = True
    marked = np.where(hole[..., None], np.array([255, 0, 255], np.uint8), image)
    filled = fill_hole(marked, hole)
    assert filled.shape == image.shape
    assert not (filled == [255, 0, 255]).all(axis=2).any()
    if not share:
        assert (filled == image).all()


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (64, 64), (200, 100), (20, 20)])
def test_cover_fills_the_frame_and_keeps_proportions(shape: tuple[int, int]) -> None:
    image = np.zeros((*shape, 3), np.uint8)
    image[:] = np.linspace(0, 255, shape[1])[None, :, None]
    covered = cover(image, 64, 48)
    assert covered.shape == (48, 64, 3) and covered.dtype == np.uint8
    assert (np.diff(covered[24, :, 0].astype(int)) >= -3).all()


@pytest.fixture
def scene(tmp_path: Path) -> EditScene:
    workspace = Workspace(tmp_path)
    table = fake_manifest(workspace)
    items = table.filter(pc.equal(table["split"], "train"))
    root = tmp_path / "data"
    masks = open_masks(("column",), {}, workspace=workspace, root=root)
    return EditScene(workspace, items, {0: "green", 1: "brown"}, {0: "lying", 1: "standing"}, masks, 0, root)


def test_each_attempt_has_another_background(scene: EditScene) -> None:
    editor = CompositeEditor(CompositeOptions())
    assert editor.open(scene) == {0, 1}
    item = scene.items.to_pylist()[0]
    used = [editor.plan(EditTask(item, 1, 3, attempt)).columns["background_id"] for attempt in range(12)]
    assert len(set(used)) == 12
    with pytest.raises(EditRejectedError, match="no other background is left"):
        editor.plan(EditTask(item, 1, 3, 12))


def test_an_attempt_passes_over_bad_backgrounds_and_still_has_another(scene: EditScene) -> None:
    editor = CompositeEditor(CompositeOptions())
    editor.open(scene)
    item = scene.items.to_pylist()[0]
    plans = [editor.plan(EditTask(item, 1, 0, attempt)) for attempt in range(3)]
    order = [plan.columns["background_id"] for plan in plans]
    scene.workspace.file(f"data/images/{order[0]}.png").write_bytes(b"")
    again = [editor.plan(EditTask(item, 1, 0, a)).columns["background_id"] for a in range(2)]
    assert again == order[1:]


def test_the_same_plan_gives_the_same_pixels_in_any_thread(scene: EditScene) -> None:
    editor = CompositeEditor(CompositeOptions())
    editor.open(scene)
    tasks = [EditTask(item, 1 - item["env"], turn) for turn, item in enumerate(scene.items.to_pylist())]

    def made(task: EditTask) -> bytes:
        (pixels,) = editor.edit([editor.plan(task)])
        assert isinstance(pixels, np.ndarray) and pixels.shape == (32, 32, 3)
        return pixels.tobytes()

    alone = [made(task) for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(made, tasks)) == alone
    editor.close()
    with pytest.raises(DataError, match="opened"):
        editor.plan(tasks[0])


def folder_options(folder: str) -> CompositeOptions:
    return CompositeOptions(backgrounds="folder", folder=Path(folder))


def test_backgrounds_from_a_folder_are_used_as_they_are(scene: EditScene) -> None:
    assert scene.root is not None
    for number in range(3):
        place = scene.root / "grounds" / "brown" / f"deep{number}"
        place.mkdir(parents=True)
        Image.fromarray(np.full((40, 50, 3), 40 * number, np.uint8)).save(place / "g.png")
    (scene.root / "grounds" / "brown" / "note.txt").write_text("no image")
    editor = CompositeEditor(folder_options("grounds"))
    assert editor.open(scene) == {1}
    item = next(r for r in scene.items.to_pylist() if r["env"] == 0)
    mask = decode_mask(scene.workspace.file(item["mask_path"]).read_bytes())
    used = set()
    for turn in range(3):
        plan = editor.plan(EditTask(item, 1, turn))
        (pixels,) = editor.edit([plan])
        used.add(plan.columns["background_id"])
        number = int(plan.columns["background_id"][len("brown/deep")])
        assert (pixels[mask == 0] == 40 * number).all()
    assert used == {f"brown/deep{number}/g.png" for number in range(3)}


def test_folders_that_cannot_be_used_are_one_line(scene: EditScene, tmp_path: Path) -> None:
    assert scene.root is not None
    (scene.root / "empty").mkdir()
    (tmp_path / "outside").mkdir()
    (scene.root / "link").symlink_to(tmp_path / "outside")
    for folder, error, words in (
        ("empty", DataError, "named green, brown"),
        ("absent", DataError, "is no folder"),
        ("../outside", ConfigError, "leaves the data set's folder"),
        ("link", ConfigError, "leaves the data set's folder"),
        (str(tmp_path / "outside"), ConfigError, "leaves the data set's folder"),
    ):
        with pytest.raises(error, match=words) as caught:
            CompositeEditor(folder_options(folder)).open(scene)
        assert "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="needs a data set with a folder"):
        CompositeEditor(folder_options("empty")).open(replace(scene, root=None))
    for half in ({"folder": "x"}, {"backgrounds": "folder"}):
        with pytest.raises(ConfigError, match="go together"):
            parse_options(CompositeOptions, half, "composite")


def test_an_environment_name_with_dots_reads_no_other_folder(scene: EditScene) -> None:
    assert scene.root is not None
    (scene.root / "grounds" / "brown").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(scene.root / "grounds" / "brown" / "g.png")
    odd = replace(scene, env_names={0: "../images", 1: "brown"})
    assert CompositeEditor(folder_options("grounds")).open(odd) == {1}


def test_an_editor_must_be_opened_and_given_its_own_options() -> None:
    with pytest.raises(ConfigError):
        CompositeEditor(RandomOptions())
    task = EditTask({"path": "x", "mask_path": "y"}, 0, 0)
    with pytest.raises(DataError, match="opened"):
        CompositeEditor(CompositeOptions()).plan(task)
