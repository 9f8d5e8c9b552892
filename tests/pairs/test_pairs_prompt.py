"""Pairs of texts: wordings, what cannot be used, and a real text tower with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from fakes import DEFAULT_COUNTS, fake_embeddings, fake_manifest, fake_workspace
from safetensors.torch import save_file

from cfpairs.config import Config, EncoderConfig, PairConfig, ProbeConfig
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.prompt import PromptBuilder, PromptOptions
from cfpairs.workflow.context import Context
from cfpairs.workflow.embeddings import embed
from cfpairs.workflow.pairs import build_pairs
from cfpairs.workflow.probing import probe
from cfpairs.workspace import Workspace


def texts_as_vectors(prompts):
    """A unit vector a text: its words decide a few coordinates."""
    rows = np.array([[text.count(letter) + 0.1 for letter in "abdeghklnorstwyz"] for text in prompts])
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def build(tmp_path, n=20, encode=texts_as_vectors, **options):
    workspace = Workspace(tmp_path)
    manifest = fake_manifest(workspace, DEFAULT_COUNTS, size=8)
    judge = SimpleNamespace(encode_text=encode, encoder_id="fake")
    inputs = BuildInputs(workspace, "prompt", manifest, n, 0, fake_embeddings(manifest), judge=judge)
    return PromptBuilder(PromptOptions(**options)).build(inputs)


def test_the_two_texts_differ_in_the_environment_alone(tmp_path: Path) -> None:
    made = build(tmp_path, labels={"lying": ("bar",)}, envs={"green": ("on grass", "in a meadow")})
    rows = made.pairs.to_pylist()
    assert len(rows) == 20 and {row["label"] for row in rows} == {0, 1}
    first = rows[0]
    assert (first["text_a"], first["text_b"]) == ("a photo of a bar, on grass", "a photo of a bar, brown")
    for row in rows:
        said = "on grass" if "on grass" in row["text_a"] else "in a meadow"
        assert row["text_a"].replace(said, "brown") == row["text_b"]
        assert made.vectors.rows([row["a_id"], row["b_id"]]).shape == (2, 16)
    items = {row["item_id"]: row for row in made.items.to_pylist()}
    assert {row["origin"] for row in items.values()} == {"prompt"}
    assert all(items[row["a_id"]]["env"] == row["env_a"] == 0 for row in rows)
    assert build(tmp_path, n=6).pairs.equals(build(tmp_path, n=8).pairs.slice(0, 6))


def test_vectors_are_as_long_as_the_images_are(tmp_path: Path) -> None:
    made = build(tmp_path)
    images = fake_embeddings(fake_manifest(Workspace(tmp_path / "more"), DEFAULT_COUNTS, size=8)).matrix
    found = np.linalg.norm(made.vectors.matrix, axis=1)
    np.testing.assert_allclose(found, found[0], rtol=1e-5)
    assert found[0] == pytest.approx(np.median(np.linalg.norm(images, axis=1)), rel=0.2)


def test_fewer_texts_than_asked_for_are_said(tmp_path: Path) -> None:
    made = build(tmp_path, n=50, templates=("a {label}, {env}",))
    assert made.counts() == {"ok": 2}
    assert "asked for 50 pairs, made 2: no more templates and wordings" in made.notes


def test_what_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs an encoder that reads texts"):
        build(tmp_path, encode=lambda _texts: None)
    with pytest.raises(ConfigError, match="names an environment that no training item has"):
        build(tmp_path, envs={"gren": ("grass",)})
    with pytest.raises(DataError, match="the same words"):
        build(tmp_path, envs={"green": ("outside",), "brown": ("outside",)})
    for template in ("a photo of a {label}", "{label} {env} {0}", "{label} {env"):
        with pytest.raises(ValueError, match="template"):
            PromptOptions(templates=(template,))


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an open_clip model of one layer a tower."""
    text = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    vision = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
    file = tmp_path / "ViT-one-layer.json"
    file.write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}))
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(known))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    open_clip.add_model_config(file)
    return file.stem


def test_a_real_text_tower_gives_pairs_that_a_probe_can_use(tmp_path: Path, small_clip: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(small_clip)
    weights = tmp_path / "weights.safetensors"
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, weights)
    workspace = fake_workspace(tmp_path / "work", size=32)
    spec = f"open_clip:{small_clip}@{weights}"
    context = Context(
        Config(
            workspace=workspace.root,
            encoder=EncoderConfig(spec=spec, device="cpu", runtime="torch", compile="off"),
            probe=ProbeConfig(methods=("erm", "ncm"), r=(2,), C=(0.1,), selection=("in-domain",), seeds=(0,)),
        )
    )
    pair = PairConfig(method="prompt", pairs=8)
    assert build_pairs(context, pair).data["counts"] == {"ok": 8}
    assert embed(context).data["failed"] == 0
    results = probe(context).data["results"]
    ncm = [row for row in results if row["method"] == "ncm"]
    assert ncm and all(row["n_pairs"] == 8 and row["r"] == 2 for row in ncm)
