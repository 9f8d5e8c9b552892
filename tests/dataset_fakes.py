"""Tiny data sets laid out as the published ones, drawn in milliseconds."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from fakes import draw
from PIL import Image

BIRDS = (("001.Black_footed_Albatross", "Black_Footed_Albatross"), ("150.Sage_Thrasher", "Sage_Thrasher"))
"""Folder and file name of a waterbird and a landbird, as CUB-200-2011 has them."""

PLACES = ("/b/bamboo_forest", "/o/ocean", "/f/forest/broadleaf")

WATERBIRDS: Mapping[tuple[int, int, int], int] = {
    (0, 0, 0): 14,
    (0, 0, 1): 3,
    (0, 1, 0): 2,
    (0, 1, 1): 12,
    **{(split, y, place): 2 for split in (1, 2) for y in (0, 1) for place in (0, 1)},
}
"""Items of every (split, y, place): 47 in all, 5 of them the minority of the training items."""

HEADER = ("img_id", "img_filename", "y", "split", "place", "place_filename")


def fake_waterbirds(
    root: Path,
    counts: Mapping[tuple[int, int, int], int] | None = None,
    *,
    size: int = 32,
    masks: str | None = None,
    images: bool = True,
) -> Path:
    """``metadata.csv``, JPEG images in species folders and, if asked for, masks in `masks`; gives `root`.

    Masks are as CUB-200-2011 has them: grey levels are the shares of five annotators' votes.
    """
    rows = []
    for (split, y, place), count in (WATERBIRDS if counts is None else counts).items():
        for _ in range(count):
            number = len(rows) + 1
            folder, name = BIRDS[0 if y else 1]
            relative = f"{folder}/{name}_{number:04d}_{number + 4000}"
            if images:
                pixels, mask = draw(y, place, size, np.random.default_rng([7, number]))
                save(root / f"{relative}.jpg", pixels)
                if masks is not None:
                    save(root / masks / f"{relative}.png", (mask // 51 * 51).astype(np.uint8))
            rows.append((number, f"{relative}.jpg", y, split, place, f"{PLACES[place]}/{number:08d}.jpg"))
    write_metadata(root, rows)
    return root


def write_metadata(root: Path, rows: Sequence[Sequence[object]], header: Sequence[str] = HEADER) -> None:
    """A ``metadata.csv``."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text(text.getvalue(), encoding="utf-8", newline="")


def fake_folders(
    root: Path,
    envs: Sequence[str] = ("art_painting", "photo", "sketch"),
    classes: Sequence[str] = ("dog", "guitar"),
    *,
    each: int = 4,
    size: int = 24,
    swapped: bool = False,
) -> Path:
    """``domain/class/image`` (or ``class/domain/image``) with `each` images a group; gives `root`."""
    for e, env in enumerate(envs):
        for y, label in enumerate(classes):
            for number in range(each):
                pixels, _ = draw(y % 2, e % 3, size, np.random.default_rng([9, e, y, number]))
                folder = root / label / env if swapped else root / env / label
                save(folder / f"pic_{number + 1}.jpg", pixels)
    return root


def save(path: Path, pixels: np.ndarray) -> None:
    """An image file in its folder; the kind follows from the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
