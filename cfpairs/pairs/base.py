"""What a pair builder is given and what it gives back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.progress import SILENT, Progress
from cfpairs.vectors import Embeddings
from cfpairs.workspace import Workspace

__all__ = ["BuildInputs", "Judge", "PairBuilder", "PairSet", "ShardMaker", "Spread"]


class Judge(Protocol):
    """The frozen encoder and a probe on its embeddings, by which a builder checks what it makes.

    Vectors are preprocessed as the probes will read them (see ``preprocess`` in the configuration).
    """

    encoder_id: str

    def training(self) -> Embeddings:
        """Vectors of the training items, keyed by item id."""
        ...

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors of images given as (height, width, 3) pixels; shape (n, d)."""
        ...

    def prepare(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the embedding as the probes will read them; shape (n, d)."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32] | None:
        """Unit vectors of texts in the images' space, shape (m, d); None if the encoder has no text."""
        ...

    def label_logits(self, vectors: NDArray[np.float32], sources: Sequence[str]) -> NDArray[np.float64]:
        """Logits (n, C) of a linear probe on the training items, a column a label in ascending order.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
        sources : sequence of str, length n
            The training item that each vector is, or was made from: its logits are those of a probe that
            was fitted without that item's subject.
        """
        ...


class ShardMaker(Protocol):
    """Makes some of a builder's images in another process, which it was pickled to.

    Attributes
    ----------
    batch_size : int
        Tasks that are best given together.
    wants_gpu : bool
        Whether it makes use of a GPU.
    witness : Path or None
        A source image that could be opened where the builder runs.
    """

    batch_size: int
    wants_gpu: bool
    witness: Path | None

    def open(self, workers: int) -> None:
        """Get ready, once a process, with so many threads."""
        ...

    def make(self, tasks: Sequence[Any]) -> None:
        """Write the image of each task into the workspace, where the builder finds and keeps it.

        To be called again with the same tasks does no harm.
        """
        ...


class Spread(Protocol):
    """Other processes, perhaps on other machines with the same storage, that make images for a builder."""

    def __call__(self, maker: ShardMaker, tasks: Sequence[Any]) -> None:
        """Return when every task was made, or could not be made; `maker` is the same at every call."""
        ...


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
    root : Path, optional
        Folder of the data set: relative paths that a user writes start there and may not leave it.
    licence : str
        Licence and origin of the data set's images, for the card.
    judge : Judge, optional
        The encoder and a probe on the training items, for builders that check what they make.
    spread : Spread, optional
        Where a builder that makes images may have them made first.
    """

    workspace: Workspace
    name: str
    manifest: pa.Table
    n_pairs: int
    seed: int
    embeddings: Embeddings | None = None
    source_file: Path | None = None
    root: Path | None = None
    licence: str = ""
    judge: Judge | None = None
    progress: Progress = SILENT
    spread: Spread | None = None


@dataclass(frozen=True)
class PairSet:
    """Pairs and the items that were made for them.

    Attributes
    ----------
    pairs : pyarrow.Table
        Schema ``PAIRS``.
    items : pyarrow.Table or None
        New rows for the manifest (schema ``MANIFEST``, ``pair_set`` filled); None if none were made. Those of
        origin ``control`` form control pairs with their parents and stand in no row of `pairs`.
    card : str
        Markdown: what was done, settings, counts, known limits.
    notes : tuple of str
        Lines to tell the user (a shortfall, say).
    vectors : Embeddings or None
        Vectors of made items that have no image, with the metadata of the embeddings that they belong to.
    """

    pairs: pa.Table
    items: pa.Table | None
    card: str
    notes: tuple[str, ...] = field(default=())
    vectors: Embeddings | None = None

    def counts(self) -> Mapping[str, int]:
        """Number of pairs by status."""
        return Counter(self.pairs["status"].to_pylist())

    @property
    def n_control(self) -> int:
        """Number of control pairs: items and the same edited with nothing to change."""
        return 0 if self.items is None else self.items["origin"].to_pylist().count("control")


class PairBuilder(Protocol):
    """A way of making pairs; constructed with its checked options."""

    Options: ClassVar[type[BaseModel]]
    needs_embeddings: ClassVar[bool]
    version: ClassVar[int]

    def __init__(self, options: BaseModel) -> None: ...

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs; the same inputs give the same bytes."""
        ...
