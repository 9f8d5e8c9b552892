"""Identity of an encoder, and the way from a SPEC to one."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from cfpairs.config import EncoderConfig
from cfpairs.encoders import runtimes
from cfpairs.encoders.base import (
    EncoderInfo,
    Preprocessing,
    file_sha256,
    library_versions,
    safe_name,
    split_spec,
)
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.runtimes import RunPlan, plan_run
from cfpairs.errors import CfpairsError, ConfigError, MissingDependencyError, UnknownNameError

HOW = Preprocessing(224, 256, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
INFO = EncoderInfo("lite", "lite", 8, "ab" * 32, "torch", "fp32", "cpu", HOW, {"torch": "2.0"})


@pytest.mark.parametrize(
    "change",
    [
        {"weights_sha256": "cd" * 32},
        {"runtime": "openvino"},
        {"precision": "bf16"},
        {"device": "cuda"},
        {"dim": 9},
        {"preprocessing": replace(HOW, mean=(0.4, 0.5, 0.5))},
        {"preprocessing": replace(HOW, resize_mode="squash")},
    ],
)
def test_whatever_changes_the_result_changes_the_id(change):
    assert replace(INFO, **change).id != INFO.id


def test_what_does_not_change_the_result_does_not_change_the_id():
    assert replace(INFO, spec="lite:", libraries={"torch": "3.0"}).id == INFO.id


def test_metadata_says_everything_as_text():
    metadata = INFO.metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata["encoder_id"] == INFO.id
    assert metadata["weights_sha256"] == INFO.weights_sha256
    assert json.loads(metadata["preprocessing"])["resize"] == 256
    assert json.loads(metadata["libraries"]) == {"torch": "2.0"}
    assert metadata["normalisation"] == "none"


def test_split_spec():
    assert split_spec("lite") == ("lite", "")
    assert split_spec("open_clip:A/b:c") == ("open_clip", "A/b:c")


def test_safe_name_holds_no_separator():
    assert safe_name("open_clip", "A/b c@d") == "open_clip-A_b_c_d"


def test_file_sha256(tmp_path: Path):
    file = tmp_path / "w"
    file.write_bytes(b"weights")
    assert file_sha256(file) == hashlib.sha256(b"weights").hexdigest()
    file.write_bytes(b"other weights")
    assert file_sha256(file) == hashlib.sha256(b"other weights").hexdigest()
    with pytest.raises(ConfigError, match="cannot be read"):
        file_sha256(tmp_path / "absent")


def test_library_versions_leave_out_what_is_absent():
    assert set(library_versions("numpy", "no-such-library-at-all")) == {"numpy"}


def test_an_unknown_encoder_gets_the_nearest_names():
    with pytest.raises(UnknownNameError, match="perhaps 'lite'"):
        open_encoder(EncoderConfig(spec="light"))


def test_plan_without_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtimes, "_has_cuda", lambda: False)
    assert plan_run(EncoderConfig()).device == "cpu"
    assert plan_run(EncoderConfig()).precision == "fp32"
    assert plan_run(EncoderConfig(runtime="torch", precision="bf16")) == RunPlan("cpu", "torch", "bf16")
    with pytest.raises(CfpairsError, match=r"no NVIDIA GPU.*--device cpu"):
        plan_run(EncoderConfig(device="cuda"))
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        plan_run(EncoderConfig(precision="fp16"))


def test_plan_with_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtimes, "_has_cuda", lambda: True)
    assert plan_run(EncoderConfig()) == RunPlan("cuda", "torch", "fp32")
    assert plan_run(EncoderConfig(precision="fp16")).precision == "fp16"
    with pytest.raises(ConfigError, match="OpenVINO runs on the CPU"):
        plan_run(EncoderConfig(runtime="openvino"))


def test_plan_without_openvino(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None)
    assert plan_run(EncoderConfig(device="cpu")).runtime == "torch"
    with pytest.raises(MissingDependencyError, match=r"cfpairs\[cpu\]"):
        plan_run(EncoderConfig(device="cpu", runtime="openvino"))


def run_python(code: str, home: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env={"HOME": str(home), "PATH": ""},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_naming_the_default_encoder_does_not_load_torch(tmp_path: Path):
    code = (
        "import sys\n"
        "from cfpairs.config import EncoderConfig\n"
        "from cfpairs.encoders.factory import open_encoder\n"
        "print(open_encoder(EncoderConfig(device='cpu')).info.id)\n"
        "print(sorted({'torch', 'timm', 'openvino'} & set(sys.modules)))\n"
    )
    name, loaded = run_python(code, tmp_path).splitlines()
    assert name.startswith("lite-")
    assert loaded == "[]"


def test_openvino_is_imported_without_its_usage_reports(tmp_path: Path):
    if not (find_spec("openvino") and find_spec("openvino_telemetry")):
        pytest.skip("OpenVINO or its usage reports are not installed")
    code = (
        "import socket, sys\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from cfpairs.encoders.openvino_runtime import import_openvino\n"
        "ov = import_openvino()\n"
        "print(callable(ov.convert_model), [m for m in sys.modules if m.startswith('openvino_telemetry')])\n"
        "import openvino_telemetry\n"
    )
    assert run_python(code, tmp_path).strip() == "True []"
    assert list(tmp_path.iterdir()) == []
