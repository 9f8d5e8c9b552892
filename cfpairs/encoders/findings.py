"""What was measured of an encoder on this machine, kept in a small file beside other caches."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cfpairs.encoders.base import Preprocessing, library_versions
from cfpairs.tables import fingerprint, write_bytes

__all__ = [
    "SAFE_COSINE",
    "Measurement",
    "fastest",
    "finding_key",
    "findings_file",
    "processor",
    "recall",
    "remember",
]

SAFE_COSINE = 0.9995
"""Least cosine to torch in float32, over the images measured, that ``auto`` accepts: 0.999 and a margin for
images that were not among them."""

_ARITHMETIC = ("torch", "openvino", "timm", "open_clip_torch")


@dataclass(frozen=True)
class Measurement:
    """One way of running an encoder.

    Attributes
    ----------
    runtime, precision : str
    request : int
        Images in one request to OpenVINO.
    images_per_second : float
        Of the encoder alone.
    least_cosine : float
        To the features by torch in float32.
    error : str
        Why it does not work here; empty if it does.
    """

    runtime: str
    precision: str
    request: int
    images_per_second: float
    least_cosine: float
    error: str = ""

    @property
    def safe(self) -> bool:
        """Whether its features may stand for those of torch in float32."""
        return not self.error and self.least_cosine >= SAFE_COSINE


def fastest(
    found: Sequence[Measurement], runtime: str = "auto", precision: str = "auto"
) -> Measurement | None:
    """The fastest of the measured ways that the settings leave open; None if there is none.

    A precision that was asked for is taken at any cosine; ``auto`` takes only safe ones.
    """
    open_ones = [
        m
        for m in found
        if not m.error
        and runtime in ("auto", m.runtime)
        and (m.safe if precision == "auto" else m.precision == precision)
    ]
    return max(open_ones, key=lambda m: m.images_per_second, default=None)


def findings_file() -> Path:
    """``cfpairs/encoders.json`` in the user's cache folder (``XDG_CACHE_HOME``)."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "cfpairs" / "encoders.json"


def finding_key(weights_sha256: str, features: str, how: Preprocessing, device: str) -> str:
    """What a finding depends on: weights, features, input, processor and the versions of what computes."""
    return fingerprint(
        weights_sha256, features, how.size, processor(device), os.cpu_count(), library_versions(*_ARITHMETIC)
    )


def processor(device: str) -> str:
    """Name of the CPU or the GPU."""
    if device == "cuda":
        import torch

        return str(torch.cuda.get_device_name(0))
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "flags"))]
        if named:
            return f"{named[0]} {fingerprint(named[1:2])[:8]}"  # the flags: virtual machines hide the model
    except OSError:
        pass
    return platform.processor() or platform.machine()


def recall(key: str) -> list[Measurement]:
    """The finding under `key`; empty if there is none or the file cannot be used."""
    try:
        return [
            Measurement(
                str(row["runtime"]),
                str(row["precision"]),
                int(row["request"]),
                float(row["images_per_second"]),
                float(row["least_cosine"]),
                str(row["error"]),
            )
            for row in _read()[key]["measurements"]
        ]
    except (KeyError, TypeError, ValueError):
        return []


def remember(key: str, spec: str, device: str, found: Sequence[Measurement]) -> Path:
    """Store a finding beside the others; the name of the file.

    Raises
    ------
    WorkspaceError
        If the file cannot be written.
    """
    file = findings_file()
    known = _read() | {
        key: {
            "spec": spec,
            "processor": processor(device),
            "libraries": library_versions(*_ARITHMETIC),
            "measurements": [asdict(m) for m in found],
        }
    }
    write_bytes(file, json.dumps(known, indent=1, sort_keys=True).encode())
    return file


def _read() -> dict[str, Any]:
    try:
        found = json.loads(findings_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
