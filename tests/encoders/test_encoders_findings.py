"""Measured ways of running an encoder: what is measured, kept, and taken by ``auto``."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from cfpairs.cli import app
from cfpairs.config import EncoderConfig
from cfpairs.encoders import measuring
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.findings import (
    SAFE_COSINE,
    Measurement,
    fastest,
    findings_file,
    recall,
    remember,
)
from cfpairs.encoders.measuring import PHOTOGRAPHS, measure, trial_images
from cfpairs.errors import ConfigError
from cfpairs.workflow.doctor import EncoderReport, examine, examine_encoder

pytestmark = pytest.mark.embed

TORCH = Measurement("torch", "fp32", 1, 10.0, 1.0)
OPEN = Measurement("openvino", "fp32", 1, 20.0, 0.99999)
HALF = Measurement("openvino", "bf16", 8, 50.0, 0.9997)
LOOSE = Measurement("torch", "bf16", 1, 90.0, 0.999)
BROKEN = Measurement("openvino", "int4", 1, 0.0, 0.0, "cannot be converted")


def test_auto_takes_the_fastest_that_is_safe():
    found = [TORCH, OPEN, HALF, LOOSE, BROKEN]
    assert SAFE_COSINE > 0.999
    assert fastest(found) == HALF
    assert fastest(found, runtime="torch") == TORCH
    assert fastest(found, precision="fp32") == OPEN
    assert fastest(found, "torch", "bf16") == LOOSE, "what is asked for by name is given"
    assert fastest([LOOSE, BROKEN]) is None and fastest([]) is None
    assert fastest([HALF, Measurement("torch", "bf16", 1, 60.0, SAFE_COSINE)]).runtime == "torch"


def test_a_finding_is_kept_beside_others():
    file = remember("one", "lite", "cpu", [TORCH, OPEN])
    remember("two", "timm:x", "cpu", [HALF])
    assert file == findings_file() and recall("one") == [TORCH, OPEN] and recall("two") == [HALF]
    remember("one", "lite", "cpu", [TORCH])
    assert recall("one") == [TORCH] and recall("two") == [HALF] and recall("three") == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"one": 3}', '{"one": {"measurements": [{"runtime": "torch"}]}}', "\xff"]
)
def test_a_damaged_file_is_no_finding(text):
    findings_file().parent.mkdir(parents=True)
    findings_file().write_bytes(text.encode("latin-1"))
    assert recall("one") == []
    remember("one", "lite", "cpu", [TORCH])
    assert recall("one") == [TORCH]


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model("test_efficientnet")
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, file)
    return file


@pytest.fixture
def config(weights: Path) -> EncoderConfig:
    return EncoderConfig(spec=f"timm:test_efficientnet@{weights}", device="cpu", batch_size=4)


def test_a_finding_settles_auto_and_is_part_of_the_id(config):
    before = open_encoder(config)
    assert "cfpairs doctor --encoder timm:test_efficientnet@" in before.advice and "\n" not in before.advice
    remember(before.finding_key, config.spec, "cpu", [TORCH, HALF])
    after = open_encoder(config)
    assert (after.info.runtime, after.info.precision, after.plan.request) == ("openvino", "bf16", 8)
    assert after.info.id != before.info.id and after.advice == ""
    fixed = open_encoder(config.model_copy(update={"runtime": "torch", "precision": "fp32"}))
    assert (fixed.info.runtime, fixed.info.precision, fixed.advice) == ("torch", "fp32", "")
    assert open_encoder(EncoderConfig(spec="lite", device="cpu")).advice == ""


def test_nothing_safe_leaves_auto_as_it_was(config):
    before = open_encoder(config)
    remember(before.finding_key, config.spec, "cpu", [LOOSE])
    after = open_encoder(config)
    assert after.info.id == before.info.id and after.info.precision == "fp32" and after.advice == ""


def test_other_weights_have_other_findings(config, weights, tmp_path):
    other = tmp_path / "w.safetensors"
    save_file({"x": torch.zeros(1)}, other)
    keys = {open_encoder(config.model_copy(update={"spec": f"timm:test_efficientnet@{f}"})).finding_key
            for f in (weights, other)}  # fmt: skip
    assert len(keys) == 2


def test_trial_images_are_many_and_varied():
    images = trial_images()
    assert len(images) == 4 * len(PHOTOGRAPHS) + 4 >= 64
    pixels = [np.asarray(image, float) for image in images]
    means, spreads = [p.mean() for p in pixels], [p.std() for p in pixels]
    assert sum(m < 30 for m in means) >= 10 and sum(s < 8 for s in spreads) >= 10
    assert sum(s > 60 for s in spreads) >= 10
    assert len({p.tobytes() for p in pixels}) == len(images) and len({p.shape for p in pixels}) > 40
    assert [a.tobytes() for a in images] == [b.tobytes() for b in trial_images()]


def test_every_way_is_measured_and_the_report_says_which_is_taken(config, monkeypatch):
    images = trial_images()[:5]
    monkeypatch.setattr(measuring, "trial_images", lambda: images)
    report = examine_encoder(config)
    assert report.measurements[0].runtime == "torch" and report.measurements[0].least_cosine == 1
    assert report.images == 5 and report.device == "cpu"
    done = [m for m in report.measurements if not m.error]
    assert all(m.images_per_second > 0 and 0.1 < m.least_cosine <= 1 for m in done)
    assert all(m.least_cosine > 0.99999 for m in done if m.precision == "fp32")
    if find_spec("openvino"):
        assert {(m.runtime, m.request) for m in report.measurements} >= {("openvino", 1), ("openvino", 4)}
    opened = open_encoder(config)
    assert report.chosen == fastest(report.measurements) and report.encoder_id == opened.info.id
    assert (opened.plan.runtime, opened.plan.precision) == (report.chosen.runtime, report.chosen.precision)
    assert Path(report.file).is_file()


def test_a_way_that_does_not_work_is_a_row(config, monkeypatch):
    build = measuring.build_runtime

    def fail(module, plan, how, label):
        if plan.precision == "bf16":
            raise ConfigError("this CPU has no bfloat16")
        return build(module, plan, how, label)

    monkeypatch.setattr(measuring, "build_runtime", fail)
    monkeypatch.setattr(measuring, "REQUESTS", (1,))
    grey = [Image.new("RGB", (50, 40), (128, 90, 60))]
    found = measure(open_encoder(config), grey, batch_size=2)
    assert [bool(m.error) for m in found] == [m.precision == "bf16" for m in found]
    lines = EncoderReport("x", "pooled", "cpu", "p", 2, found, fastest(found), "id", "f").lines()
    assert sum("this CPU has no bfloat16" in line for line in lines) == sum(bool(m.error) for m in found)
    assert sum("taken" in line for line in lines) == 1


def test_doctor_from_the_command_line(config, monkeypatch):
    monkeypatch.setattr(measuring, "measure", lambda *_, **__: [TORCH, HALF, LOOSE])
    args = ["doctor", "--encoder", config.spec, "--device", "cpu"]
    said = CliRunner().invoke(app, args, env={"COLUMNS": "80"}).stdout.splitlines()
    assert said[0].split() == ["runtime", "precision", "request", "images/s", "least", "cosine"]
    assert said[2].split() == ["openvino", "bf16", "8", "50.0", "0.999700", "taken"]
    assert said[3].endswith("not safe") and "auto are now openvino bf16" in said[5]
    found = json.loads(CliRunner().invoke(app, [*args, "--json"]).stdout)
    assert found["chosen"]["precision"] == "bf16" and len(found["measurements"]) == 3
    for wrong, says in (
        (["--device", "cpu"], "add --encoder SPEC"),
        (["--encoder", "given"], "nothing that could be measured"),
        (["--encoder", "lite", "--features", "x"], "features"),
        (["--encoder", "lite", "--device", "tpu"], "device"),
    ):
        error = CliRunner().invoke(app, ["doctor", *wrong]).exception
        assert isinstance(error, ConfigError) and says in str(error) and "\n" not in str(error)


def test_every_finding_of_the_machine_is_one_line_with_a_remedy():
    found = {f.name: f for f in examine()}
    libraries = {"python", "torch", "cuda", "faiss", "openvino"}
    encoders = {"encoder lite", "encoder open_clip", "encoder timm"}
    assert libraries | encoders | {"disk", "memory", "shared memory"} == set(found)
    assert all("\n" not in f.line for f in found.values())
    assert all(f.remedy for f in found.values() if f.level == "error")


def test_published_weights_on_disk_are_named(tmp_path, monkeypatch):
    from cfpairs.encoders import at_hand

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert at_hand.open_clip_at_hand() == [] and at_hand.timm_at_hand() == []
    for repo, file in (
        ("laion--CLIP-ViT-B-32-laion2B-s34B-b79K", "open_clip_model.safetensors"),
        ("timm--resnet18.a1_in1k", "model.safetensors"),
        ("timm--resnet34.a1_in1k", "config.json"),
    ):
        folder = tmp_path / f"models--{repo}" / "snapshots" / "abc"
        folder.mkdir(parents=True)
        (folder / file).touch()
    assert at_hand.open_clip_at_hand() == ["open_clip:ViT-B-32/laion2b_s34b_b79k"]
    assert at_hand.timm_at_hand() == ["timm:resnet18.a1_in1k"]
