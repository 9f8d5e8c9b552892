"""open_clip's image towers from files on disk, and every way of naming them wrongly."""

from __future__ import annotations

import json
import os
import pickle
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from safetensors.torch import save_file

from cfpairs.config import EncoderConfig
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.open_clip_models import _visual
from cfpairs.encoders.weights import read_state_dict
from cfpairs.errors import CfpairsError, ConfigError, DataError, UnknownNameError

pytestmark = pytest.mark.embed

MODEL = "ViT-S-32-alt"


def config(argument: str, runtime: str = "torch", batch_size: int = 4) -> EncoderConfig:
    return EncoderConfig(
        spec=f"open_clip:{argument}", device="cpu", runtime=runtime, decoder="pillow", batch_size=batch_size
    )


@pytest.fixture(scope="module")
def original() -> tuple[torch.nn.Module, object]:
    """open_clip's own model and transform; random weights from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, _, transform = open_clip.create_model_and_transforms(MODEL)
    return model.eval(), transform


@pytest.fixture(scope="module")
def weights(original, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "tower.safetensors"
    save_file({k: v.contiguous() for k, v in original[0].state_dict().items()}, file)
    return file


@pytest.fixture(scope="module")
def encoders(weights) -> dict[str, object]:
    runtimes = ["torch"] + (["openvino"] if find_spec("openvino") else [])
    return {runtime: open_encoder(config(f"{MODEL}@{weights}", runtime)) for runtime in runtimes}


@pytest.fixture(scope="module")
def reference(original, real_images) -> np.ndarray:
    model, transform = original
    with torch.inference_mode():
        return model.encode_image(torch.stack([transform(image) for image in real_images[8:16]])).numpy()


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_features_are_those_of_encode_image(encoders, reference, real_images, row_cosines, runtime):
    if runtime not in encoders:
        pytest.skip("OpenVINO is not installed")
    before = torch.backends.mha.get_fastpath_enabled()
    encoder = encoders[runtime]
    inputs = np.stack([encoder.preprocess(image) for image in real_images[8:16]])
    found = np.concatenate([encoder.encode(inputs[:4]), encoder.encode(inputs[4:])])
    assert torch.backends.mha.get_fastpath_enabled() == before
    assert found.shape == (8, encoder.info.dim) and found.dtype == np.float32
    np.testing.assert_allclose(found, reference, atol=1e-4 * np.abs(reference).max())
    assert row_cosines(found, reference).min() >= 0.999
    assert abs(np.linalg.norm(found[0]) - 1) > 1e-3, "the features must not be normalised"

    alone = np.zeros_like(inputs[:4])
    alone[0] = inputs[2]
    np.testing.assert_allclose(encoder.encode(alone)[0], found[2], atol=1e-5)


def test_texts_are_those_of_encode_text(encoders, original, monkeypatch):
    prompts = ["a photo on grass", "a photo on stone"]
    with torch.inference_mode():
        expected = original[0].encode_text(open_clip.get_tokenizer(MODEL)(prompts)).numpy()
    found = encoders["torch"].encode_text(prompts)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert found.shape == (2, encoders["torch"].info.dim) and np.abs(found[0] - found[1]).max() > 1e-3

    def unreachable(_model: str) -> object:
        raise OSError("no route to the hub. Try again")

    monkeypatch.setattr(open_clip, "get_tokenizer", unreachable)
    with pytest.raises(
        CfpairsError, match=r"tokenizer of ViT-S-32-alt cannot be had: got OSError: no route to the hub$"
    ):
        encoders["torch"].encode_text(prompts)


def test_preprocessing_is_the_models_own(encoders, original, real_images):
    encoder = encoders["torch"]
    for image in real_images[:20]:
        np.testing.assert_allclose(encoder.preprocess(image), original[1](image).numpy(), atol=1e-5)


def test_a_training_checkpoint_of_a_wrapped_model_is_read(original, encoders, real_images, tmp_path: Path):
    file = tmp_path / "epoch_3.pt"
    state = {f"module.{name}": tensor for name, tensor in original[0].state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, file)
    plain, wrapped = encoders["torch"], open_encoder(config(f"{MODEL}@{file}"))
    batch = np.stack([plain.preprocess(image) for image in real_images[:4]])
    np.testing.assert_array_equal(wrapped.encode(batch), plain.encode(batch))
    assert wrapped.info.name == plain.info.name == f"open_clip-{MODEL}"
    assert wrapped.info.id != plain.info.id, "another weight file is another encoder"


def test_the_text_side_is_dropped(encoders, original):
    encoder = encoders["torch"]
    encoder.load()
    kept = sum(p.numel() for p in encoder._runtime._module.parameters())
    assert kept == sum(p.numel() for p in original[0].visual.parameters())


@pytest.mark.parametrize(
    ("argument", "error", "says"),
    [
        ("", ConfigError, "needs a model.*MODEL/TAG.*MODEL@/path/to/weights"),
        ("@/some/file", ConfigError, "needs a model"),
        ("ViT-B-32", ConfigError, "no weights are named.*openai.*ViT-B-32@/path/to/weights"),
        (MODEL, ConfigError, f"no weights are named.*expected {MODEL}@/path/to/weights"),
        ("vit-b-33/openai", UnknownNameError, "no such model: got 'vit-b-33', expected perhaps 'ViT-B-32'"),
        ("qqqqqqqq/openai", UnknownNameError, r"one of open_clip.list_models\(\), such as 'ViT-B-32'"),
        ("ViT-B-32/opnai", UnknownNameError, "no such tag: got 'opnai', expected one of .*openai"),
        (f"{MODEL}/openai", UnknownNameError, "it has no tags"),
        ("ViT-B-32@", ConfigError, "no path after '@'"),
        ("ViT-B-32@/no/such/file.safetensors", ConfigError, "/no/such/file.safetensors.*No such file"),
        ("ViT-B-32@/", ConfigError, "cannot be read"),
    ],
)
def test_a_wrong_spec_gets_one_line_that_says_what_to_write(argument, error, says):
    with pytest.raises(error, match=says) as caught:
        open_encoder(config(argument))
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_gets_one_line(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> str:
        raise OSError("name resolution failed\nwith a long story")

    monkeypatch.setattr(open_clip, "download_pretrained", fail)
    with pytest.raises(
        CfpairsError, match=r"ViT-B-32/openai cannot be fetched.*ViT-B-32@/path/to/weights"
    ) as e:
        open_encoder(config("ViT-B-32/openai"))
    assert "\n" not in str(e.value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub that answers every tag with the same small file."""
    file = tmp_path / "from-hub.safetensors"
    save_file({"visual.x": torch.zeros(1)}, file)
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *_, **__: str(file))
    return file


