"""Torch on an NVIDIA GPU: 8-bit uploads on a stream of their own, CUDA graphs, files decoded by nvJPEG."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.jpeg import is_plain_jpeg
from cfpairs.encoders.pixels import square_tensor
from cfpairs.encoders.runtimes import RunPlan
from cfpairs.encoders.torch_runtime import autocast, is_convolutional

__all__ = ["CudaRuntime"]

_WARM_UP = 3
"""Runs before a graph is recorded: libraries allocate and choose their kernels in the first ones."""


class CudaRuntime:
    """A torch module on the GPU.

    float32 is true float32: no TF32, deterministic kernels. Batches are uploaded from pinned memory on a
    stream of their own while the last one is computed; uint8 batches are normalised on the device.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode, float32, on the CPU.
    plan : RunPlan
        ``bf16`` and ``fp16`` run under autocast. With ``graphs`` the kernels of a batch are recorded once for
        each shape and replayed, the same kernels without the time that it takes to start each; a model that
        cannot be recorded is run as it is.
    how : Preprocessing
    """

    def __init__(self, module: torch.nn.Module, plan: RunPlan, how: Preprocessing) -> None:
        self._module = module.eval().to("cuda")
        if plan.precision != "fp32" and is_convolutional(module):
            self._module = self._module.to(memory_format=torch.channels_last)  # what tensor cores read
        self._plan = plan
        self._how = how
        mean, std = (torch.tensor(v, device="cuda")[:, None, None] for v in (how.mean, how.std))
        self._scale, self._shift = 1 / (255 * std), mean / std
        self._copies = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[Any, ...], _Graph] = {}
        self._record = plan.graphs

    def __call__(self, batch: NDArray[Any] | torch.Tensor) -> NDArray[np.float32]:
        """Run one batch of any length."""
        return self._launch(self._upload(batch)).wait()

    def stream(self, batches: Iterable[NDArray[Any] | torch.Tensor]) -> Iterator[NDArray[np.float32]]:
        """Run one batch after the other; the next is uploaded and queued while the last is computed."""
        running: _Running | None = None
        for batch in batches:
            launched = self._launch(self._upload(batch))
            if running is not None:
                yield running.wait()
            running = launched
        if running is not None:
            yield running.wait()

    def decode_files(self, contents: Sequence[bytes]) -> list[torch.Tensor | None]:
        """Pixels (3, s, s), uint8, on the device; None for a file that has to go by Pillow."""
        found: list[torch.Tensor | None] = [None] * len(contents)
        chosen = [i for i, content in enumerate(contents) if is_plain_jpeg(content)]
        decoded = [
            (i, image) for i, image in zip(chosen, _decode([contents[i] for i in chosen]), strict=True)
        ]
        shapes: dict[tuple[int, ...], list[tuple[int, torch.Tensor]]] = {}
        for i, image in decoded:
            if image is not None:
                shapes.setdefault(tuple(image.shape), []).append((i, image))
        for alike in shapes.values():  # images of one size are resized at once
            squares = square_tensor(torch.stack([image for _, image in alike]), self._how)
            for (i, _), square in zip(alike, squares, strict=True):
                found[i] = square
        return found

    def gather(self, images: Sequence[NDArray[np.uint8] | torch.Tensor]) -> torch.Tensor:
        """Blocks of pixels from either side to one uint8 batch on the device."""
        return torch.stack(
            [i if isinstance(i, torch.Tensor) else torch.from_numpy(i).to("cuda") for i in images]
        )

    def _upload(self, batch: NDArray[Any] | torch.Tensor) -> torch.Tensor:
        if isinstance(batch, torch.Tensor):
            return batch.to("cuda")
        with torch.cuda.stream(self._copies):
            there = torch.from_numpy(np.ascontiguousarray(batch)).pin_memory().to("cuda", non_blocking=True)
        main = torch.cuda.current_stream()
        main.wait_stream(self._copies)
        there.record_stream(main)
        return there

    def _launch(self, batch: torch.Tensor) -> _Running:
        with (
            torch.inference_mode(),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            features = self._graph(batch)(batch)
            here = torch.empty(features.shape, dtype=torch.float32, pin_memory=True)
            here.copy_(features, non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        return _Running(here, done)

    def _graph(self, batch: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        if not self._record:
            return self._run
        key = (tuple(batch.shape), batch.dtype)
        if key not in self._graphs:
            try:
                self._graphs[key] = _Graph(self._run, batch)
            except RuntimeError as error:  # a model that asks the CPU something midway
                warnings.warn(f"no CUDA graph for this model: {str(error)[:120]}", stacklevel=2)
                self._record = False
                return self._run
        return self._graphs[key]

    def _run(self, batch: torch.Tensor) -> torch.Tensor:
        if batch.dtype == torch.uint8:
            batch = batch.to(torch.float32) * self._scale - self._shift
        with autocast(self._plan):
            found: torch.Tensor = self._module(batch)
        return found.float()


@dataclass(frozen=True)
class _Running:
    """Features on their way from the device."""

    features: torch.Tensor
    done: torch.cuda.Event

    def wait(self) -> NDArray[np.float32]:
        """The features once they are there, in ordinary memory."""
        self.done.synchronize()
        return np.array(self.features.numpy())


class _Graph:
    """The kernels of one run, recorded for batches of one shape and type."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], example: torch.Tensor) -> None:
        self._input = example.clone()
        main = torch.cuda.current_stream()
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(main)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP):
                run(self._input)
        main.wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._output = run(self._input)

    def __call__(self, batch: torch.Tensor) -> torch.Tensor:
        self._input.copy_(batch)
        self._graph.replay()
        return self._output.clone()  # the next replay writes over it


def _decode(contents: Sequence[bytes]) -> list[torch.Tensor | None]:
    """RGB of each file on the device; None where nvJPEG refuses it."""
    from torchvision.io import ImageReadMode, decode_jpeg

    if not contents:
        return []
    files = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    try:
        return list(decode_jpeg(files, mode=ImageReadMode.RGB, device="cuda"))
    except RuntimeError:
        if len(contents) == 1:
            return [None]
        return [image for content in contents for image in _decode([content])]
