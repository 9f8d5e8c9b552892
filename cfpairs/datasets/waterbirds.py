"""Waterbirds: birds cut out and pasted on land or water, as its ``metadata.csv`` lists them.

Label: landbird or waterbird. Environment: what the bird is pasted on. In training the two go together for
95 % of the items. Any data set in the same layout will do. See ``data_cards/waterbirds.md``.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Literal

import pyarrow as pa
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.datasets.files import Inside, check_folder, image_sizes, size_notes, with_notes
from cfpairs.datasets.masks import MaskFolder
from cfpairs.datasets.waterbirds_rows import LABELS, PLACES, Listed, minority, published_notes, read_rows
from cfpairs.errors import ConfigError, DataError
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, fingerprint, make_table
from cfpairs.workspace import Workspace

__all__ = ["Waterbirds", "WaterbirdsOptions"]

METADATA = "metadata.csv"

WANTED = "a folder with metadata.csv (columns img_filename, y, split, place) and the images that it names"
SOURCE = (
    "Waterbirds is 'waterbird_complete95_forest2water2' of the group DRO authors (Sagawa et al. 2020), or "
    "'waterbirds' of the WILDS package; unpack it and pass its folder as --root"
)

MASK_FOLDERS = ("segmentations", "masks", "CUB_200_2011/segmentations")


class WaterbirdsOptions(Strict):
    """Settings of `Waterbirds`."""

    variant: Literal["standard", "counterfactual"] = Field(
        default="standard",
        description="counterfactual: minority training images are left out, for edits to take their place",
    )
    masks: str | None = Field(
        default=None,
        description="folder of masks, relative to the root; default: segmentations, masks or "
        "CUB_200_2011/segmentations, where one is there",
    )
    label_names: tuple[str, ...] | None = Field(
        default=None, description="names of y = 0, 1, ...; default: landbird, waterbird"
    )
    env_names: tuple[str, ...] | None = Field(
        default=None, description="names of place = 0, 1, ...; default: land, water"
    )
    links_out: bool = Field(default=False, description="whether links may lead out of the root")


class Waterbirds:
    """The ``waterbirds`` data set: the standard folder, or the variant that pairs are to complete.

    Parameters
    ----------
    options : WaterbirdsOptions

    Notes
    -----
    An item's id is its ``img_filename``. Its subject is the bird's photograph, known by the file's name
    without the ending: two backgrounds behind one bird share it. (A name that stands for two labels is no
    photograph; there the whole path is the subject.)

    Variant ``counterfactual`` (Waterbirds-CF): of each label's training items only those in its commonest
    place are kept. `starting` asks for as many edits of each label as were left out, 184 landbirds and 56
    waterbirds in the published data, drawn from the items that are kept.

    References
    ----------
    Sagawa, Koh, Hashimoto and Liang 2020, "Distributionally robust neural networks for group shifts", ICLR.
    """

    Options: ClassVar[type[BaseModel]] = WaterbirdsOptions
    version: ClassVar[int] = 1
    licence: ClassVar[str] = (
        "Waterbirds (Sagawa et al. 2020): birds of CUB-200-2011 (Wah et al. 2011) on backgrounds of Places "
        "(Zhou et al. 2017). Both are for non-commercial research; the photographs belong to their owners."
    )

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(WaterbirdsOptions, options)

    def starting(self, root: Path) -> Mapping[str, Any]:
        """For variant ``counterfactual``: an edit for each training item that is left out, in its place.

        The edits are training items like the others, and nearest and random pairs may take them.
        The check of the label is left out of it: where every label has one place, whatever finds the label in
        the training items may look at the place, and would reject the good edits.

        Raises
        ------
        DataError
            If `root` holds no such data set, or the variant has nothing to leave out.
        """
        listed = self._listed(metadata_folder(root))
        if self.options.variant == "standard":
            return {}
        names = self._names(listed)[0]
        left_out = Counter(names[row.label] for row in minority(listed))
        edits = {
            "choose": "minority",
            "shares": dict(sorted(left_out.items())),
            "checks": {"label": None},
        }
        others = {"pairs": left_out.total(), "options": {"differ": ["env", "subject"]}}
        return {
            "data": {"train_with": ["edit"]},
            "pairs": [
                {"method": "edit", "pairs": left_out.total(), "options": edits},
                *({"method": method, **others} for method in ("nearest", "random")),
            ],
        }

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Nothing: the data set is used as it lies there."""

    def digest(self, root: Path, seed: int) -> str:
        """Covers ``metadata.csv`` and the sizes and times of change of images and masks; opens no image."""
        folder = metadata_folder(root)
        listed = self._listed(folder)
        inside = Inside(folder, links_out=self.options.links_out)
        masks = self._masks(root, folder)
        return fingerprint(
            "waterbirds",
            self.version,
            self.options.model_dump(mode="json"),
            folder.name if folder != root else "",
            hashlib.sha256((folder / METADATA).read_bytes()).hexdigest(),
            [_facts(inside.path(row.image)) for row in listed],
            None if masks is None else masks.listing.digest,
        )

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item; beyond the schema ``img_id`` and ``place_filename`` where the file has them.

        Raises
        ------
        DataError
            If ``metadata.csv`` is missing or wrong, a path leaves its folder, or many images are missing.
        ConfigError
            If the options name too few labels or environments.
        """
        folder = metadata_folder(root)
        listed = self._listed(folder)
        label_names, env_names = self._names(listed)
        notes = published_notes(listed)
        kept = listed
        if self.options.variant == "counterfactual":
            left_out = set(minority(listed))
            kept = [row for row in listed if row not in left_out]
            notes.append(_left_out_note(left_out, label_names, env_names))
        inside = Inside(folder, links_out=self.options.links_out)
        paths = [inside.path(row.image) for row in kept]
        sizes = image_sizes(paths)
        notes += size_notes([row.image for row in kept], sizes)
        masks = self._masks(root, folder)
        found = [masks.of(row.image, anywhere=True) if masks else None for row in kept]
        if masks is not None:
            notes += masks.notes(sum(mask is not None for mask in found), len(kept))
        subjects = _subjects(listed)
        rows = [
            {
                **row.more,
                "item_id": row.image,
                "path": workspace.relative(path),
                "mask_path": None if mask is None else workspace.relative(mask),
                "split": row.split,
                "label": row.label,
                "label_name": label_names[row.label],
                "env": row.env,
                "env_name": env_names[row.env],
                "subject": subjects[row.image],
                "width": width,
                "height": height,
                "origin": "source",
            }
            for row, path, (width, height), mask in zip(kept, paths, sizes, found, strict=True)
        ]
        return with_notes(make_table(rows, MANIFEST), notes)

    def _listed(self, folder: Path) -> list[Listed]:
        return read_rows(folder / METADATA)

    def _masks(self, root: Path, folder: Path) -> MaskFolder | None:
        places = [base / name for base in dict.fromkeys((folder, root)) for name in MASK_FOLDERS]
        return MaskFolder.find(self.options.masks, places, root, links_out=self.options.links_out)

    def _names(self, listed: Sequence[Listed]) -> tuple[dict[int, str], dict[int, str]]:
        labels = {row.label for row in listed}
        envs = {row.env for row in listed}
        return (
            _named(labels, self.options.label_names, LABELS, "label"),
            _named(envs, self.options.env_names, PLACES, "env"),
        )


def metadata_folder(root: Path) -> Path:
    """The folder of ``metadata.csv``: `root`, or the only folder in it that has one.

    Raises
    ------
    DataError
        If there is none or more than one.
    """
    check_folder(root, WANTED, SOURCE)
    if (root / METADATA).is_file():
        return root
    found = sorted(path.parent for path in root.glob(f"[!.]*/{METADATA}") if path.is_file())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(folder.name for folder in found[:5])
        raise DataError(
            f"more than one folder of {root} has a {METADATA}", got=names, remedy="pass one of them as --root"
        )
    raise DataError(f"no {METADATA} in {root} or in a folder below it", expected=WANTED, remedy=SOURCE)


def _named(
    values: set[int], chosen: tuple[str, ...] | None, standard: tuple[str, ...], what: str
) -> dict[int, str]:
    names = standard if chosen is None else chosen
    if chosen is not None and (len(set(chosen)) < len(chosen) or max(values) >= len(chosen)):
        raise ConfigError(
            f"data.options.{what}_names does not name every {what} once",
            got=", ".join(chosen) or "none",
            expected=f"{max(values) + 1} names",
        )
    if max(values) >= len(names):
        return {value: f"{what} {value}" for value in sorted(values)}
    return {value: names[value] for value in sorted(values)}


def _subjects(listed: Sequence[Listed]) -> dict[str, str]:
    labels: dict[str, set[int]] = {}
    for row in listed:
        labels.setdefault(PurePosixPath(row.image).stem, set()).add(row.label)
    return {
        row.image: stem if len(labels[stem := PurePosixPath(row.image).stem]) == 1 else row.image
        for row in listed
    }


def _left_out_note(left_out: set[Listed], labels: Mapping[int, str], envs: Mapping[int, str]) -> str:
    sizes = Counter((row.label, row.env) for row in left_out)
    groups = ", ".join(f"{n} of {labels[y]} on {envs[e]}" for (y, e), n in sorted(sizes.items()))
    return f"variant counterfactual leaves out {len(left_out)} training items: {groups}"


def _facts(path: Path) -> list[int]:
    try:
        found = path.stat()
    except OSError:
        return []
    return [found.st_size, found.st_mtime_ns]
