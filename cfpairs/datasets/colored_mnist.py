"""Coloured MNIST: IDX files drawn in red or green, a colour that follows the label until the test turns it.

Label: the class is 5 or more, flipped for a quarter of the items. Colour: the label, flipped for 10 and 20 %
of the items in the two training domains and for 90 % in test (Arjovsky et al. 2019). See
``data_cards/colored-mnist.md``.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.config import check_options
from cfpairs.datasets.colored_mnist_plan import ColoredMNISTOptions, PlannedItem, label_names, plan_part
from cfpairs.datasets.digits import encode_png
from cfpairs.datasets.drawing import draw_once
from cfpairs.datasets.idx import check_part, find_parts, read_part
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, file_metadata, fingerprint, make_table, read_table, write_table
from cfpairs.workspace import Workspace

__all__ = ["COLOURS", "ColoredMNIST", "ColoredMNISTOptions", "colour_image"]

COLOURS = ("red", "green")
"""The colour that goes with label 0 and with label 1; its place is its channel."""

FOLDER = "data/colored-mnist"
"""Where the images lie in the workspace."""

LIST = "items.parquet"
SPLITS = ("train", "val", "test")
BLOCK = 128
PAIRS = 256
"""Pairs that the experiment is known with."""


class ColoredMNIST:
    """The ``colored-mnist`` data set.

    Parameters
    ----------
    options : ColoredMNISTOptions

    Notes
    -----
    The images are drawn in the workspace, so the IDX files may lie where nothing can be written.

    References
    ----------
    Arjovsky, Bottou, Gulrajani and Lopez-Paz 2019, "Invariant Risk Minimization", section 5.2.
    """

    Options: ClassVar[type[BaseModel]] = ColoredMNISTOptions
    version: ClassVar[int] = 1
    licence: ClassVar[str] = (
        "Images from the user's IDX files, coloured after Arjovsky et al. 2019. MNIST: LeCun, Cortes and "
        "Burges 1998, CC BY-SA 3.0. Fashion-MNIST: Xiao, Rasul and Vollgraf 2017, MIT."
    )

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(ColoredMNISTOptions, options)

    def starting(self, root: Path) -> Mapping[str, Any]:
        """Exact pairs by recolouring, as many as in the published experiment, beside the cheap ones.

        With the domain as environment there is no colour to swap, and the cheap ones are all there is.

        Raises
        ------
        DataError
            If an IDX file is missing, or its header is wrong.
        """
        for part in find_parts(root).values():
            check_part(part)
        exact = {"editor": "recolour", "checks": {"embedding": False}}
        pairs: list[dict[str, Any]] = [{"method": method, "pairs": PAIRS} for method in ("nearest", "random")]
        if self.options.environment == "colour":
            pairs.insert(0, {"method": "edit", "pairs": PAIRS, "options": exact})
        return {"data": {"options": {"limit": self.options.limit}}, "pairs": pairs}

    def digest(self, root: Path, seed: int) -> str:
        """Sixteen hexadecimal digits of the options and of the bytes of the four files."""
        files = [path for part in find_parts(root).values() for path in (part.images, part.labels)]
        hashes = [_file_hash(path) for path in files]
        return fingerprint("colored-mnist", self.version, self.options.model_dump(mode="json"), seed, hashes)

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Draw the images into ``data/colored-mnist/`` of the workspace.

        Does nothing when they are there with the same settings. They are drawn in a folder of their own that
        takes its place when it is complete, and the list of them is written last.

        Raises
        ------
        DataError
            If an IDX file is missing or cannot be used, or its items are all of one label.
        WorkspaceError
            If the workspace cannot be written.
        """
        settings = self.digest(root, seed)
        folder = workspace.root / FOLDER
        draw_once(
            folder,
            lambda: _complete(workspace, settings),
            lambda: self._draw(root, workspace, seed, settings, progress),
            "--workspace",
        )

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item; beyond the schema ``class``, ``flipped`` (the label), ``colour`` and ``domain``.

        Raises
        ------
        WorkspaceError
            If `prepare` has not been run with these settings.
        """
        folder = workspace.root / FOLDER
        if file_metadata(folder / LIST).get("settings") != self.digest(root, seed):
            raise WorkspaceError(f"no images with these settings in {folder}", remedy="prepare them first")
        return read_table(folder / LIST, MANIFEST).replace_schema_metadata(None)

    def _draw(self, root: Path, workspace: Workspace, seed: int, settings: str, progress: Progress) -> None:
        folder = workspace.root / FOLDER
        draft = folder / ".drawing"
        shutil.rmtree(draft, ignore_errors=True)
        for split in SPLITS:
            (draft / split).mkdir(parents=True)
        parts = {part: read_part(files) for part, files in find_parts(root).items()}
        names = label_names(self.options, np.concatenate([classes for _, classes in parts.values()]))
        rows: list[dict[str, Any]] = []
        for part, (images, classes) in parts.items():
            plan = plan_part(self.options, part, classes, seed)
            drawn = self._draw_part(images, plan, draft, progress)
            rows += [
                row | self._describe(item, names) | {"class": int(classes[item.index])}
                for row, item in zip(drawn, plan, strict=True)
            ]
        (folder / LIST).unlink(missing_ok=True)
        shutil.rmtree(folder / "images", ignore_errors=True)
        draft.replace(folder / "images")
        write_table(folder / LIST, make_table(rows, MANIFEST), MANIFEST, {"settings": settings})

    def _draw_part(
        self,
        images: NDArray[np.uint8],
        plan: Sequence[PlannedItem],
        draft: Path,
        progress: Progress,
    ) -> list[dict[str, Any]]:
        """Write the images of one part; the id, path and size of each."""
        side = self.options.size
        height, width = (side, side) if side else images.shape[1:]
        # The id says all that an image depends on, so that other flips or limits draw the same files.
        source = fingerprint(hashlib.sha256(images.data).hexdigest(), height, width)[:8]

        def draw_block(block: Sequence[PlannedItem]) -> list[dict[str, Any]]:
            rows = []
            for item in block:
                item_id = f"{source}-{item.part}-{item.index:05d}-{COLOURS[item.colour]}"
                place = f"{item.split}/{item_id}.png"
                pixels = colour_image(images[item.index], item.colour, side)
                (draft / place).write_bytes(encode_png(pixels))
                path = f"{FOLDER}/images/{place}"
                rows.append({"item_id": item_id, "path": path, "width": width, "height": height})
            return rows

        blocks = [plan[i : i + BLOCK] for i in range(0, len(plan), BLOCK)]
        rows: list[dict[str, Any]] = []
        with (
            progress.task(f"colouring {plan[0].part}", len(plan)) as advance,
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        ):
            for done in pool.map(draw_block, blocks):
                rows += done
                advance(len(done))
        return rows

    def _describe(self, item: PlannedItem, names: tuple[str, str]) -> dict[str, Any]:
        flips = (*self.options.train_flips, self.options.test_flip)
        by_colour = self.options.environment == "colour"
        domain_name = f"domain {item.domain} ({flips[item.domain]:g} flipped)"
        return {
            "split": item.split,
            "label": item.label,
            "label_name": names[item.label],
            "env": item.colour if by_colour else item.domain,
            "env_name": COLOURS[item.colour] if by_colour else domain_name,
            "subject": f"{item.part}-{item.index:05d}",
            "origin": "source",
            "flipped": item.flipped,
            "colour": item.colour,
            "domain": item.domain,
        }


def colour_image(grey: NDArray[np.uint8], colour: int, side: int | None = None) -> NDArray[np.uint8]:
    """A grey image in one channel, the others black.

    Parameters
    ----------
    grey : ndarray of uint8, shape (height, width)
    colour : {0, 1}
        Red or green.
    side : int, optional
        Side of the result; default: that of `grey`.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
    """
    import cv2

    if side is not None and grey.shape != (side, side):
        way = cv2.INTER_AREA if side < min(grey.shape) else cv2.INTER_CUBIC
        grey = np.asarray(cv2.resize(grey, (side, side), interpolation=way), np.uint8)
    image = np.zeros((*grey.shape, 3), np.uint8)
    image[:, :, colour] = grey
    return image


def _complete(workspace: Workspace, settings: str) -> bool:
    """Whether the list of items is there with these settings, and every image that it names."""
    listed = workspace.root / FOLDER / LIST
    if file_metadata(listed).get("settings") != settings:
        return False
    present = {
        f"{FOLDER}/images/{split}/{file.name}"
        for split in SPLITS
        for file in (workspace.root / FOLDER / "images" / split).glob("*.png")
    }
    return present.issuperset(read_table(listed, columns=["path"])["path"].to_pylist())


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror or str(error)) from error