def test_a_tag_brings_its_own_preprocessing(hub):
    encoder = open_encoder(config("ViT-B-16-SigLIP/webli"))
    how = encoder.info.preprocessing
    assert (how.mean, how.std, how.resize_mode, how.size) == ((0.5,) * 3, (0.5,) * 3, "squash", 224)
    assert encoder.info.name == "open_clip-ViT-B-16-SigLIP-webli"
    assert open_encoder(config("ViT-B-32/openai")).info.preprocessing.mean == open_clip.OPENAI_DATASET_MEAN


def test_tags_are_told_apart_and_written_as_open_clip_writes_them(hub):
    ids = {open_encoder(config(f"ViT-B-32/{tag}")).info.id for tag in ("openai", "laion2b_s34b_b79k")}
    assert len(ids) == 2
    assert open_encoder(config("ViT-B-32/LAION2B-S34B-B79K")).info.id in ids


def test_a_tag_trained_with_quick_gelu_is_run_with_it(hub):
    for tag, expected in (("openai", True), ("laion2b_s34b_b79k", False)):
        encoder = open_encoder(config(f"ViT-B-32/{tag}"))
        with torch.device("meta"):
            tower = _visual(encoder._model)
        assert isinstance(tower.transformer.resblocks[0].mlp.gelu, QuickGELU) is expected


def test_a_file_gets_what_the_published_tags_agree_on(hub):
    assert open_encoder(config(f"ViT-B-16-SigLIP@{hub}")).info.preprocessing.mean == (0.5, 0.5, 0.5)
    assert open_encoder(config(f"ViT-L-14@{hub}")).info.preprocessing.mean == open_clip.OPENAI_DATASET_MEAN


def test_a_configuration_beside_the_file_comes_first(hub):
    beside = hub.parent / "open_clip_config.json"
    beside.write_text(json.dumps({"preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "resize_mode": "longest"}}))
    how = open_encoder(config(f"ViT-B-32@{hub}")).info.preprocessing
    assert (how.mean, how.resize_mode, how.interpolation) == ((0.1, 0.2, 0.3), "longest", "bicubic")
    beside.write_text("{")
    with pytest.raises(ConfigError, match=r"open_clip_config\.json cannot be read"):
        open_encoder(config(f"ViT-B-32@{hub}"))


def test_weights_of_another_model_are_refused(hub):
    with pytest.raises(DataError, match="does not hold the weights of open_clip's ViT-S-32-alt") as caught:
        open_encoder(config(f"{MODEL}@{hub}")).load()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


class Bomb:
    """Pickled, it runs a command when it is read."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth", ""])
@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_file_that_would_run_code_is_refused_and_not_run(tmp_path: Path, suffix: str, form: str):
    mark = tmp_path / "it-ran"
    file = tmp_path / f"weights{suffix}"
    content = {"state_dict": {"visual.x": torch.zeros(1)}, "extra": Bomb(f"touch {mark}")}
    if form == "pickle":
        file.write_bytes(pickle.dumps(content["extra"]))
    else:
        torch.save(content, file)
    with pytest.raises(DataError, match="is refused: it is not a plain checkpoint") as caught:
        open_encoder(config(f"{MODEL}@{file}")).load()
    assert not mark.exists()
    assert "weights_only" not in str(caught.value), "torch's advice to switch the check off is not passed on"
    pickle.loads(pickle.dumps(content["extra"]))
    assert mark.exists(), "the bomb must work where it is let off"


def test_a_torchscript_archive_is_refused(tmp_path: Path):
    file = tmp_path / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(file))
    with pytest.raises(DataError, match="TorchScript"):
        read_state_dict(file)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("fault", ["empty", "cut", "noise"])
def test_damaged_files_are_refused(tmp_path: Path, name: str, fault: str):
    file = tmp_path / name
    tensors = {"visual.x": torch.arange(4096.0)}
    if name.endswith("pt"):
        torch.save(tensors, file)
    else:
        save_file(tensors, file)
    assert set(read_state_dict(file)) == {"visual.x"}
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": bytes(range(1, 200))}[fault])
    with pytest.raises(DataError, match=r"damaged or of another format|is refused") as caught:
        read_state_dict(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {"a": 1}}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(tmp_path: Path, content: object):
    file = tmp_path / "w.pt"
    torch.save(content, file)
    with pytest.raises(DataError, match="no mapping of names to tensors"):
        read_state_dict(file)


def test_a_missing_file_and_a_folder(tmp_path: Path):
    with pytest.raises(ConfigError, match="no such file"):
        read_state_dict(tmp_path / "w.pt")
    with pytest.raises(ConfigError, match="a folder"):
        read_state_dict(tmp_path)
