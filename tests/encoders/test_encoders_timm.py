"""Models of timm: features, preprocessing, weight files and names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from cfpairs.config import EncoderConfig
from cfpairs.encoders import timm as ours
from cfpairs.encoders.factory import open_encoder
from cfpairs.errors import ConfigError, DataError, UnknownNameError

pytestmark = pytest.mark.embed

MODELS = ("test_vit", "test_convnext", "test_resnet")


def config(argument: str) -> EncoderConfig:
    return EncoderConfig(
        spec=f"timm:{argument}", device="cpu", runtime="torch", decoder="pillow", batch_size=2
    )


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory) -> tuple[str, torch.nn.Module, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(request.param).eval()
    file = tmp_path_factory.mktemp("timm") / "w.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return request.param, network, file


def test_features_and_preprocessing_are_timms(model, photographs, tmp_path):
    name, network, file = model
    encoder = open_encoder(config(f"{name}@{file}"))
    transform = create_transform(**resolve_data_config({}, model=network))
    images = [photographs["coffee"], photographs["page"]]
    inputs = torch.stack([transform(image) for image in images])
    for image, expected in zip(images, inputs, strict=True):
        np.testing.assert_allclose(encoder.preprocess(image), expected.numpy(), atol=1e-5)
    network.reset_classifier(0)
    with torch.inference_mode():
        expected = network(inputs).numpy()
    found = encoder.encode(np.stack([encoder.pixels(image) for image in images]))
    np.testing.assert_allclose(found, expected, atol=1e-5 * max(1, np.abs(expected).max()))
    assert found.shape == (2, encoder.info.dim) and encoder.info.features == "pooled"
    assert encoder.info.name == f"timm-{name}"
    wrapped = tmp_path / "run.pt"
    state = {f"module.{k}": v for k, v in torch.load(save_pt(model, tmp_path), weights_only=True).items()}
    torch.save({"state_dict": state}, wrapped)
    np.testing.assert_array_equal(
        open_encoder(config(f"{name}@{wrapped}")).encode(np.stack([encoder.preprocess(i) for i in images])),
        encoder.encode(np.stack([encoder.preprocess(i) for i in images])),
    )


def save_pt(model, folder: Path) -> Path:
    from safetensors.torch import load_file

    torch.save(load_file(model[2]), folder / "plain.pt")
    return folder / "plain.pt"


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "vit_base_patch16_siglip_224", "tf_efficientnet_l2"]
)
@pytest.mark.parametrize("size", [(301, 200), (97, 640), (224, 224)])
def test_crop_and_interpolation_follow_the_data_configuration(name, size):
    described = ours._described(ours._parse(name))
    how = ours._preprocessing(name, described)
    found = resolve_data_config(pretrained_cfg=described)
    rng = np.random.default_rng(1)
    image = Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    from cfpairs.encoders.preprocessing import preprocess_image

    np.testing.assert_allclose(
        preprocess_image(image, how), create_transform(**found)(image).numpy(), atol=2e-6
    )


@pytest.mark.parametrize("kind", ["bilinear", "bicubic", "lanczos", "nearest"])
@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_every_crop_mode_is_timms(kind, mode, crop):
    described = {
        "input_size": (3, 48, 48), "interpolation": kind, "crop_mode": mode, "crop_pct": crop,
        "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4),
    }  # fmt: skip
    image = Image.fromarray(np.random.default_rng(2).integers(0, 256, (91, 130, 3), dtype=np.uint8))
    from cfpairs.encoders.preprocessing import preprocess_image

    expected = create_transform(**resolve_data_config(pretrained_cfg=described))(image).numpy()
    np.testing.assert_allclose(
        preprocess_image(image, ours._preprocessing("x", described)), expected, atol=2e-6
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input_size": (3, 224, 192)}, "no square of three channels: got 3 x 224 x 192"),
        ({"input_size": (1, 224, 224)}, "no square of three channels"),
        ({"crop_mode": "border"}, "not known here: got crop_mode border"),
    ],
)
def test_an_input_that_cannot_be_made_is_refused(change, says):
    with pytest.raises(ConfigError, match=says):
        ours._preprocessing("x", {"crop_pct": 1.0, **change})


@pytest.mark.parametrize(
    ("argument", "error", "says"),
    [
        ("", ConfigError, "timm needs a model"),
        ("resnet18@", ConfigError, "no path after '@'"),
        ("resnet81", UnknownNameError, "no such model: got 'resnet81', expected perhaps 'resnet18'"),
        ("resnet18.nope", UnknownNameError, "resnet18 has no such tag: got 'nope', expected one of a1_in1k"),
        ("resnet18@/no/file", ConfigError, "/no/file cannot be read"),
    ],
)
def test_a_wrong_spec_is_one_line(argument, error, says):
    with pytest.raises(error, match=says) as caught:
        open_encoder(config(argument))
    assert "\n" not in str(caught.value)


def test_weights_of_another_model_are_refused(model, tmp_path):
    other = {"test_vit": "test_convnext", "test_convnext": "test_resnet", "test_resnet": "test_vit"}[model[0]]
    with pytest.raises(DataError, match=f"does not hold the weights of timm's {other}") as caught:
        open_encoder(config(f"{other}@{model[2]}")).load()
    assert "\n" not in str(caught.value)


def test_a_checkpoint_with_another_classifier_is_read(model, tmp_path):
    """Fine-tuned weights: the classifier is not used, whatever its size."""
    name, _, file = model
    network = timm.create_model(name, num_classes=7)
    mine = tmp_path / "mine.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, mine)
    assert open_encoder(config(f"{name}@{mine}")).info.id != open_encoder(config(f"{name}@{file}")).info.id
    open_encoder(config(f"{name}@{mine}")).load()
