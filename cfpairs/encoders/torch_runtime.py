"""Eager torch on the CPU: the reference that every other way of running a model is measured against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.preprocessing import normalise
from cfpairs.encoders.runtimes import RunPlan

if TYPE_CHECKING:
    import torch

__all__ = ["TorchRuntime", "autocast", "is_convolutional"]


class TorchRuntime:
    """A torch module run as it is.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    plan : RunPlan
        ``bf16`` runs under autocast.
    how : Preprocessing
        How uint8 batches are normalised.
    """

    def __init__(self, module: torch.nn.Module, plan: RunPlan, how: Preprocessing) -> None:
        self._module = module.eval()
        self._plan = plan
        self._how = how

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run one batch of any length."""
        import torch

        if batch.dtype == np.uint8:
            batch = normalise(batch, self._how)
        with torch.inference_mode(), autocast(self._plan):
            features = self._module(torch.from_numpy(np.ascontiguousarray(batch)))
        found: NDArray[np.float32] = features.float().numpy()
        return found

    def stream(self, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Run one batch after the other."""
        return map(self, batches)


def autocast(plan: RunPlan) -> AbstractContextManager[Any]:
    """Torch's mixed precision, or nothing in fp32; weights are cast anew in each batch, as graphs need."""
    import torch

    if plan.precision == "fp32":
        return nullcontext()
    kind = torch.bfloat16 if plan.precision == "bf16" else torch.float16
    return torch.autocast(plan.device, dtype=kind, cache_enabled=plan.device != "cuda")


def is_convolutional(module: torch.nn.Module) -> bool:
    """Whether there is more than the one convolution that cuts a transformer's patches."""
    import torch

    return sum(isinstance(part, torch.nn.Conv2d) for part in module.modules()) > 1
