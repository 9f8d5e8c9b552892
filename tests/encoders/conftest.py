"""Real photographs, and digits drawn on parts of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from sklearn.datasets import load_digits, load_sample_images

PHOTOGRAPHS = (
    "astronaut",
    "camera",
    "coffee",
    "chelsea",
    "rocket",
    "brick",
    "grass",
    "gravel",
    "coins",
    "page",
)


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    """On a busy machine torch's threads wait for each other longer than these small batches take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_findings(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """What was measured on this machine before must not decide how a test runs."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def photographs() -> dict[str, Image.Image]:
    found = {name: Image.fromarray(getattr(data, name)()).convert("RGB") for name in PHOTOGRAPHS}
    for name, pixels in zip(("temple", "flower"), load_sample_images().images, strict=True):
        found[name] = Image.fromarray(pixels)
    return found


@pytest.fixture(scope="session")
def real_images(photographs: dict[str, Image.Image]) -> list[Image.Image]:
    """The photographs, and 20 digits of 96 to 224 pixels drawn on crops of them."""
    rng = np.random.default_rng(7)
    images = list(photographs.values())
    for stroke in load_digits().images[:20]:
        ground = images[int(rng.integers(len(photographs)))]
        side = int(rng.integers(96, min(225, *ground.size)))
        left, top = (int(rng.integers(0, length - side + 1)) for length in ground.size)
        crop = np.asarray(ground.crop((left, top, left + side, top + side)), float)
        mask = Image.fromarray((stroke / 16 * 255).astype(np.uint8)).resize((side, side), 3)
        alpha = np.asarray(mask, float)[:, :, None] / 255
        images.append(
            Image.fromarray(
                np.clip(crop * (1 - alpha) + rng.choice([20, 235]) * alpha, 0, 255).astype(np.uint8)
            )
        )
    return images


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` with the same row of `b`."""
    a, b = a.astype(float), b.astype(float)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="session")
def row_cosines() -> object:
    return cosines
