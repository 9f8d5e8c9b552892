"""Tiny IDX files with the real layout and names."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def idx_bytes(values: NDArray[np.uint8], kind: int = 0x08) -> bytes:
    """An array as the bytes of an IDX file."""
    head = bytes([0, 0, kind, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.tobytes()


def fake_part(n: int, side: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, side, side), no two alike and none black, and classes 0-9 in turn."""
    images = np.random.default_rng([seed, n]).integers(0, 256, (n, side, side), np.uint8)
    images[:, 0, 0] = 0
    return images, (np.arange(n) % 10).astype(np.uint8)


def write_idx(
    root: Path, train: int = 80, test: int = 40, *, side: int = 9, packed: bool = True, dots: bool = False
) -> Path:
    """Write the four files; returns `root`."""
    root.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", train), ("t10k", test)):
        images, labels = fake_part(n, side, 0)
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            name = f"{part}-{kind}-ubyte".replace("-idx", ".idx" if dots else "-idx")
            content = idx_bytes(values)
            path = root / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content, 1, mtime=0) if packed else content)
    return root
