"""What a data set is given and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel

from cfpairs.progress import Progress
from cfpairs.workspace import Workspace

__all__ = ["VECTOR_ROW", "Dataset"]

VECTOR_ROW = "vector_row"
"""Column of a manifest whose data set brings embeddings: which vector is the item's, over all files.

Such a data set also has the methods ``given`` and ``given_digest``; see `cfpairs.datasets.listing.Table`.
"""


class Dataset(Protocol):
    """A source on disk that can list its items; constructed with its checked options.

    Attributes
    ----------
    Options : type of BaseModel
        What ``data.options`` may hold.
    version : int
        Raised when the same files and options give another manifest.
    licence : str
        Licence and origin of the images in one or two sentences; written into every pair set's card.
    """

    Options: ClassVar[type[BaseModel]]
    version: ClassVar[int]
    licence: ClassVar[str]

    def __init__(self, options: BaseModel) -> None: ...

    def starting(self, root: Path) -> Mapping[str, Any]:
        """Sections of a new configuration that suit the data found at `root`; cheap.

        Keys are those of the configuration (``data``, ``pairs``, ``encoder``, ...); ``cfpairs init`` merges
        them over its own starting values, lists replaced as a whole.

        Raises
        ------
        DataError
            If `root` does not hold such a data set; the message says what was looked for.
        """
        ...

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Write files that the data set makes itself; does nothing when they are there.

        `root` may be read-only where it holds somebody's data: what is made from them goes into
        ``workspace.root / "data"``.
        """
        ...

    def digest(self, root: Path, seed: int) -> str:
        """Sixteen hexadecimal digits that change when a new manifest is needed; cheap."""
        ...

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item (schema ``MANIFEST``); paths as ``workspace.relative`` gives them."""
        ...
