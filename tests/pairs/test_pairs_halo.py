"""No halo: a probe that looks at the rim of the foreground cannot tell composites from unedited images.

The images are photographs laid on photographs as a camera would mix them: an edge blurred over about a pixel,
then noise. The probe is given more than any encoder sees: where the outline is. It reads roughness and colour
in rings around it. Edited and unedited images show other foregrounds of the same kind in one environment.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cfpairs.pairs.edit.composite import clear_background
from cfpairs.pairs.edit.edges import compose, measured_edge

SIDE, COUNT = 88, 80
FAR = 8
RINGS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)

Pixels = NDArray[np.uint8]
Alpha = NDArray[np.float32]
Edit = Callable[[Pixels, Alpha, Pixels], Pixels]

CAUGHT, MISSED = 0.95, 0.7
"""A hard cut-out is told apart at least this often, a composite at most this often; chance is 0.5."""


def photo(name: str) -> NDArray[np.float32]:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return np.asarray(image.convert("RGB"), np.float32)


OBJECTS = [photo(name) for name in ("chelsea.png", "coffee.png", "astronaut.png")]
GREEN = [photo("grass.png") * np.float32([0.8, 1.04, 0.58])]
GREY = [photo("gravel.png"), photo("brick.png") * np.float32([1.1, 0.9, 0.8])]


def crop(photos: list[NDArray[np.float32]], rng: np.random.Generator) -> NDArray[np.float32]:
    whole = photos[int(rng.integers(len(photos)))]
    extent = int(rng.integers(120, 240))
    top, left = (int(rng.integers(length - extent + 1)) for length in whole.shape[:2])
    part = whole[top : top + extent, left : left + extent]
    return np.asarray(cv2.resize(part, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.float32)


def drawn(grounds: list[NDArray[np.float32]], seed: int) -> tuple[list[Pixels], list[Alpha]]:
    """Images and the true share of foreground in each pixel."""
    images, alphas = [], []
    y, x = np.mgrid[:SIDE, :SIDE] - (SIDE - 1) / 2
    angle, radius = np.arctan2(y, x), np.hypot(x, y)
    for number in range(COUNT):
        rng = np.random.default_rng([seed, number])
        wave = sum(
            rng.uniform(-0.2, 0.2) / k**0.5 * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 7)
        )
        shape = (radius < SIDE * rng.uniform(0.2, 0.3) * (1 + wave)).astype(np.float32)
        alpha = cv2.GaussianBlur(shape, (0, 0), 0.9)
        mixed = alpha[..., None] * (crop(OBJECTS, rng) - (ground := crop(grounds, rng))) + ground
        images.append(np.clip(np.rint(mixed + rng.normal(0, 2, mixed.shape)), 0, 255).astype(np.uint8))
        alphas.append(np.asarray(alpha, np.float32))
    return images, alphas


def outlines(alphas: list[Alpha], kind: str) -> list[Alpha]:
    """Masks as annotators give them: exact, cut at a half, or drawn a pixel too wide."""
    if kind == "soft":
        return alphas
    hard = [(alpha > 0.5).astype(np.float32) for alpha in alphas]
    return hard if kind == "hard" else [cv2.dilate(mask, np.ones((3, 3), np.uint8)) for mask in hard]


def rim(image: Pixels, mask: Alpha) -> list[float]:
    """Roughness and colour in rings around the outline, the colour against that of the ground beyond."""
    shape = (mask >= 0.5).astype(np.uint8)
    away = cv2.distanceTransform(1 - shape, cv2.DIST_L2, 5) - cv2.distanceTransform(shape, cv2.DIST_L2, 5)
    colour = image.astype(np.float32)
    grey = colour.mean(axis=2)
    fine = np.abs(cv2.Laplacian(grey, cv2.CV_32F))
    steep = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    rough = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.5))
    beyond = colour[(away > FAR) & (away < 20)].mean(axis=0)
    seen: list[float] = []
    for ring in RINGS:
        where = np.rint(away) == ring
        seen += [float(np.log1p(measure[where].mean())) for measure in (fine, steep, rough)]
        seen += (colour[where].mean(axis=0) - beyond).tolist()
    return seen


def hard_cut(image: Pixels, mask: Alpha, ground: Pixels) -> Pixels:
    return np.where(mask[..., None] >= 0.5, image, ground)


def composite(image: Pixels, mask: Alpha, ground: Pixels) -> Pixels:
    return compose(image, measured_edge(image, mask), ground)


@pytest.fixture(scope="module")
def worlds() -> dict[str, tuple[list[Pixels], list[Alpha]]]:
    return {
        "source": drawn(GREEN, 0),
        "background": drawn(GREY, 1),
        "unedited": drawn(GREY, 2),
    }


def told_apart(one: list[list[float]], other: list[list[float]]) -> float:
    """Cross-validated accuracy of the probe."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000))
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    return float(cross_val_score(probe, np.array(one + other), np.repeat([0, 1], COUNT), cv=folds).mean())


@pytest.mark.parametrize("kind", ["soft", "hard", "wide"])
def test_a_probe_that_catches_a_hard_cut_misses_a_composite(
    worlds: dict[str, tuple[list[Pixels], list[Alpha]]], kind: str
) -> None:
    def rims(edit: Edit) -> list[list[float]]:
        edited = (edit(*parts) for parts in zip(images, masks, grounds, strict=True))
        return [rim(*both) for both in zip(edited, masks, strict=True)]

    images, alphas = worlds["source"]
    masks = outlines(alphas, kind)
    behind = zip(worlds["background"][0], outlines(worlds["background"][1], kind), strict=True)
    grounds = [clear_background(*both) for both in behind]
    plain = [
        rim(*both) for both in zip(worlds["unedited"][0], outlines(worlds["unedited"][1], kind), strict=True)
    ]
    assert told_apart(plain, rims(hard_cut)) > CAUGHT
    assert told_apart(plain, rims(composite)) < MISSED


def test_the_probe_sees_nothing_where_nothing_was_edited(
    worlds: dict[str, tuple[list[Pixels], list[Alpha]]],
) -> None:
    plain, more = (
        [rim(*both) for both in zip(*worlds[name], strict=True)] for name in ("unedited", "background")
    )
    assert told_apart(plain, more) < 0.6
