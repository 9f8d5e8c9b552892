"""Folders of images by environment and class: PACS, OfficeHome, TerraIncognita and the like.

Label: the class folder. Environment: the domain folder. See ``data_cards/folders.md``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
from pydantic import BaseModel

from cfpairs.config import check_options
from cfpairs.datasets.files import check_folder, image_sizes, size_notes, with_notes
from cfpairs.datasets.folders_layout import SOURCE, FoldersOptions, find_images, split_of
from cfpairs.datasets.masks import MaskFolder
from cfpairs.datasets.walk import Listing, list_images, natural_key
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, fingerprint, make_table
from cfpairs.workspace import Workspace

__all__ = ["Folders", "FoldersOptions"]

MASK_FOLDER = "masks"
PAIR_COUNT = 240


class Folders:
    """The ``folders`` data set.

    Parameters
    ----------
    options : FoldersOptions

    Notes
    -----
    An item's id is its path from the root; labels and environments are numbered in the natural order of their
    names. The split of an item is decided by a hash of its path (or of its subject) and ``split_seed`` alone:
    files that are added later move no other file. So the shares hold on average, not exactly.

    References
    ----------
    Gulrajani and Lopez-Paz 2021, "In search of lost domain generalization", ICLR: the layout, and validation
    on a fifth of the training environments.
    """

    Options: ClassVar[type[BaseModel]] = FoldersOptions
    version: ClassVar[int] = 1
    licence: ClassVar[str] = "The licence of the images is that of the data set in the folder."

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(FoldersOptions, options)

    def starting(self, root: Path) -> Mapping[str, Any]:
        """Pair sets ``nearest`` and ``random``, and ``edit`` where there are masks.

        Another domain need not be another background, so that edits are made unasked only where somebody has
        drawn masks.

        Raises
        ------
        DataError
            If `root` is not laid out so, or has fewer than two environments or classes.
        """
        found, _ = find_images(root, self._listing(root), self.options)
        groups = len({(f.label, f.env) for f in found})
        masks = self._masks(root)
        masked = masks is not None and any(masks.of(f.relative) for f in found)
        methods = ("edit", "nearest", "random") if masked else ("nearest", "random")
        return {"pairs": [{"method": m, "pairs": max(PAIR_COUNT, groups)} for m in methods]}

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Nothing: the data set is used as it lies there."""

    def digest(self, root: Path, seed: int) -> str:
        """Covers the names, sizes and times of change of all images and masks; opens none."""
        masks = self._masks(root)
        return fingerprint(
            "folders",
            self.version,
            self.options.model_dump(mode="json"),
            self._listing(root).digest,
            None if masks is None else masks.listing.digest,
        )

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item.

        Raises
        ------
        DataError
            If `root` is not laid out so, has fewer than two environments or classes, a link leaves it, or
            many images are unreadable.
        ConfigError
            If the options name an environment or a class that is not there.
        """
        found, notes = find_images(root, self._listing(root), self.options)
        envs = _numbered(f.env for f in found)
        labels = _numbered(f.label for f in found)
        paths = [root / f.relative for f in found]
        sizes = image_sizes(paths)
        notes += size_notes([f.relative for f in found], sizes)
        folder = self._masks(root)
        masks = [folder.of(f.relative) if folder else None for f in found]
        if folder is not None:
            notes += folder.notes(sum(mask is not None for mask in masks), len(found))
        rows = [
            {
                "item_id": f.relative,
                "path": workspace.relative(path),
                "mask_path": None if mask is None else workspace.relative(mask),
                "split": split_of(f, self.options),
                "label": labels[f.label],
                "label_name": f.label,
                "env": envs[f.env],
                "env_name": f.env,
                "subject": f.subject,
                "width": width,
                "height": height,
                "origin": "source",
            }
            for f, path, (width, height), mask in zip(found, paths, sizes, masks, strict=True)
        ]
        return with_notes(make_table(rows, MANIFEST), notes)

    def _listing(self, root: Path) -> Listing:
        options = self.options
        check_folder(root, f"a folder laid out as {options.layout}/image", SOURCE)
        chosen = os.path.relpath(os.path.join(root, options.masks or MASK_FOLDER), root)
        return list_images(root, options.extensions, skip=(MASK_FOLDER, chosen), links_out=options.links_out)

    def _masks(self, root: Path) -> MaskFolder | None:
        options = self.options
        return MaskFolder.find(options.masks, [root / MASK_FOLDER], root, links_out=options.links_out)


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(sorted(set(names), key=natural_key))}
