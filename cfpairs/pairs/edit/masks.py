"""Foreground masks: where they come from, and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.config import parse_options
from cfpairs.errors import ConfigError
from cfpairs.pairs.edit.base import EditRejectedError, Mask, MaskSource
from cfpairs.pairs.edit.pixels import decode_levels
from cfpairs.registry import resolve
from cfpairs.workspace import Workspace

__all__ = [
    "DEFAULT_MASKERS",
    "Masker",
    "MaskerChain",
    "check_share",
    "decode_mask",
    "open_masks",
]

DEFAULT_MASKERS = ("column", "alpha", "grabcut")


class Masker(Protocol):
    """One way of finding foregrounds; called from several threads.

    Attributes
    ----------
    version : int
        Raised when the same image gives another mask.
    """

    Options: ClassVar[type[BaseModel]]
    version: ClassVar[int]

    def __init__(self, options: BaseModel, *, workspace: Workspace, root: Path | None) -> None: ...

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether a mask of the item may be found; cheap, looks at no pixel."""
        ...

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The foreground; raises `EditRejectedError` if there is none."""
        ...


def open_masks(
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    *,
    workspace: Workspace,
    root: Path | None,
) -> MaskSource:
    """The maskers of these names, tried one after another.

    Parameters
    ----------
    names : sequence of str
        Names in the registry; the first whose mask is usable wins.
    options : mapping of str to mapping
        Settings of each masker; those left out have their defaults.
    workspace : Workspace
        Where the manifest's paths start.
    root : Path or None
        Folder of the data set, where paths in the options start.

    Raises
    ------
    ConfigError
        If a name is unknown or stands twice, or settings are wrong or belong to no masker named.
    MissingDependencyError
        If a masker needs a library that is not installed.
    """
    if not names or len(set(names)) != len(names):
        raise ConfigError("masks needs names, each once", got=list(names))
    stray = sorted(set(options) - set(names))
    if stray:
        raise ConfigError(
            "mask_options for a masker that is not used", got=stray[0], expected=f"one of {', '.join(names)}"
        )
    maskers = {}
    for name in names:
        maker = resolve("maskers", name)
        checked = parse_options(maker.Options, options.get(name, {}), f"masker {name!r}")
        maskers[name] = maker(checked, workspace=workspace, root=root)
    return MaskerChain(maskers)


class MaskerChain:
    """Maskers that are tried in order.

    Parameters
    ----------
    maskers : mapping of str to Masker
    """

    def __init__(self, maskers: Mapping[str, Masker]) -> None:
        self.maskers = dict(maskers)

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether any masker may find a mask of the item."""
        return any(masker.has(item) for masker in self.maskers.values())

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The first usable mask; raises `EditRejectedError` with every masker's reason if there is none."""
        faults = []
        for masker in self.maskers.values():
            if not masker.has(item):
                continue
            try:
                found = masker.mask(item, image, content)
                _check_usable(found.alpha, image.shape[:2])
                return found
            except EditRejectedError as error:
                faults.append(str(error))
        raise EditRejectedError("; ".join(dict.fromkeys(faults)) or "the item has no mask")


def decode_mask(content: bytes, what: str = "mask") -> NDArray[np.float32]:
    """Share of foreground of every pixel.

    Parameters
    ----------
    content : bytes
        An image whose brightness tells foreground (white) from background (black), of 0 and 1 too; grey
        levels, such as the votes of several annotators, are shares. If it has transparent pixels, those are
        the background.
    what : str
        What the mask is called in the reason of a rejection.

    Returns
    -------
    ndarray of float32, shape (height, width)
        Values in 0..1.

    Raises
    ------
    EditRejectedError
        If it cannot be decoded.
    """
    return decode_levels(content, what)


def check_share(alpha: NDArray[np.float32], smallest: float, largest: float, what: str = "mask") -> None:
    """Raise `EditRejectedError` if the foreground takes less or more of the image than the limits allow."""
    share = float((alpha >= 0.5).mean())
    if share < smallest or share == 0:
        raise EditRejectedError(f"{what} is empty" if share == 0 else f"{what} marks too little of the image")
    if share > largest:
        raise EditRejectedError(f"{what} is full" if share == 1 else f"{what} marks too much of the image")


def _check_usable(alpha: NDArray[np.float32], size: tuple[int, ...]) -> None:
    if alpha.shape != size:
        got, image = (f"{shape[1]} x {shape[0]}" for shape in (alpha.shape, size))
        raise EditRejectedError(f"mask of the wrong size: {got}, image {image}")
    check_share(alpha, 0.0, np.nextafter(1.0, 0.0))
