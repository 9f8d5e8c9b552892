"""A folder of masks that belongs to a data set, and which mask is whose."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from cfpairs.datasets.walk import Listing, list_images
from cfpairs.errors import DataError

__all__ = ["MaskFolder"]


class MaskFolder:
    """Masks in a tree like that of the images, or all in one folder.

    Parameters
    ----------
    folder : Path
    chosen : bool
        Whether the user named it; one that was only found may turn out to hold no masks.
    links_out : bool
        Whether links may lead out of it.
    """

    def __init__(self, folder: Path, *, chosen: bool, links_out: bool = False) -> None:
        self.folder = folder
        self.chosen = chosen
        self.listing: Listing = list_images(folder, links_out=links_out)
        self._by_path: dict[str, str] = {}
        stems: dict[str, set[str]] = {}
        for file in self.listing.files:
            self._by_path[_bare(file.relative)] = file.relative
            stems.setdefault(PurePosixPath(file.relative).stem, set()).add(file.relative)
        self._by_stem = {stem: next(iter(files)) for stem, files in stems.items() if len(files) == 1}

    @classmethod
    def find(
        cls, chosen: str | None, places: Sequence[Path], root: Path, *, links_out: bool = False
    ) -> MaskFolder | None:
        """The folder that an option names, else the first of `places` that is there, else None.

        Raises
        ------
        DataError
            If the folder that the option names is missing.
        """
        if chosen is not None:
            folder = Path(os.path.abspath(root / chosen))
            if not folder.is_dir():
                raise DataError("no folder of masks", got=folder, remedy="check data.options.masks")
            return cls(folder, chosen=True, links_out=links_out)
        for place in places:
            if place.is_dir():
                return cls(place, chosen=False, links_out=links_out)
        return None

    def of(self, image: str, *, anywhere: bool = False) -> Path | None:
        """The mask of an image.

        Parameters
        ----------
        image : str
            The image's path, relative to the folder that the masks mirror; the ending does not count.
        anywhere : bool
            Whether a mask of the same file name will do wherever it lies, if there is only one.
        """
        found = self._by_path.get(_bare(image))
        if found is None and anywhere:
            found = self._by_stem.get(PurePosixPath(image).stem)
        return None if found is None else self.folder / found

    def notes(self, found: int, items: int) -> list[str]:
        """A line if images have no mask.

        Raises
        ------
        DataError
            If none has one in a folder that the user named: names do not match.
        """
        if not found and self.chosen:
            files = self.listing.files
            raise DataError(
                "no image has a mask in the folder of masks",
                got=f"{self.folder} with {files[0].relative!r}"
                if files
                else f"{self.folder}, without an image",
                expected="the images' own paths and names",
                remedy="check data.options.masks",
            )
        return [f"{items - found} of {items} images have no mask in {self.folder}"] if found < items else []


def _bare(path: str) -> str:
    return path[: -len(suffix)] if (suffix := PurePosixPath(path).suffix) else path
