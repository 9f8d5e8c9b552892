"""Tiny data sets with the real layout: images, masks and a manifest, made in milliseconds.

Label 0 is a lying bar, label 1 a standing one; environment 0 is green, environment 1 is brown. In training
the two go together for most items, in validation and test they are independent.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from cfpairs.tables import MANIFEST, make_table, write_bytes, write_table
from cfpairs.vectors import Embeddings
from cfpairs.workspace import Workspace

LABEL_NAMES = ("lying", "standing")
ENV_NAMES = ("green", "brown", "blue")
GROUND = ((60, 140, 60), (140, 90, 60), (60, 80, 160))

Counts = Mapping[tuple[str, int, int], int]

DEFAULT_COUNTS: Counts = {
    ("train", 0, 0): 10,
    ("train", 0, 1): 2,
    ("train", 1, 0): 2,
    ("train", 1, 1): 10,
    **{(split, y, e): 2 for split in ("val", "test") for y in (0, 1) for e in (0, 1)},
}
"""Items of every (split, label, environment): 40 in all."""


def png(pixels: NDArray[np.uint8]) -> bytes:
    """Pixels as a PNG file's bytes."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bar_mask(label: int, size: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A bar with a soft edge, lying or standing, a little off the middle."""
    start = size // 2 - size // 8 + int(rng.integers(-size // 10, size // 10 + 1))
    mask = np.zeros((size, size), np.uint8)
    mask[start : start + size // 4, size // 6 : size - size // 6] = 255
    for edge in (start - 1, start + size // 4):
        mask[edge, size // 6 : size - size // 6] = 128
    return np.ascontiguousarray(mask.T if label else mask)


def draw(
    label: int, env: int, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (size, size, 3) and its mask (size, size)."""
    ground = np.asarray(GROUND[env]) + rng.normal(0, 12, (size, size, 1)) + rng.normal(0, 4, 3)
    mask = bar_mask(label, size, rng)
    alpha = mask[:, :, None] / 255
    image = ground * (1 - alpha) + (235 if rng.integers(2) else 20) * alpha
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), mask


def fake_workspace(
    root: Path, counts: Counts | None = None, *, size: int = 32, seed: int = 0, write: bool = True
) -> Workspace:
    """A workspace with a data set in ``data/`` and, if `write`, its ``manifest.parquet``."""
    workspace = Workspace(root)
    table = fake_manifest(workspace, counts, size=size, seed=seed)
    if write:
        write_table(workspace.manifest, table, MANIFEST)
    return workspace


def fake_manifest(
    workspace: Workspace, counts: Counts | None = None, *, size: int = 32, seed: int = 0
) -> pa.Table:
    """Draw the images into ``data/`` of the workspace and list them.

    Parameters
    ----------
    counts : mapping of (split, label, env) to int, optional
        Default: `DEFAULT_COUNTS`.
    """
    rows = []
    for (split, label, env), count in (DEFAULT_COUNTS if counts is None else counts).items():
        for number in range(count):
            rng = np.random.default_rng([seed, len(rows)])
            image, mask = draw(label, env, size, rng)
            item_id = f"bar-{split}-{len(rows):04d}"
            files = {
                "path": workspace.root / "data" / "images" / f"{item_id}.png",
                "mask_path": workspace.root / "data" / "masks" / f"{item_id}.png",
            }
            write_bytes(files["path"], png(image))
            write_bytes(files["mask_path"], png(mask))
            rows.append(
                {
                    "item_id": item_id,
                    **{name: workspace.relative(file) for name, file in files.items()},
                    "split": split,
                    "label": label,
                    "label_name": LABEL_NAMES[label],
                    "env": env,
                    "env_name": ENV_NAMES[env],
                    "subject": f"{split}-{label}-{number}",
                    "width": size,
                    "height": size,
                    "origin": "source",
                }
            )
    return make_table(rows, MANIFEST)


def fake_embeddings(manifest: pa.Table, dim: int = 16, seed: int = 0, noise: float = 0.5) -> Embeddings:
    """Vectors with a direction for the label, a longer one for the environment, and noise."""
    rng = np.random.default_rng(seed)
    axes, _ = np.linalg.qr(rng.normal(size=(dim, 2)))
    label = 2.0 * manifest["label"].to_numpy() - 1
    env = 2.0 * manifest["env"].to_numpy() - 1
    matrix = label[:, None] * axes[:, 0] + 3 * env[:, None] * axes[:, 1]
    matrix = matrix + noise * rng.normal(size=matrix.shape)
    return Embeddings(manifest["item_id"].to_pylist(), matrix.astype(np.float32))
