"""Time composites of photographs end to end: read, decode, mask, fill, compose, encode; and GrabCut masks.

Usage: python pipelines/bench_composite.py [--images 240] [--side 224] [--threads 2]
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import skimage
from numpy.typing import NDArray
from PIL import Image

from cfpairs.pairs.edit.base import EditRejectedError, EditScene, EditTask
from cfpairs.pairs.edit.composite import CompositeEditor, CompositeOptions
from cfpairs.pairs.edit.masks import open_masks
from cfpairs.pairs.edit.pixels import encode_png
from cfpairs.tables import MANIFEST, make_table
from cfpairs.workspace import Workspace

ENVIRONMENTS = {0: ("grass",), 1: ("gravel", "brick")}
OBJECTS = ("astronaut", "chelsea", "coffee")


def photograph(name: str) -> Image.Image:
    """One of scikit-image's photographs."""
    return Image.open(Path(skimage.__file__).parent / "data" / f"{name}.png").convert("RGB")


def crop(photo: Image.Image, side: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """A random square of a photograph at the size asked for."""
    extent = int(rng.integers(140, 300))
    left, top = (int(rng.integers(0, length - extent + 1)) for length in photo.size)
    part = photo.crop((left, top, left + extent, top + extent)).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(part, np.float32)


def make_items(root: Path, count: int, side: int) -> pa.Table:
    """Uneven discs of one photograph on another, as JPEG, with hard masks; written below `root`."""
    photos = {name: photograph(name) for name in (*OBJECTS, *sum(ENVIRONMENTS.values(), ()))}
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    rows = []
    for number in range(count):
        rng = np.random.default_rng([0, number])
        env = number % 2
        angle, radius = np.arctan2(y, x), np.hypot(x, y)
        wave = sum(rng.uniform(-0.15, 0.15) * np.cos(k * angle + rng.uniform(0, 6)) for k in range(2, 6))
        shape = (radius < 0.28 * side * (1 + wave)).astype(np.float32)
        alpha = cv2.GaussianBlur(shape, (0, 0), 0.9)[:, :, None]
        behind = crop(photos[str(rng.choice(ENVIRONMENTS[env]))], side, rng)
        image = crop(photos[str(rng.choice(OBJECTS))], side, rng) * alpha + behind * (1 - alpha)
        name = f"{number:05d}"
        Image.fromarray(np.rint(image).astype(np.uint8)).save(root / f"{name}.jpg", quality=92)
        Image.fromarray((shape * 255).astype(np.uint8)).save(root / f"{name}-mask.png")
        rows.append(
            {
                "item_id": name,
                "path": f"{name}.jpg",
                "mask_path": f"{name}-mask.png",
                "split": "train",
                "label": 0,
                "label_name": "disc",
                "env": env,
                "env_name": str(env),
                "width": side,
                "height": side,
                "origin": "source",
            }
        )
    return make_table(rows, MANIFEST)


def rate(work: Callable[[int], object], count: int, threads: int) -> tuple[float, float]:
    """How many a second, and milliseconds of processor time for each, which other programs hardly disturb."""
    with ThreadPoolExecutor(threads) as pool:
        begun, used = time.perf_counter(), time.process_time()
        for _ in pool.map(work, range(count)):
            pass
    return count / (time.perf_counter() - begun), 1000 * (time.process_time() - used) / count


def main() -> None:
    """Print one row a way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=240)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    cv2.setNumThreads(1)  # the threads are those of the pool
    with tempfile.TemporaryDirectory() as folder:
        workspace = Workspace(folder)
        items = make_items(workspace.root, args.images, args.side)
        rows = items.to_pylist()

        def composites(masker: str) -> Callable[[int], object]:
            editor = CompositeEditor(CompositeOptions())
            masks = open_masks((masker,), {}, workspace=workspace, root=workspace.root)
            editor.open(EditScene(workspace, items, {0: "0", 1: "1"}, {0: "disc"}, masks, 0))

            def one(number: int) -> object:
                item = rows[number]
                try:
                    plan = editor.plan(EditTask(item, 1 - item["env"], number))
                except EditRejectedError as error:
                    return error
                (made,) = editor.edit([plan])
                return made if isinstance(made, EditRejectedError) else encode_png(made)

            return one

        def paste(number: int) -> object:
            item, other = rows[number], rows[(number + 1) % len(rows)]
            image, ground = (Image.open(workspace.file(r["path"])).convert("RGB") for r in (item, other))
            ground.paste(image, mask=Image.open(workspace.file(item["mask_path"])))
            ground.save(file := io.BytesIO(), "PNG")
            return file

        few = max(args.images // 8, 1)
        ways = (
            ("composite", composites("column"), args.images, args.threads),
            ("composite", composites("column"), args.images, 1),
            ("composite, GrabCut", composites("grabcut"), few, args.threads),
            ("Pillow paste only", paste, args.images, 1),
        )
        print(f"{args.side} x {args.side} pixels: JPEG and mask from disk, PNG in memory")
        print(f"{'way':<20}{'threads':>8}{'images/s':>10}{'CPU ms an image':>17}")
        for name, work, count, threads in ways:
            work(0)
            speed, busy = rate(work, count, threads)
            print(f"{name:<20}{threads:>8}{speed:>10.0f}{busy:>17.1f}")


if __name__ == "__main__":
    main()
