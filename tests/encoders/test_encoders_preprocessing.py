"""The images' way to the encoder against torchvision's and open_clip's transforms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import open_clip
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision import transforms

from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.lite import PREPROCESSING
from cfpairs.encoders.preprocessing import preprocess_image

SIZES = [
    (224, 224),
    (256, 256),
    (96, 96),
    (1, 1),
    (3, 500),
    (500, 3),
    (640, 427),
    (255, 301),
    (301, 254),
    (57, 400),
]
MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD


def noise(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(size)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


@pytest.mark.parametrize("size", SIZES)
def test_lite_is_a_bicubic_resize_to_256_and_a_crop_of_224(size):
    reference = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    image = noise(size)
    found = preprocess_image(image, PREPROCESSING)
    assert found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, reference(image).numpy(), atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_every_resize_mode_is_open_clips(size, mode, interpolation):
    if mode == "longest" and max(size) > 100 * min(size):
        size = (10, 500)  # for a narrower one open_clip's own transform rounds the shorter side to nothing
    reference = image_transform_v2(
        PreprocessCfg(size=64, resize_mode=mode, interpolation=interpolation, fill_color=7), is_train=False
    )
    how = Preprocessing(64, 64, interpolation, MEAN, STD, resize_mode=mode, fill=7)
    image = noise(size)
    np.testing.assert_allclose(preprocess_image(image, how), reference(image).numpy(), atol=1e-6)


def test_the_modes_differ():
    image = noise((300, 200))
    how = Preprocessing(64, 64, "bicubic", MEAN, STD)
    found = [preprocess_image(image, replace(how, resize_mode=m)) for m in ("shortest", "longest", "squash")]
    assert not np.allclose(found[0], found[1]) and not np.allclose(found[0], found[2])
