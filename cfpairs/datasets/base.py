"""What a data set is given and what it gives back."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel

from cfpairs.progress import Progress
from cfpairs.workspace import Workspace

__all__ = ["Dataset"]


class Dataset(Protocol):
    """A source on disk that can list its items; constructed with its checked options."""

    Options: ClassVar[type[BaseModel]]
    version: ClassVar[int]

    def __init__(self, options: BaseModel) -> None: ...

    def prepare(self, root: Path, seed: int, progress: Progress) -> None:
        """Write files that the data set makes itself; does nothing when they are there."""
        ...

    def digest(self, root: Path, seed: int) -> str:
        """Sixteen hexadecimal digits that change when a new manifest is needed; cheap."""
        ...

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item (schema ``MANIFEST``); paths as ``workspace.relative`` gives them."""
        ...
