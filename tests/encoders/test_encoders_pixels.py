"""8-bit input, streams of batches, and the GPU's way from files to pixels as far as a CPU can run it."""

from __future__ import annotations

import io

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from cfpairs.config import EncoderConfig
from cfpairs.encoders import runtimes
from cfpairs.encoders.base import Preprocessing, encode_stream
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.jpeg import is_plain_jpeg
from cfpairs.encoders.openvino_runtime import OpenVinoRuntime
from cfpairs.encoders.pixels import square_file, square_image, square_tensor
from cfpairs.encoders.preprocessing import normalise, preprocess_image, square_pixels
from cfpairs.encoders.runtimes import RunPlan
from cfpairs.errors import ConfigError

pytestmark = pytest.mark.embed

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")


def how(**change: object) -> Preprocessing:
    values = {"size": 64, "resize": 72, "interpolation": "bicubic"}
    return Preprocessing(**{**values, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4), **change})


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
def test_pixels_normalised_are_what_preprocess_gives(photographs, mode):
    for image in photographs.values():
        pixels = square_pixels(image, how(resize_mode=mode))
        assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
        np.testing.assert_array_equal(
            normalise(pixels, how()), preprocess_image(image, how(resize_mode=mode))
        )


@pytest.mark.parametrize("mode", ["shortest", "longest", "squash"])
@pytest.mark.parametrize("kind", ["bicubic", "bilinear"])
def test_squares_made_by_torch_are_pillows_to_one_level(photographs, mode, kind):
    way = how(resize_mode=mode, interpolation=kind, fill=9)
    for image in photographs.values():
        tensor = torch.from_numpy(np.array(image).transpose(2, 0, 1))[None]
        expected = square_pixels(image, way).astype(int)
        for found in (square_tensor(tensor, way)[0].numpy(), square_image(image, way)):
            assert found.shape == expected.shape and found.dtype == np.uint8
            assert np.abs(found - expected).max() <= 1 and (found != expected).mean() < 0.02


def jpeg(image: Image.Image, **settings: object) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", **settings)
    return target.getvalue()


def test_files_that_pillow_reads_otherwise_are_left_to_it(photographs):
    image = photographs["coffee"].resize((60, 40))
    turned = Image.Exif()
    turned[0x0112] = 6
    whole = jpeg(image)
    for plain in (whole, jpeg(image.convert("L")), jpeg(image, progressive=True)):
        assert is_plain_jpeg(plain)
    png = io.BytesIO()
    image.save(png, "PNG")
    for left in (
        b"",
        b"\xff\xd8",
        whole[:-200],
        png.getvalue(),
        jpeg(image.convert("CMYK")),
        jpeg(image, exif=turned),
        jpeg(image.resize((6000, 8))),
        whole.replace(b"\xff\xc0", b"\xff\xc9"),
    ):
        assert not is_plain_jpeg(left)
        assert square_file(left, how()) is None
    upright = Image.Exif()
    upright[0x0112] = 1
    assert is_plain_jpeg(jpeg(image, exif=upright))


@pytest.mark.parametrize(
    "settings", [{}, {"progressive": True}, {"subsampling": 2, "quality": 40}, {"quality": 100}]
)
def test_a_file_gives_the_pixels_of_its_image(photographs, settings):
    for name, image in photographs.items():
        for kind in (image, image.convert("L")):
            content = jpeg(kind, **settings)
            with Image.open(io.BytesIO(content)) as opened:
                expected = square_image(opened.convert("RGB"), how())
            found = square_file(content, how())
            assert found is not None, name
            np.testing.assert_array_equal(found, expected)


def test_a_damaged_file_gives_what_pillow_gives_or_is_left_to_it(photographs):
    """Bytes are changed at random in the scan; where libjpeg goes on, both give the same picture."""
    rng = np.random.default_rng(0)
    whole = jpeg(photographs["chelsea"].resize((120, 90)))
    outcomes = {"same": 0, "left": 0}
    for _ in range(60):
        content = bytearray(whole)
        for at in rng.integers(len(whole) // 2, len(whole) - 2, rng.integers(1, 4)):
            content[at] = int(rng.integers(256))
        if rng.random() < 0.3:
            del content[len(content) // 2 : -2]
        found = square_file(bytes(content), how())
        if found is None:
            outcomes["left"] += 1
            continue
        with Image.open(io.BytesIO(content)) as opened:
            np.testing.assert_array_equal(found, square_image(opened.convert("RGB"), how()))
        outcomes["same"] += 1
    assert outcomes["same"] > 10, outcomes


def test_features_of_the_fast_decoder_are_pillows(small, photographs, row_cosines):
    """Stated tolerance: a cosine of 0.9999 between features."""
    fast, exact = (
        open_encoder(EncoderConfig(spec=small[1], device="cpu", runtime="torch", decoder=d, batch_size=4))
        for d in ("auto", "pillow")
    )
    assert (fast.info.preprocessing.decoder, exact.info.preprocessing.decoder) == ("fast", "pillow")
    assert fast.info.id != exact.info.id and exact.file_pixels(jpeg(photographs["coffee"])) is None
    images = list(photographs.values())[:4]
    found, expected = (e.encode(np.stack([e.pixels(image) for image in images])) for e in (fast, exact))
    assert row_cosines(found, expected).min() >= 0.9999
    assert not np.array_equal(found, expected)
    files = np.stack([fast.file_pixels(jpeg(image)) for image in images])
    pillow = np.stack([fast.pixels(Image.open(io.BytesIO(jpeg(image))).convert("RGB")) for image in images])
    np.testing.assert_array_equal(files, pillow)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tuple[torch.nn.Module, str]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_efficientnet").eval()
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    network.reset_classifier(0)
    return network, f"timm:test_efficientnet@{file}"


@pytest.mark.parametrize("request_size", [1, 4])
def test_streams_give_each_batch_its_own_features(small, request_size):
    pytest.importorskip("openvino")
    plan = RunPlan("cpu", "openvino", "fp32", request=request_size)
    runtime = OpenVinoRuntime(small[0], plan, how(size=160), "small")
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (5, 3, 160, 160), dtype=np.uint8) for _ in range(3)]
    with torch.inference_mode():
        expected = [small[0](torch.from_numpy(normalise(b, how()))).numpy() for b in batches]
    pulled: list[int] = []

    def source():
        for number, batch in enumerate(batches):
            pulled.append(number)
            yield batch

    for number, found in enumerate(runtime.stream(source())):
        assert len(pulled) == min(number + 2, 3), "the next batch is taken before the last is given"
        np.testing.assert_allclose(found, expected[number], atol=1e-4)
    np.testing.assert_allclose(runtime(batches[1]), expected[1], atol=1e-4)
    alone = runtime(batches[0][2:3])
    np.testing.assert_allclose(alone, runtime(batches[0])[2:3], atol=1e-5)
    half = runtime.stream(iter(batches))
    next(half)
    half.close()
    np.testing.assert_allclose(runtime(batches[2]), expected[2], atol=1e-4)


