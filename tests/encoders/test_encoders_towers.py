"""Small models of every family of image tower: features before and after the projection, hub names, texts."""

from __future__ import annotations

import json
import time
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

from cfpairs.config import EncoderConfig
from cfpairs.encoders import hub
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.network import NetworkEncoder
from cfpairs.errors import CfpairsError, ConfigError, DataError

pytestmark = pytest.mark.embed

SIDE = 32
TEXT = {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TOWERS = {
    "vit": {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "avg-ln-after": {
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "pool_type": "avg",
        "final_ln_after_pool": True,
    },
    "coca": {
        "layers": 1,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "attn_pooler_queries": 3,
        "output_tokens": True,
    },
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8},
    "timm-linear": {"timm_model_name": "test_vit", "timm_pool": "token", "timm_proj": "linear"},
    "timm-mlp": {"timm_model_name": "test_convnext", "timm_pool": "avg", "timm_proj": "mlp"},
    "timm-own": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": ""},
    "timm-none": {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none"},
    "timm-pool": {"timm_model_name": "resnet10t", "timm_pool": "rot_attn", "timm_proj": ""},
}


def size_of(name: str) -> int:
    return 64 if name == "timm-pool" else 160 if name.startswith("timm") else SIDE


@pytest.fixture(scope="module", params=TOWERS)
def tower(request, tmp_path_factory) -> tuple[str, Path, torch.nn.Module]:
    """Name, weight file and open_clip's own model, random weights from a fixed seed."""
    name, folder = request.param, tmp_path_factory.mktemp("tower")
    dim = 64 if name == "timm-none" else 24
    values = {
        "embed_dim": dim,
        "vision_cfg": {"image_size": size_of(name), **TOWERS[name]},
        "text_cfg": TEXT,
    }
    file = folder / f"small-{name}.json"
    file.write_text(json.dumps(values))
    open_clip.add_model_config(file)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"small-{name}").eval()
    weights = folder / "w.safetensors"
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, weights)
    return name, weights, model


def opened(tower, features: str) -> NetworkEncoder:
    name, weights, _ = tower
    spec = f"open_clip:small-{name}@{weights}"
    return open_encoder(
        EncoderConfig(spec=spec, device="cpu", runtime="torch", batch_size=2, features=features)
    )


def test_features_before_and_after_the_projection(tower):
    name, _, model = tower
    images = np.random.default_rng(0).normal(size=(2, 3, size_of(name), size_of(name))).astype(np.float32)
    with torch.inference_mode():
        out = model.encode_image(torch.from_numpy(images))
    expected = (out[0] if isinstance(out, tuple) else out).numpy()  # some towers give their tokens too
    projected, pooled = opened(tower, "projected"), opened(tower, "pooled")
    found, before = projected.encode(images), pooled.encode(images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.shape[1] == projected.info.dim and before.shape[1] == pooled.info.dim
    assert projected.info.id != pooled.info.id
    assert pooled.info.metadata()["features"] == "pooled"
    visual = model.visual
    with torch.inference_mode():
        at = torch.from_numpy(before)
        if name == "resnet":
            again = visual.attnpool.c_proj(at)
        elif name == "timm-own":
            again = visual.trunk.get_classifier()(at)
        elif name == "timm-none":
            again = at
        elif name == "timm-mlp":
            again = visual.head.mlp(at)
        elif name.startswith("timm"):
            again = visual.head.proj(at) if hasattr(visual.head, "proj") else visual.head.pool.proj(at)
        else:
            again = at @ visual.proj
    np.testing.assert_allclose(again.numpy(), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="features: projected"):
        pooled.encode_text(["a"])
    if name != "timm-none":
        assert before.shape != found.shape or np.abs(before - found).max() > 1e-3


def test_no_part_of_the_text_side_is_built(tower, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the text side was built")

    monkeypatch.setattr(open_clip.model, "_build_text_tower", refuse)
    opened(tower, "projected").load()
    with pytest.raises(DataError, match="text side was built"):
        opened(tower, "projected").encode_text(["a"])


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub with one repository, a small vision transformer with its own mean."""
    vision = {"image_size": SIDE, **TOWERS["vit"]}
    values = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}
    file = tmp_path / "small-hub.json"
    file.write_text(json.dumps(values))
    open_clip.add_model_config(file)
    model = open_clip.create_model("small-hub")
    repo = tmp_path / "repo"
    repo.mkdir()
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, repo / "open_clip_model.safetensors"
    )
    described = {"model_cfg": values, "preprocess_cfg": {"mean": [0.1, 0.2, 0.3], "resize_mode": "squash"}}
    (repo / "open_clip_config.json").write_text(json.dumps(described))

    def download(repo_id: str, filename: str, **_: object) -> str:
        if repo_id != "lab/small" or not (repo / filename).is_file():
            raise FileNotFoundError(f"{filename} is not in {repo_id}")
        return str(repo / filename)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return repo


def hub_config(name: str = "hf-hub:lab/small") -> EncoderConfig:
    return EncoderConfig(spec=f"open_clip:{name}", device="cpu", runtime="torch", batch_size=1)


def test_a_hub_name_brings_architecture_weights_and_preprocessing(repository):
    encoder = open_encoder(hub_config())
    assert encoder.info.name == "open_clip-hf-hub_lab_small" and encoder.info.dim == 24
    how = encoder.info.preprocessing
    assert (how.mean, how.resize_mode, how.size) == ((0.1, 0.2, 0.3), "squash", SIDE)
    assert encoder.encode(np.zeros((1, 3, SIDE, SIDE), np.float32)).shape == (1, 24)
    (repository / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 24}}')
    with pytest.raises(DataError, match=r"does not describe an open_clip model: got KeyError: 'vision_cfg'"):
        open_encoder(hub_config())


@pytest.mark.parametrize("name", ["hf-hub:", "hf-hub:lab", "hf-hub:lab/a/b", "hf-hub:lab/../x"])
def test_a_hub_name_names_a_repository(name):
    with pytest.raises(ConfigError, match=r"expected hf-hub:ORG/NAME$"):
        open_encoder(hub_config(name))


@pytest.mark.parametrize("spec", ["open_clip:hf-hub:lab/small", "open_clip:ViT-B-32/openai", "timm:resnet18"])
def test_an_unreachable_hub_is_one_line_at_once(spec, monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "reachable", lambda: False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begun = time.perf_counter()
    with pytest.raises(CfpairsError, match=r"hub cannot be reached.*pass a file you have: \w+:") as caught:
        open_encoder(EncoderConfig(spec=spec, device="cpu"))
    assert time.perf_counter() - begun < 5
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert huggingface_hub.constants.HF_HUB_OFFLINE is False


def test_whether_the_hub_can_be_reached(monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        assert hub.reachable()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        assert not hub.reachable()
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert not hub.reachable()
