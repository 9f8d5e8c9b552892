"""The pixels of an edit: cores kept, no ring of the old background, no trace of the other foreground."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.edit.base import EditRejectedError, EditTask
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
from cfpairs.pairs.random import RandomOptions

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


def test_an_editor_must_be_opened_and_given_its_own_options() -> None:
    with pytest.raises(ConfigError):
        CompositeEditor(RandomOptions())
    task = EditTask({"path": "x", "mask_path": "y"}, 0, 0)
    with pytest.raises(DataError, match="opened"):
        CompositeEditor(CompositeOptions()).plan(task)
