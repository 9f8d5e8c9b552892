"""What a pair builder is given and what it gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol

import pyarrow as pa
from pydantic import BaseModel

from cfpairs.progress import SILENT, Progress
from cfpairs.tables import Embeddings
from cfpairs.workspace import Workspace

__all__ = ["BuildInputs", "PairBuilder", "PairSet"]


@dataclass(frozen=True)
class BuildInputs:
    """Everything that a builder may use.

    Attributes
    ----------
    workspace : Workspace
    name : str
        Name of the pair set; images go to ``workspace.pair_images(name)``.
    manifest : pyarrow.Table
        Source items only (schema ``MANIFEST``).
    n_pairs : int
        How many pairs are asked for.
    seed : int
    embeddings : Embeddings, optional
        Present when the builder's ``needs_embeddings`` is true.
    source_file : Path, optional
        The ``--from`` file.
    """

    workspace: Workspace
    name: str
    manifest: pa.Table
    n_pairs: int
    seed: int
    embeddings: Embeddings | None = None
    source_file: Path | None = None
    progress: Progress = SILENT


@dataclass(frozen=True)
class PairSet:
    """Pairs and the items that were made for them.

    Attributes
    ----------
    pairs : pyarrow.Table
        Schema ``PAIRS``.
    items : pyarrow.Table or None
        New rows for the manifest (schema ``MANIFEST``, ``pair_set`` filled); None if none were made.
    card : str
        Markdown: what was done, settings, counts, known limits.
    notes : tuple of str
        Lines to tell the user (a shortfall, say).
    """

    pairs: pa.Table
    items: pa.Table | None
    card: str
    notes: tuple[str, ...] = field(default=())

    def counts(self) -> Mapping[str, int]:
        """Number of pairs by status."""
        return Counter(self.pairs["status"].to_pylist())


class PairBuilder(Protocol):
    """A way of making pairs; constructed with its checked options."""

    Options: ClassVar[type[BaseModel]]
    needs_embeddings: ClassVar[bool]
    version: ClassVar[int]

    def __init__(self, options: BaseModel) -> None: ...

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs; the same inputs give the same bytes."""
        ...
