"""The OpenVINO runtime: a torch module compiled for the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.preprocessing import normalise
from cfpairs.encoders.runtimes import RunPlan
from cfpairs.encoders.torch_runtime import is_convolutional
from cfpairs.errors import CfpairsError, ConfigError

if TYPE_CHECKING:
    import torch

__all__ = ["TRANSFORMER_REQUEST", "OpenVinoRuntime", "import_openvino"]

TRANSFORMER_REQUEST = 4
"""Images a request: ViT-B/32 on two cores ran 43 a second in fours, 37 one by one, 41 in 32s (bfloat16)."""

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
    """A torch module exported, converted and compiled for requests of one shape.

    The requests of a batch are run side by side, one thread each: every layer's activations then stay in the
    processor's cache. A request holds as many images as ``plan.request`` says, or one of a convolutional
    network and four of a transformer, whose matrix products are small; the last one of a batch is filled up
    with zeros.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    plan : RunPlan
        ``fp32`` or ``bf16``.
    how : Preprocessing
        Says the side of the square input, and how uint8 batches are normalised.
    label : str
        What the model is called in messages.

    Raises
    ------
    ConfigError
        If this CPU has no arithmetic of the precision that is asked for.
    CfpairsError
        If the model cannot be converted.
    """

    def __init__(self, module: torch.nn.Module, plan: RunPlan, how: Preprocessing, label: str) -> None:
        openvino = import_openvino()
        core = openvino.Core()
        if plan.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise ConfigError("this CPU has no bfloat16", got="precision bf16", remedy="set precision: fp32")
        settings = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[plan.precision],
            "PERFORMANCE_HINT": "THROUGHPUT",
            "ENABLE_CPU_PINNING": False,
        }
        size = plan.request or (1 if is_convolutional(module) else TRANSFORMER_REQUEST)
        shape = (size, 3, how.size, how.size)
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
        self._owners: list[_Job | None] = [None] * count
        self._next = 0
        self._how = how
        self._size = size

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run one batch of any length."""
        return next(self.stream([batch]))

    def stream(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Run one batch after the other; no thread waits at the end of a batch for the next."""
        last: _Job | None = None
        try:
            for batch in batches:
                job = self._start(np.ascontiguousarray(batch))
                if last is not None:
                    yield self._finish(last)
                last = job
            if last is not None:
                yield self._finish(last)
        finally:  # the requests read and write the arrays of their job, so none may outlive it
            for number in range(len(self._requests)):
                self._free(number)

    def _start(self, batch: NDArray[Any]) -> _Job:
        size = self._size
        job = _Job(np.empty((-(-len(batch) // size) * size, self._dim), np.float32), len(batch))
        for start in range(0, len(batch), size):
            images = batch[start : start + size]
            if images.dtype == np.uint8:
                images = normalise(images, self._how)
            if len(images) < size:
                images = np.concatenate(
                    [images, np.zeros((size - len(images), *images.shape[1:]), np.float32)]
                )
            number = self._next
            self._next = (number + 1) % len(self._requests)
            self._free(number)
            request = self._requests[number]
            request.set_input_tensor(self._tensor(images, shared_memory=True))
            request.set_output_tensor(self._tensor(job.features[start : start + size], shared_memory=True))
            request.start_async()
            self._owners[number] = job
            job.images[number] = images
        return job

    def _free(self, number: int) -> None:
        """Wait until a request is done with the images that it was given."""
        job = self._owners[number]
        if job is not None:
            self._requests[number].wait()
            job.images.pop(number)
            self._owners[number] = None

    def _finish(self, job: _Job) -> NDArray[np.float32]:
        for number in list(job.images):
            self._free(number)
        return job.features[: job.count]


@dataclass(eq=False)
class _Job:
    """One batch of `count` images: its features, and what requests (by number) still work on."""

    features: NDArray[np.float32]
    count: int
    images: dict[int, NDArray[np.float32]] = field(default_factory=dict)


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