def test_eight_bits_and_floats_give_the_same_features(small, photographs):
    encoder = open_encoder(EncoderConfig(spec=small[1], device="cpu", runtime="torch", batch_size=2))
    images = [photographs["coffee"], photographs["brick"]]
    bits = np.stack([encoder.pixels(image) for image in images])
    floats = np.stack([encoder.preprocess(image) for image in images])
    np.testing.assert_allclose(encoder.encode(bits), encoder.encode(floats), atol=1e-5)
    assert len(list(encode_stream(encoder, [bits, bits]))) == 2
    assert encoder.decode_files([b"x"]) == [None]
    np.testing.assert_array_equal(encoder.gather(list(bits)), bits)


def test_nvjpeg_needs_a_gpu_and_is_part_of_the_id(small, monkeypatch):
    with pytest.raises(ConfigError, match=r"nvJPEG needs an NVIDIA GPU.*decoder: pillow"):
        open_encoder(EncoderConfig(spec=small[1], device="cpu", decoder="nvjpeg"))
    monkeypatch.setattr(runtimes, "_has_cuda", lambda: True)
    monkeypatch.setattr("cfpairs.encoders.findings.processor", lambda device: "some GPU")
    plain, fast = (open_encoder(EncoderConfig(spec=small[1], decoder=d)) for d in ("pillow", "nvjpeg"))
    assert plain.info.id != fast.info.id and fast.info.preprocessing.decoder == "nvjpeg"
    assert '"decoder": "nvjpeg"' in fast.info.metadata()["preprocessing"]


def on_gpu(spec: str, **settings: object) -> EncoderConfig:
    return EncoderConfig(spec=spec, device="cuda", batch_size=4, **settings)


@pytest.fixture
def batches(small, photographs) -> list[np.ndarray]:
    encoder = open_encoder(EncoderConfig(spec=small[1], device="cpu", runtime="torch"))
    rows = [encoder.pixels(image) for image in photographs.values()]
    return [np.stack(rows[i : i + 4]) for i in (0, 4, 8)]


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("compile_", ["auto", "off"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("bf16", 0.9), ("fp16", 0.99)])
def test_a_gpu_gives_the_features_of_the_cpu(small, batches, row_cosines, compile_, precision, least):
    reference = open_encoder(EncoderConfig(spec=small[1], device="cpu", runtime="torch", batch_size=4))
    encoder = open_encoder(on_gpu(small[1], precision=precision, compile=compile_))
    for found, batch in zip(encoder.stream(batches), batches, strict=True):
        assert row_cosines(found, reference.encode(batch)).min() >= least


@pytest.mark.gpu
@gpu
def test_graphs_change_no_bit(small, batches):
    graphs, eager = (open_encoder(on_gpu(small[1], compile=c)) for c in ("auto", "off"))
    for a, b in zip(graphs.stream(batches), eager.stream(batches), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.gpu
@gpu
def test_files_decoded_on_the_gpu_are_near_pillows(small, photographs, row_cosines):
    """Stated tolerance: a cosine of 0.999 between features, for JPEG files of photographs."""
    encoder = open_encoder(on_gpu(small[1], decoder="nvjpeg"))
    images = list(photographs.values())[:3]
    blocks = encoder.decode_files([*(jpeg(image) for image in images), b"no image"])
    assert [block is None for block in blocks] == [False] * 3 + [True]
    found = encoder.encode(encoder.gather([*blocks[:3], encoder.pixels(images[0])]))
    pillow = [encoder.pixels(Image.open(io.BytesIO(jpeg(i))).convert("RGB")) for i in [*images, images[0]]]
    assert row_cosines(found[:3], encoder.encode(np.stack(pillow))[:3]).min() >= 0.999
