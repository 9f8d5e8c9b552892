"""Backgrounds for composites: training images of the target environment, or a folder of images for each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.pairs.cells import cell_rng
from cfpairs.pairs.edit.base import EditRejectedError, EditScene
from cfpairs.pairs.edit.folders import images_below, named_folder
from cfpairs.pairs.edit.masks import check_share
from cfpairs.pairs.edit.pixels import decode_image, read_file

__all__ = ["Background", "BackgroundBank", "FolderBank", "ItemBank"]

TRIES = 4
"""Backgrounds tried for one item before it is given up: a broken background is no fault of the item."""

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Background:
    """One image that an item can be laid on.

    Attributes
    ----------
    pixels : ndarray of uint8, shape (height, width, 3)
    foreground : ndarray of float32, shape (height, width), or None
        Its own foreground, to be covered; None if it has none.
    name : str
        The id of its item, or its path below the folder.
    key : tuple of str
        Hashes of what it depends on.
    """

    pixels: NDArray[np.uint8]
    foreground: NDArray[np.float32] | None
    name: str
    key: tuple[str, ...]


class BackgroundBank(Protocol):
    """Backgrounds of every environment in a seeded order."""

    @property
    def envs(self) -> frozenset[int]:
        """Environments that there are backgrounds of."""
        ...

    def take(self, env: int, turn: int, attempt: int) -> Background:
        """The background whose turn it is; for each `attempt` another.

        Raises
        ------
        EditRejectedError
            If several in a row are unusable, or no other is left.
        """
        ...


class ItemBank:
    """Training images of each environment whose foreground may be found.

    Parameters
    ----------
    scene : EditScene
    smallest, largest : float
        Limits of the share of the image that the foreground may take.

    Raises
    ------
    DataError
        If no item can have a mask.
    """

    def __init__(self, scene: EditScene, smallest: float, largest: float) -> None:
        self._scene = scene
        self._limits = smallest, largest
        self._items: dict[int, list[Mapping[str, Any]]] = {}
        items = scene.items.sort_by("item_id")
        for env in sorted(scene.env_names):
            rows = [r for r in items.filter(pc.equal(items["env"], env)).to_pylist() if scene.masks.has(r)]
            if rows:
                order = cell_rng(scene.seed, "background", env).permutation(len(rows))
                self._items[env] = [rows[place] for place in order]
        if not self._items:
            raise DataError(
                "the composite editor needs masks of the foreground",
                got=f"{items.num_rows} training items without one",
                expected="a mask_path in the manifest, or a masker that finds the foreground itself",
                remedy="add masks to the data set, add 'grabcut' to masks, or use method nearest",
            )

    @property
    def envs(self) -> frozenset[int]:
        """Environments that there are backgrounds of."""
        return frozenset(self._items)

    def take(self, env: int, turn: int, attempt: int) -> Background:
        """The background whose turn it is; for each `attempt` another."""
        return _take(self._items[env], self._open, turn, attempt)

    def _open(self, item: Mapping[str, Any]) -> Background:
        content = read_file(self._scene.workspace.file(item["path"]), "background")
        pixels = decode_image(content, "background")
        try:
            mask = self._scene.masks.mask(item, pixels, content)
            check_share(mask.alpha, *self._limits)
        except EditRejectedError as error:
            raise EditRejectedError(f"background: {error}") from error
        return Background(pixels, mask.alpha, item["item_id"], (_hash(content), mask.key))


class FolderBank:
    """Images of a folder that has one folder for each environment, named as the environment is.

    Parameters
    ----------
    scene : EditScene
    folder : Path
        Relative to the data set's folder; images may lie deeper in an environment's folder.

    Raises
    ------
    ConfigError
        If it leaves the data set's folder.
    DataError
        If it is missing, or holds images of no environment.
    """

    def __init__(self, scene: EditScene, folder: Path) -> None:
        self._folder = named_folder(scene.root, folder, "the folder of backgrounds")
        self._files: dict[int, list[Path]] = {}
        for env, name in sorted(scene.env_names.items()):
            place = self._folder / name
            # A name with a slash or dots in it is no folder of this one.
            files = images_below(place) if place.resolve().parent == self._folder else []
            if files:
                order = cell_rng(scene.seed, "background", env).permutation(len(files))
                self._files[env] = [files[number] for number in order]
        if not self._files:
            names = ", ".join(scene.env_names[env] for env in sorted(scene.env_names))
            raise DataError(
                "the folder of backgrounds has no image of any environment",
                got=self._folder,
                expected=f"folders with images in it, named {names}",
            )

    @property
    def envs(self) -> frozenset[int]:
        """Environments that there are backgrounds of."""
        return frozenset(self._files)

    def take(self, env: int, turn: int, attempt: int) -> Background:
        """The background whose turn it is; for each `attempt` another."""
        return _take(self._files[env], self._open, turn, attempt)

    def _open(self, file: Path) -> Background:
        content = read_file(file, "background")
        name = file.relative_to(self._folder).as_posix()
        return Background(decode_image(content, "background"), None, name, (_hash(content),))


def _take(
    entries: Sequence[Entry], read: Callable[[Entry], Background], turn: int, attempt: int
) -> Background:
    """The usable entry number `attempt` from `turn` on; those passed on earlier attempts are read again."""
    count = len(entries)
    stride = next(step for step in range(count // TRIES or 1, count + 2) if math.gcd(step, count) == 1)
    places = [(turn + step * stride) % count for step in range(count)]
    fault, passed = "no other background is left", 0
    for place in places[: TRIES + attempt]:
        try:
            found = read(entries[place])
        except EditRejectedError as error:
            fault = str(error)
            continue
        if passed == attempt:
            return found
        passed += 1
    raise EditRejectedError(fault)


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
