"""Handwritten digits painted on photographs of ground and wall: a shortcut that needs no download.

Label: digit 5 or more. Environment: what the digit is painted on, grass or stone. In training the two go
together for 95 % of the items; in validation and test they are independent. See ``data_cards/digits.md``.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.config import check_options
from cfpairs.datasets.digits_plan import (
    ENVIRONMENTS,
    LABELS,
    SPLIT_ENDS,
    DigitsOptions,
    PlannedItem,
    plan_items,
)
from cfpairs.datasets.drawing import draw_once
from cfpairs.datasets.photographs import PHOTOGRAPHS, crop_background
from cfpairs.datasets.strokes import paint, stroke_mask
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, fingerprint, make_table, write_bytes
from cfpairs.workspace import Workspace

__all__ = ["Digits", "DigitsOptions"]

BLOCK = 16


class Digits:
    """The ``digits`` data set.

    Parameters
    ----------
    options : DigitsOptions

    Notes
    -----
    Digits: the test part of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), as
    scikit-learn ships it. Photographs: scikit-image's grass, gravel and brick (public domain).
    """

    Options: ClassVar[type[BaseModel]] = DigitsOptions
    version: ClassVar[int] = 1
    licence: ClassVar[str] = (
        "Digits: Alpaydin and Kaynak 1998, UCI, CC BY 4.0. Photographs: scikit-image's grass, gravel and "
        "brick, CC0."
    )

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(DigitsOptions, options)

    def starting(self, root: Path) -> Mapping[str, Any]:
        """Nothing beyond what every configuration starts with."""
        return {}

    def digest(self, root: Path, seed: int) -> str:
        """Sixteen hexadecimal digits of everything that decides the images."""
        return fingerprint("digits", self.version, self.options.model_dump(mode="json"), seed)

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Draw ``images/``, ``masks/`` and, last, ``metadata.csv`` under `root`.

        Does nothing when they are there with the same settings. The images are drawn in a folder of their
        own that takes its place when it is complete, so that a broken run leaves nothing half done.

        Raises
        ------
        DataError
            If a photograph or the digits cannot be read.
        WorkspaceError
            If `root` cannot be written.
        """
        draw_once(
            root,
            lambda: self._complete(root, seed),
            lambda: self._render(root, seed, progress),
            "data root",
        )

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item; beyond the schema ``digit`` (0-9) and ``photograph``.

        Raises
        ------
        WorkspaceError
            If `prepare` has not been run with these settings.
        """
        records = _read_metadata(root)
        if not records or records[0].get("settings") != self.digest(root, seed):
            raise WorkspaceError(f"no digits with these settings in {root}", remedy="prepare them first")
        rows = [
            {
                "item_id": record["item_id"],
                "path": workspace.relative(root / record["image"]),
                "mask_path": workspace.relative(root / record["mask"]),
                "split": record["split"],
                "label": int(record["label"]),
                "label_name": record["label_name"],
                "env": int(record["env"]),
                "env_name": record["env_name"],
                "subject": record["subject"],
                "width": int(record["width"]),
                "height": int(record["height"]),
                "origin": "source",
                "digit": int(record["digit"]),
                "photograph": record["photograph"],
            }
            for record in records
        ]
        return make_table(rows, MANIFEST)

    def _complete(self, root: Path, seed: int) -> bool:
        records = _read_metadata(root)
        if not records or records[0].get("settings") != self.digest(root, seed):
            return False
        present = {
            f"{folder}/{file.name}" for folder in ("images", "masks") for file in (root / folder).glob("*")
        }
        return all(record["image"] in present and record["mask"] in present for record in records)

    def _render(self, root: Path, seed: int, progress: Progress) -> None:
        scans, digits = _load_scans()
        items = plan_items(self.options, digits, seed)
        settings = self.digest(root, seed)
        draft = root / ".rendering"
        shutil.rmtree(draft, ignore_errors=True)
        for folder in ("images", "masks"):
            (draft / folder).mkdir(parents=True)

        def draw_block(block: list[PlannedItem]) -> list[dict[str, object]]:
            return [self._draw(item, scans, digits, settings, seed, draft) for item in block]

        records: list[dict[str, object]] = []
        blocks = [items[i : i + BLOCK] for i in range(0, len(items), BLOCK)]
        with (
            progress.task("drawing digits", len(items)) as advance,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):
            for rows in pool.map(draw_block, blocks):
                records.extend(rows)
                advance(len(rows))

        (root / "metadata.csv").unlink(missing_ok=True)
        for folder in ("images", "masks"):
            shutil.rmtree(root / folder, ignore_errors=True)
            (draft / folder).replace(root / folder)
        draft.rmdir()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)
        write_bytes(root / "metadata.csv", text.getvalue().encode())

    def _draw(
        self,
        item: PlannedItem,
        scans: NDArray[np.float64],
        digits: NDArray[np.int64],
        settings: str,
        seed: int,
        draft: Path,
    ) -> dict[str, object]:
        image, mask, photograph = draw_item(self.options, item, scans[item.digit], seed)
        item_id = f"digits-{settings[:8]}-{item.split}-{item.serial:05d}"
        record = {
            "item_id": item_id,
            "image": f"images/{item_id}.png",
            "mask": f"masks/{item_id}.png",
            "split": item.split,
            "label": item.label,
            "label_name": LABELS[item.label],
            "env": item.env,
            "env_name": ENVIRONMENTS[item.env][0],
            "subject": f"digit-{item.digit:04d}",
            "digit": int(digits[item.digit]),
            "photograph": photograph,
            "width": self.options.size,
            "height": self.options.size,
            "settings": settings,
        }
        (draft / str(record["image"])).write_bytes(encode_png(image))
        (draft / str(record["mask"])).write_bytes(encode_png(mask))
        return record


def draw_item(
    options: DigitsOptions, item: PlannedItem, scan: NDArray[np.float64], seed: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], str]:
    """The image (size, size, 3), its mask (size, size) and the name of the photograph behind it."""
    number = list(SPLIT_ENDS).index(item.split)
    rng = np.random.default_rng([seed, 2, number, item.serial])
    names = ENVIRONMENTS[item.env][1]
    photograph = PHOTOGRAPHS[names[int(rng.integers(len(names)))]]
    background = crop_background(photograph, item.split, options.size, options.tint, rng)
    mask = stroke_mask(scan, options.size, rng)
    return paint(background, mask, rng), mask, photograph.name


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Grey (h, w) or red-green-blue (h, w, 3) pixels as PNG, packed lightly: speed before size."""
    import cv2

    done, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels, _PNG_SETTINGS)
    if not done:
        raise DataError("an image could not be encoded", got=f"shape {pixels.shape}")
    return data.tobytes()


_PNG_SETTINGS = [16, 1]
"""``[IMWRITE_PNG_COMPRESSION, 1]``."""


def _load_scans() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    try:
        data = load_digits()
    except (OSError, ValueError) as error:
        raise DataError(
            "scikit-learn's handwritten digits cannot be read",
            got=error,
            remedy="reinstall it: pip install --force-reinstall scikit-learn",
        ) from error
    return data.images, data.target


def _read_metadata(root: Path) -> list[dict[str, str]]:
    try:
        with (root / "metadata.csv").open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
