"""The OpenVINO runtime: a torch module compiled for the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cfpairs.encoders.runtimes import RunPlan
from cfpairs.errors import CfpairsError, ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["OpenVinoRuntime", "import_openvino"]

_TELEMETRY = "openvino_telemetry"
_PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


def import_openvino() -> ModuleType:
    """OpenVINO without its usage reports.

    On import it reports to its maker over the network unless the package ``openvino_telemetry`` cannot be
    found. cfpairs sends nothing anywhere, so that package is hidden until the import is done.
    """
    absent = _TELEMETRY not in sys.modules
    if absent:
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if absent:
            sys.modules.pop(_TELEMETRY, None)
    module: ModuleType = openvino
    return module


class OpenVinoRuntime:
    """A torch module exported, converted and compiled for single images.

    The images of a batch are run side by side, one thread each: every layer's activations then stay in the
    processor's cache, and an image's embedding cannot depend on its neighbours.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    plan : RunPlan
        ``fp32`` or ``bf16``.
    side : int
        Side of the square input in pixels.
    label : str
        What the model is called in messages.

    Raises
    ------
    ConfigError
        If this CPU has no arithmetic of the precision that is asked for.
    CfpairsError
        If the model cannot be converted.
    """

    def __init__(self, module: torch.nn.Module, plan: RunPlan, side: int, label: str) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if plan.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError("this CPU has no bfloat16", got="precision bf16", remedy="set precision: fp32")
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[plan.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,
        }
        shape = (1, 3, side, side)
        try:
            model = openvino.convert_model(_export(module, shape))
            model.reshape(list(shape))
            compiled = core.compile_model(model, "CPU", settings)
        except Exception as error:  # the converter raises whatever its frontends raise
            raise CfpairsError(
                f"{label} cannot be converted to OpenVINO",
                got=f"{type(error).__name__}: {str(error)[:200]}",
                remedy="set runtime: torch",
            ) from error
        self._dim = int(compiled.output(0).shape[1])
        self._tensor = openvino.Tensor
        # Twice as many as run at a time: a thread that is done finds work without waiting for Python.
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run one batch of any length."""
        batch = np.ascontiguousarray(batch)
        features = np.empty((len(batch), self._dim), np.float32)
        try:
            for index in range(len(batch)):
                request = self._requests[index % len(self._requests)]
                request.wait()
                one = slice(index, index + 1)
                request.set_input_tensor(self._tensor(batch[one], shared_memory=True))
                request.set_output_tensor(self._tensor(features[one], shared_memory=True))
                request.start_async()
        finally:  # the requests write into these arrays, so none may outlive this call
            for request in self._requests:
                request.wait()
        return features


def _export(module: torch.nn.Module, shape: tuple[int, int, int, int]) -> torch.export.ExportedProgram:
    """Export with a fixed shape; torch's fused attention, which has no counterpart, is off meanwhile."""
    import torch

    with torch.no_grad(), _plain_attention():
        return torch.export.export(module.eval(), (torch.zeros(shape),))


@contextmanager
def _plain_attention() -> Iterator[None]:
    from torch.backends import mha

    before = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(before)
