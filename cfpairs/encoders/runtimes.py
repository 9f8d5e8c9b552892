"""How a model is run: the choice of device, runtime and precision, and the torch runtime."""

from __future__ import annotations

import ctypes
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import EncoderConfig
from cfpairs.errors import CfpairsError, ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["RunPlan", "Runtime", "TorchRuntime", "build_runtime", "plan_run"]


class Runtime(Protocol):
    """A compiled model: (b, 3, s, s) float32 in, (b, d) float32 out."""

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch."""
        ...


@dataclass(frozen=True)
class RunPlan:
    """What ``auto`` came to: no field is ``auto``."""

    device: str
    runtime: str
    precision: str

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions that take part in the arithmetic."""
        return ("torch", "openvino") if self.runtime == "openvino" else ("torch",)


def plan_run(config: EncoderConfig) -> RunPlan:
    """Settle device, runtime and precision without loading torch where no GPU driver is installed.

    ``device: auto`` is ``cuda`` where torch finds a GPU. ``runtime: auto`` is OpenVINO on a CPU where it is
    installed, else torch. ``precision: auto`` is ``fp32``: bfloat16 is about twice as fast on a CPU that
    has it, but moves single embeddings of the ``lite`` encoder to a cosine of 0.987.

    Raises
    ------
    CfpairsError
        If ``cuda`` is asked for and there is none.
    ConfigError
        If the three do not go together.
    MissingDependencyError
        If OpenVINO is asked for and not installed.
    """
    device = config.device
    if device == "auto":
        device = "cuda" if _has_cuda() else "cpu"
    elif device == "cuda" and not _has_cuda():
        raise CfpairsError("no NVIDIA GPU can be used here", got="device cuda", remedy="pass --device cpu")
    runtime = config.runtime
    installed = find_spec("openvino") is not None
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and installed else "torch"
    if runtime == "openvino":
        if device != "cpu":
            raise ConfigError(
                "OpenVINO runs on the CPU here", got=f"device {device}", remedy="set runtime: torch"
            )
        if not installed:
            raise MissingDependencyError(
                "OpenVINO is not installed", remedy="pip install 'cfpairs[cpu]', or set runtime: torch"
            )
    precision = "fp32" if config.precision == "auto" else config.precision
    if device == "cpu" and precision == "fp16":
        raise ConfigError("fp16 needs a GPU", got="precision fp16 on cpu", expected="fp32 or bf16")
    return RunPlan(device, runtime, precision)


def _has_cuda() -> bool:
    """Whether torch can use an NVIDIA GPU; the driver's library is looked for first, as that is cheap."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def build_runtime(module: torch.nn.Module, plan: RunPlan, side: int, label: str) -> Runtime:
    """Make `module` ready to run as planned.

    Parameters
    ----------
    module : torch.nn.Module
        From (b, 3, s, s) to (b, d), in evaluation mode, float32, on the CPU.
    plan : RunPlan
    side : int
        Side s of the square input in pixels.
    label : str
        What the model is called in messages.
    """
    if plan.runtime == "openvino":
        from cfpairs.encoders.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(module, plan, side, label)
    return TorchRuntime(module, plan)


class TorchRuntime:
    """Eager torch; float32 is true float32 on a GPU too (no TF32, deterministic kernels).

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode.
    plan : RunPlan
        ``bf16`` and ``fp16`` run under autocast.
    """

    def __init__(self, module: torch.nn.Module, plan: RunPlan) -> None:
        self._module = module.eval().to(plan.device)
        self._plan = plan

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch of any length."""
        import torch

        with torch.inference_mode(), self._autocast(), self._exact():
            features = self._module(torch.from_numpy(batch).to(self._plan.device))
        found: NDArray[np.float32] = features.float().cpu().numpy()
        return found

    def _autocast(self) -> AbstractContextManager[Any]:
        import torch

        if self._plan.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self._plan.precision == "bf16" else torch.float16
        return torch.autocast(self._plan.device, dtype=kind)

    def _exact(self) -> AbstractContextManager[Any]:
        import torch

        if self._plan.device != "cuda":
            return nullcontext()
        exact: AbstractContextManager[Any] = torch.backends.cudnn.flags(
            enabled=True, deterministic=True, allow_tf32=False
        )
        return exact
