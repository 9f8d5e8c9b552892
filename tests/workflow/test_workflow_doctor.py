"""Every finding says what to do where something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cfpairs.workflow import doctor


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    driver = tmp_path / "version"
    monkeypatch.setattr(doctor, "NVIDIA", driver)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert doctor._cuda().line == "note   cuda: no GPU; encoders run on the CPU"
    driver.write_text("NVRM")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert doctor._cuda().remedy == "install a build of torch with CUDA"
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert doctor._cuda().remedy.startswith("install a driver for CUDA 13.2")


@pytest.mark.parametrize(("gpu", "level"), [(False, "ok"), (True, "note")])
def test_faiss_on_the_cpu_beside_a_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpu: bool, level: str
) -> None:
    driver = tmp_path / "version"
    if gpu:
        driver.write_text("NVRM")
    monkeypatch.setattr(doctor, "NVIDIA", driver)
    monkeypatch.setattr(doctor, "_version", lambda name: "1.9" if name == "faiss-cpu" else None)
    found = doctor._faiss()
    assert found.level == level and ("cfpairs[gpu]" in found.remedy) is gpu


def test_what_is_short_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_available_memory", lambda: 2**30)
    assert doctor._memory().level == "note" and "batch_size" in doctor._memory().remedy
    monkeypatch.setattr(doctor, "_available_memory", lambda: 2**40)
    assert doctor._memory().level == "ok" and "1024.0 GiB free" in doctor._memory().text
    monkeypatch.setattr(doctor, "LOW_DISK", 2**80)
    assert "--workspace" in doctor._disk().remedy
    monkeypatch.setattr(doctor, "find_spec", lambda _name: None)
    assert doctor._lite().level == "error" and "pip install" in doctor._lite().remedy


def test_memory_is_read_from_the_system() -> None:
    found = doctor._available_memory()
    assert found is None or 2**20 < found < 2**50
