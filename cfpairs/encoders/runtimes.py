"""How a model is run: the choice of device, runtime and precision, and the way to the runtimes."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.findings import Measurement, fastest
from cfpairs.errors import CfpairsError, ConfigError, MissingDependencyError

if TYPE_CHECKING:
    import torch

__all__ = ["RunPlan", "Runtime", "build_runtime", "plan_run", "settle_device"]


class Runtime(Protocol):
    """A compiled model: batches of shape (b, 3, s, s), uint8 or normalised float32, to (b, d) float32."""

    def __call__(self, batch: Any) -> NDArray[np.float32]:
        """Run one batch."""
        ...

    def stream(self, batches: Iterable[Any]) -> Iterator[NDArray[np.float32]]:
        """Run one batch after the other; the next is taken before the features of the last are given."""
        ...


@dataclass(frozen=True)
class RunPlan:
    """What ``auto`` came to: no field is ``auto``.

    Attributes
    ----------
    device, runtime, precision : str
    graphs : bool
        Whether a GPU may replay its kernels as a CUDA graph, which changes no bit of the result.
    request : int
        Images in one request to OpenVINO; features do not depend on it. 0: as suits the network.
    measured : bool
        Whether a finding of ``cfpairs doctor`` was at hand.
    """

    device: str
    runtime: str
    precision: str
    graphs: bool = True
    request: int = 0
    measured: bool = False

    @property
    def libraries(self) -> tuple[str, ...]:
        """Distributions that take part in the arithmetic."""
        return ("torch", "openvino") if self.runtime == "openvino" else ("torch",)


def plan_run(config: EncoderConfig, found: Sequence[Measurement] = ()) -> RunPlan:
    """Settle device, runtime and precision without loading torch where no GPU driver is installed.

    Parameters
    ----------
    config : EncoderConfig
        ``device: auto`` is ``cuda`` where torch finds a GPU.
    found : sequence of Measurement, optional
        What was measured of this encoder on this machine. ``runtime: auto`` and ``precision: auto`` then are
        the fastest pair whose features are those of torch in float32; see `findings.fastest`. Without it
        they are OpenVINO, where it is installed and the device a CPU, and ``fp32``.

    Raises
    ------
    CfpairsError
        If ``cuda`` is asked for and there is none.
    ConfigError
        If the settings do not go together.
    MissingDependencyError
        If OpenVINO is asked for and not installed.
    """
    device = settle_device(config.device)
    installed = find_spec("openvino") is not None
    if config.runtime == "openvino":
        if device != "cpu":
            raise ConfigError(
                "OpenVINO runs on the CPU here", got=f"device {device}", remedy="set runtime: torch"
            )
        if not installed:
            raise MissingDependencyError(
                "OpenVINO is not installed", remedy="pip install 'cfpairs[cpu]', or set runtime: torch"
            )
    if device == "cpu" and config.precision == "fp16":
        raise ConfigError("fp16 needs a GPU", got="precision fp16 on cpu", expected="fp32 or bf16")
    if device == "cpu" and config.decoder == "nvjpeg":
        raise ConfigError(
            "nvJPEG needs an NVIDIA GPU", got="decoder nvjpeg on cpu", remedy="set decoder: pillow"
        )
    graphs = config.compile == "auto"
    best = fastest(found, config.runtime, config.precision)
    if best is not None:
        return RunPlan(device, best.runtime, best.precision, graphs, best.request, measured=True)
    runtime = config.runtime
    if runtime == "auto":
        runtime = "openvino" if device == "cpu" and installed else "torch"
    precision = "fp32" if config.precision == "auto" else config.precision
    return RunPlan(device, runtime, precision, graphs, measured=bool(found))


def settle_device(device: str) -> str:
    """``cpu`` or ``cuda``.

    Raises
    ------
    CfpairsError
        If ``cuda`` is asked for and there is none.
    """
    if device == "cpu":
        return device
    found = _has_cuda()
    if device == "cuda" and not found:
        raise CfpairsError("no NVIDIA GPU can be used here", got="device cuda", remedy="pass --device cpu")
    return "cuda" if found else "cpu"


def _has_cuda() -> bool:
    """Whether torch can use an NVIDIA GPU; the driver's library is looked for first, as that is cheap."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    import torch

    return torch.cuda.is_available()


def build_runtime(module: torch.nn.Module, plan: RunPlan, how: Preprocessing, label: str) -> Runtime:
    """Make `module` ready to run as planned.

    Parameters
    ----------
    module : torch.nn.Module
        From (b, 3, s, s) to (b, d), in evaluation mode, float32, on the CPU.
    plan : RunPlan
    how : Preprocessing
        Says the side s and how uint8 batches are normalised.
    label : str
        What the model is called in messages.
    """
    if plan.runtime == "openvino":
        from cfpairs.encoders.openvino_runtime import OpenVinoRuntime

        return OpenVinoRuntime(module, plan, how, label)
    if plan.device == "cuda":
        from cfpairs.encoders.cuda_runtime import CudaRuntime

        return CudaRuntime(module, plan, how)
    from cfpairs.encoders.torch_runtime import TorchRuntime

    return TorchRuntime(module, plan, how)
