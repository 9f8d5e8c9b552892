"""What an editor is: something that moves one item to another environment and keeps its foreground."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.workspace import Workspace

__all__ = ["EditPlan", "EditRejectedError", "EditScene", "EditTask", "Editor", "Mask", "MaskSource"]


class EditRejectedError(Exception):
    """An item cannot be edited; the message says why. It never reaches the user as an error."""


@dataclass(frozen=True)
class Mask:
    """The foreground of one image.

    Attributes
    ----------
    alpha : ndarray of float32, shape (height, width)
        Share of foreground of every pixel, in 0..1.
    key : str
        Hash of all that it depends on beside the image.
    source : str
        Name of the masker that found it.
    path : str or None
        The file that holds it, as the manifest names files; None if it was computed.
    """

    alpha: NDArray[np.float32]
    key: str
    source: str
    path: str | None = None


class MaskSource(Protocol):
    """Where masks come from; called from several threads."""

    def has(self, item: Mapping[str, Any]) -> bool:
        """Whether a mask of the item may be found; cheap, looks at no pixel."""
        ...

    def mask(self, item: Mapping[str, Any], image: NDArray[np.uint8], content: bytes) -> Mask:
        """The foreground of an item, given its pixels (height, width, 3) and its file's bytes.

        Raises
        ------
        EditRejectedError
            If none can be found.
        """
        ...


@dataclass(frozen=True)
class EditScene:
    """What all edits of one pair set share.

    Attributes
    ----------
    workspace : Workspace
    items : pyarrow.Table
        Training rows of the manifest, in the order of their ids.
    env_names, label_names : mapping of int to str
    masks : MaskSource
    seed : int
    root : Path or None
        Folder of the data set, where relative paths in an editor's options start.
    """

    workspace: Workspace
    items: pa.Table
    env_names: Mapping[int, str]
    label_names: Mapping[int, str]
    masks: MaskSource
    seed: int
    root: Path | None = None


@dataclass(frozen=True)
class EditTask:
    """One item and where it is to go.

    Attributes
    ----------
    item : mapping
        Its row of the manifest.
    env : int
        The target environment; the item's own asks for a null edit.
    turn : int
        Counts the tasks with this target, so that an editor can give each another background.
    attempt : int
        0 at first; counts up each time that a check rejects what was made, so that an editor takes another
        background or seed.
    """

    item: Mapping[str, Any]
    env: int
    turn: int
    attempt: int = 0

    @property
    def null(self) -> bool:
        """Whether there is nothing to change: the item shall stay where it is."""
        return self.env == int(self.item["env"])


@dataclass(frozen=True)
class EditPlan:
    """What an edit will be made of, read but not yet made.

    Attributes
    ----------
    source : ndarray of uint8, shape (height, width, 3)
        The item's image.
    key : tuple of str
        Hashes of everything that the edited image depends on beside the editor's name, version and options.
    mask : Mask or None
        The foreground that is kept; None where the editor needs none.
    columns : mapping
        What the pair's row shall say about it.
    data : mapping
        The editor's own.
    """

    source: NDArray[np.uint8]
    key: tuple[str, ...]
    mask: Mask | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class Editor(Protocol):
    """A way of editing; constructed with its checked options.

    Attributes
    ----------
    version : int
        Raised when the same plan gives other pixels.
    summary : str
        How a pair is made, in one or two sentences, for the card.
    limits : tuple of str
        Known limits, for the card.
    threaded : bool
        Whether `plan` and `edit` may be called from several threads, `edit` with one plan at a time; if
        not, `edit` is called from one thread with up to `batch_size` plans.
    batch_size : int
    null_edits : bool
        Whether it can do all that it does to an item with nothing to change, which shows the noise of its
        edits; taken as false where it is not said.
    """

    Options: ClassVar[type[BaseModel]]
    version: ClassVar[int]
    summary: ClassVar[str]
    limits: ClassVar[tuple[str, ...]]
    threaded: ClassVar[bool]

    def __init__(self, options: BaseModel) -> None: ...

    @property
    def batch_size(self) -> int:
        """How many plans `edit` takes at once."""
        ...

    def open(self, scene: EditScene) -> frozenset[int]:
        """Get ready to edit the items of `scene`.

        Returns
        -------
        frozenset of int
            The environments that items can be moved to.
        """
        ...

    def plan(self, task: EditTask) -> EditPlan:
        """Read what the edit needs; raises `EditRejectedError` if it cannot be made."""
        ...

    def edit(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        """The edited images, shape (height, width, 3) of their sources; the same plan gives the same pixels.

        What a plan gives does not depend on the others. An edit that fails is given as its error.
        """
        ...

    def close(self) -> None:
        """Free what `open` holds."""
        ...
