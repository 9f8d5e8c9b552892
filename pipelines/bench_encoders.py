"""Time the embedded encoder on OpenVINO against torch eager on real photographs, and compare features.

Usage: python pipelines/bench_encoders.py [--images 256]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import skimage
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.encoders.base import Encoder
from cfpairs.encoders.factory import open_encoder

BATCH = 32


def crops(count: int, seed: int) -> list[Image.Image]:
    """Random square crops of scikit-image's colour and grey photographs."""
    folder = Path(skimage.__file__).parent / "data"
    names = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel")
    photos = [Image.open(folder / f"{name}.png").convert("RGB") for name in names]
    rng = np.random.default_rng(seed)
    found = []
    for i in range(count):
        photo = photos[i % len(photos)]
        side = int(rng.integers(100, min(photo.size)))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photo.size)
        found.append(photo.crop((left, top, left + side, top + side)))
    return found


def measure(encoder: Encoder, batches: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Features of every batch and images a second, after a warm-up."""
    encoder.load()
    encoder.encode(batches[0])
    begun = time.perf_counter()
    features = [np.array(encoder.encode(batch)) for batch in batches]
    seconds = time.perf_counter() - begun
    encoder.close()
    return np.concatenate(features), len(batches) * BATCH / seconds


def main() -> None:
    """Print one row a runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    count = max(args.images // BATCH, 1) * BATCH

    def encoder(runtime: str, precision: str) -> Encoder:
        config = EncoderConfig.model_validate(
            {"runtime": runtime, "precision": precision, "batch_size": BATCH}
        )
        return open_encoder(config)

    reference = encoder("torch", "fp32")
    rows = [np.asarray(reference.preprocess(image)) for image in crops(count, args.seed)]
    batches = [np.stack(rows[i : i + BATCH]) for i in range(0, count, BATCH)]
    expected, base = measure(reference, batches)
    print(f"lite, {count} crops of photographs, batches of {BATCH}")
    print(f"{'runtime':<18}{'images/s':>10}{'ratio':>8}{'least cosine to torch fp32':>30}")
    print(f"{'torch fp32':<18}{base:>10.0f}{1:>8.1f}{1:>30.6f}")
    for precision in ("auto", "fp32", "bf16"):
        found, speed = measure(encoder("openvino", precision), batches)
        cosine = (found * expected).sum(axis=1)
        cosine /= np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
        print(f"{'openvino ' + precision:<18}{speed:>10.0f}{speed / base:>8.1f}{cosine.min():>30.6f}")


if __name__ == "__main__":
    main()
