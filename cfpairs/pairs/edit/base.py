"""What an editor is: something that moves one item to another environment and keeps its foreground."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.workspace import Workspace

__all__ = ["EditPlan", "EditRejectedError", "EditTask", "Editor"]


class EditRejectedError(Exception):
    """An item cannot be edited; the message says why. It never reaches the user as an error."""


@dataclass(frozen=True)
class EditTask:
    """One item and where it is to go.

    Attributes
    ----------
    item : mapping
        Its row of the manifest.
    env : int
        The target environment.
    turn : int
        Counts the tasks with this target, so that an editor can give each another background.
    """

    item: Mapping[str, Any]
    env: int
    turn: int


@dataclass(frozen=True)
class EditPlan:
    """What an edit will be made of, read but not yet made.

    Attributes
    ----------
    source : ndarray of uint8, shape (height, width, 3)
        The item's image.
    key : tuple of str
        Hashes of everything that the edited image depends on beside the editor's name, version and options.
    columns : mapping
        What the pair's row shall say about it.
    data : mapping
        The editor's own.
    """

    source: NDArray[np.uint8]
    key: tuple[str, ...]
    columns: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)


class Editor(Protocol):
    """A way of editing; constructed with its checked options.

    `plan` and `edit` are called from several threads and must not change the editor.
    """

    Options: ClassVar[type[BaseModel]]
    version: ClassVar[int]
    summary: ClassVar[str]
    limits: ClassVar[tuple[str, ...]]

    def __init__(self, options: BaseModel) -> None: ...

    def open(self, workspace: Workspace, items: pa.Table, seed: int) -> frozenset[int]:
        """Get ready to edit `items` (training rows of the manifest).

        Returns
        -------
        frozenset of int
            The environments that items can be moved to.
        """
        ...

    def plan(self, task: EditTask) -> EditPlan:
        """Read what the edit needs; raises `EditRejectedError` if it cannot be made."""
        ...

    def edit(self, plan: EditPlan) -> NDArray[np.uint8]:
        """The edited image, shape (height, width, 3); the same plan gives the same pixels."""
        ...
