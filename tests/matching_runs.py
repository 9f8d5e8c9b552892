"""Inputs of matching and its slow reference, for the tests of nearest pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.nearest import NearestBuilder, NearestOptions
from cfpairs.tables import MANIFEST, make_table
from cfpairs.vectors import Embeddings
from cfpairs.workspace import Workspace


def unit(rows: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.round(a.astype(np.float64) @ b.T.astype(np.float64), 6)


def items(label: list[int], env: list[int], **columns: list[object]) -> pa.Table:
    """A manifest of training items without files, with further columns."""
    rows = [
        {
            "item_id": f"item-{i:05d}",
            "path": f"{i}.png",
            "split": "train",
            "label": y,
            "label_name": "cat dog owl".split()[y],
            "env": e,
            "env_name": "barn city dune".split()[e],
            "width": 8,
            "height": 8,
            "origin": "source",
        }
        | {name: values[i] for name, values in columns.items()}
        for i, (y, e) in enumerate(zip(label, env, strict=True))
    ]
    return make_table(rows, MANIFEST)


def inputs(
    manifest: pa.Table, matrix: NDArray[np.floating], n_pairs: int = 10_000, seed: int = 0
) -> BuildInputs:
    found = Embeddings(manifest["item_id"].to_pylist(), np.asarray(matrix, np.float32))
    return BuildInputs(Workspace(Path("nowhere")), "nearest", manifest, n_pairs, seed, found)


def build(given: BuildInputs, **options: object) -> PairSet:
    return NearestBuilder(NearestOptions.model_validate(options)).build(given)


def pairs(made: PairSet) -> list[tuple[int, int]]:
    """The pairs as numbers of items."""
    numbers = ([int(i[5:]) for i in made.pairs[name].to_pylist()] for name in ("a_id", "b_id"))
    return list(zip(*numbers, strict=True))
