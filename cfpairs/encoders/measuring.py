"""Speed and agreement of every way of running an encoder on this machine, over a fixed set of photographs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.encoders.findings import Measurement
from cfpairs.encoders.network import NetworkEncoder
from cfpairs.encoders.runtimes import RunPlan, Runtime, build_runtime
from cfpairs.errors import CfpairsError, DataError
from cfpairs.progress import SILENT, Progress

__all__ = ["measure", "trial_images", "ways"]

PHOTOGRAPHS = (
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg", "rocket.jpg",
)  # fmt: skip
"""Photographs that travel inside scikit-image."""

REQUESTS = (1, 4)
"""Images in one request to OpenVINO that are tried: many small matrix products may go faster together."""

LARGEST = 320
"""Largest side of a crop in pixels."""

_ROUNDS = 2


def trial_images() -> list[Image.Image]:
    """Seeded crops of the photographs: each one plain, one dark, one flat, one noisy; then four extremes.

    Raises
    ------
    DataError
        If scikit-image's photographs are not there.
    """
    spec = find_spec("skimage")
    places = list(spec.submodule_search_locations or ()) if spec else []
    folder = Path(places[0] if places else "skimage") / "data"
    rng = np.random.default_rng(0)
    found: list[NDArray[np.float64]] = []
    for name in PHOTOGRAPHS:
        try:
            photograph = np.asarray(Image.open(folder / name).convert("RGB"), np.float64)
        except OSError as error:
            raise DataError(
                f"the photograph {name} is not there", remedy="install scikit-image again"
            ) from error
        plain, dark, flat, noisy = (_crop(photograph, rng) for _ in range(4))
        found += [plain, dark * 0.12, 128 + (flat - 128) * 0.06, noisy + rng.normal(0, 50, noisy.shape)]
    square = (224, 224, 3)
    found += [np.zeros(square), np.full(square, 127.0), np.full(square, 255.0), rng.uniform(0, 255, square)]
    return [Image.fromarray(pixels.clip(0, 255).astype(np.uint8)) for pixels in found]


def _crop(photograph: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """A part of random place, size and shape."""
    height, width = (int(rng.integers(96, min(side, LARGEST) + 1)) for side in photograph.shape[:2])
    top, left = (
        int(rng.integers(0, a - b + 1)) for a, b in zip(photograph.shape, (height, width), strict=False)
    )
    return photograph[top : top + height, left : left + width]


def ways(device: str) -> list[RunPlan]:
    """Every way of running a network on a device; the first, torch in float32, is the reference."""
    if device == "cuda":
        return [RunPlan(device, "torch", precision) for precision in ("fp32", "bf16", "fp16")]
    plans = [RunPlan(device, "torch", precision) for precision in ("fp32", "bf16")]
    if find_spec("openvino") is not None:
        plans += [
            RunPlan(device, "openvino", precision, request=request)
            for precision in ("fp32", "bf16")
            for request in REQUESTS
        ]
    return plans


def measure(
    encoder: NetworkEncoder,
    images: Sequence[Image.Image],
    batch_size: int = 32,
    progress: Progress = SILENT,
) -> list[Measurement]:
    """Run the images through each of `ways`.

    Parameters
    ----------
    encoder : NetworkEncoder
        Its own plan does not matter, but for the device.
    images : sequence of PIL.Image.Image
    batch_size : int
        Images in a batch; the last batch is filled up.

    Returns
    -------
    list of Measurement
        In the order of `ways`. A way that does not work here has its error.

    Raises
    ------
    CfpairsError
        If the reference itself does not work.
    """
    prepared = np.stack([encoder.pixels(image) for image in images])
    empty = np.zeros((-len(prepared) % batch_size, *prepared.shape[1:]), np.uint8)
    batches = np.split(np.concatenate([prepared, empty]), (len(prepared) + len(empty)) // batch_size)
    module = encoder.build()
    plans = ways(encoder.info.device)
    found: list[Measurement] = []
    reference: NDArray[np.float64] | None = None
    with progress.task("measuring", len(plans)) as advance:
        for plan in plans:
            try:
                runtime = build_runtime(module, plan, encoder.info.preprocessing, encoder.info.name)
                rows, rate = _run(runtime, batches)
            except CfpairsError as error:
                if reference is None:
                    raise
                found.append(_row(plan, 0.0, 0.0, str(error)))
            else:
                features = np.asarray(rows[: len(images)], np.float64)
                if reference is None:
                    reference = features
                found.append(_row(plan, rate, _least_cosine(features, reference)))
            advance(1)
    return found


def _row(plan: RunPlan, rate: float, cosine: float, error: str = "") -> Measurement:
    return Measurement(plan.runtime, plan.precision, plan.request, round(rate, 2), round(cosine, 6), error)


def _run(runtime: Runtime, batches: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], float]:
    """Features, and images a second in the best of a few rounds, after one batch to warm up."""
    runtime(batches[0])
    best = float("inf")
    for _ in range(_ROUNDS):
        begun = time.perf_counter()
        features = np.concatenate(list(runtime.stream(batches)))
        best = min(best, time.perf_counter() - begun)
    return features, len(features) / best


def _least_cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Least cosine between a row of `a` and the same row of `b`; 0 if a row is not finite."""
    if not np.isfinite(a).all():
        return 0.0
    cosine = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    return float(cosine.min())
