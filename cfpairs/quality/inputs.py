"""Check what `assess_pairs` is given, once and in one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeGuard, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from cfpairs.errors import DataError
from cfpairs.quality.moments import lengths_of
from cfpairs.quality.rows import equal_sides

__all__ = ["MANY", "Inputs", "check_inputs"]

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]

MANY = 8192
"""From this number of pairs on they are read in blocks."""


class _Numbers(Sequence[str]):
    """The numbers from 0 as words, which are made when they are asked for."""

    def __init__(self, count: int) -> None:
        self._range = range(count)

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        found = self._range[index]
        return str(found) if isinstance(found, int) else tuple(map(str, found))


@dataclass(frozen=True)
class Inputs:
    """Checked arrays; absent ones are None.

    Attributes
    ----------
    D : ndarray of shape (k, d)
        In float64; many pairs stay in the float type and the file that they came in.
    lengths : ndarray of shape (k,)
        Of the rows of D.
    X : ndarray of shape (n, d) or None
    y, env : ndarray of shape (n,) or None
    a : ndarray of shape (k, d) or None
    labels : ndarray of shape (k,) or None
        Of the pairs, coded as `y` is.
    clusters : ndarray of shape (k,)
        Pairs of one cluster share a source: as given, or by an equal vector on one side.
    pair_ids : sequence of str
    env_a, env_b : ndarray of shape (k,) or None
        Environments of the two sides, coded as `env` is.
    control : ndarray of shape (c, d) or None
    makers : ndarray of shape (k,) or None
        Codes of what made each pair.
    """

    D: Floats
    lengths: Floats
    X: Floats | None
    y: Codes | None
    env: Codes | None
    a: Floats | None
    labels: Codes | None
    clusters: Codes
    pair_ids: Sequence[str]
    env_a: Codes | None
    env_b: Codes | None
    control: Floats | None
    makers: Codes | None

    def take(self, rows: NDArray[np.int64]) -> Inputs:
        """Some of the pairs, in float64, with all items."""

        def part(values: NDArray[Any] | None) -> Any:
            return None if values is None else values[rows]

        return replace(
            self,
            D=np.asarray(self.D[rows], dtype=np.float64),
            lengths=self.lengths[rows],
            a=None if self.a is None else np.asarray(self.a[rows], dtype=np.float64),
            labels=part(self.labels),
            clusters=self.clusters[rows],
            pair_ids=tuple(self.pair_ids[i] for i in rows),
            env_a=part(self.env_a),
            env_b=part(self.env_b),
            makers=part(self.makers),
        )

    @property
    def b(self) -> Floats | None:
        """The b sides, (k, d)."""
        return None if self.a is None else self.a - self.D

    @property
    def routes(self) -> Codes | None:
        """One code for the two environments of a pair, whichever side they are on."""
        if self.env_a is None or self.env_b is None or len(self.D) == 0:
            return None
        ends = np.sort(np.stack([self.env_a, self.env_b], axis=1), axis=1)
        return np.asarray(np.unique(ends, axis=0, return_inverse=True)[1].ravel(), dtype=np.int64)

    @property
    def kinds(self) -> Codes:
        """One code for the pairs of one label from one environment to another, as far as these are known."""
        known = [codes for codes in (self.labels, self.env_a, self.env_b) if codes is not None]
        if not known or len(self.D) == 0:
            return np.zeros(len(self.D), dtype=np.int64)
        return np.unique(np.stack(known, axis=1), axis=0, return_inverse=True)[1].ravel()


def check_inputs(
    D: ArrayLike,
    X: ArrayLike | None,
    y: ArrayLike | None,
    env: ArrayLike | None,
    *,
    a: ArrayLike | None,
    pair_labels: ArrayLike | None,
    clusters: ArrayLike | None,
    pair_ids: Sequence[object] | None,
    pair_envs: ArrayLike | tuple[ArrayLike, ArrayLike] | None,
    control: ArrayLike | None,
    makers: ArrayLike | None,
) -> Inputs:
    """Check shapes and values.

    Raises
    ------
    DataError
        If a shape does not fit or a value is not finite; the message names how many pairs and which.
    """
    names = None if pair_ids is None else tuple(map(str, pair_ids))
    differences, lengths = _measured(D, "the pair differences", "pairs", names, lazy=True)
    k, d = differences.shape
    ids = names if names is not None else _Numbers(k)
    _length("pair_ids", len(ids), k, "pairs")
    items = None if X is None else _measured(X, "the training items", "items", None, columns=d)[0]
    sides = (
        None if a is None else _measured(a, "the a sides of the pairs", "pairs", ids, columns=d, lazy=True)[0]
    )
    if sides is not None:
        _length("a", len(sides), k, "pairs")
    n = 0 if items is None else len(items)
    labels_of_items, labels_of_pairs = _codes(("y", y, n), ("pair_labels", pair_labels, k))
    env_a, env_b = _two_envs(pair_envs, k)
    envs = _codes(("env", env, n), ("pair_envs", env_a, k), ("pair_envs", env_b, k))
    usable = items is not None and n > 0
    return Inputs(
        D=differences,
        lengths=lengths,
        X=items if usable else None,
        y=labels_of_items if usable else None,
        env=envs[0] if usable else None,
        a=sides,
        labels=labels_of_pairs,
        clusters=_clusters(clusters, k, differences, sides),
        pair_ids=ids,
        env_a=envs[1],
        env_b=envs[2],
        control=None
        if control is None
        else _measured(control, "the control pairs", "pairs", None, columns=d)[0],
        makers=_codes(("makers", makers, k))[0],
    )


def _measured(
    values: ArrayLike,
    what: str,
    unit: str,
    names: Sequence[str] | None,
    *,
    columns: int | None = None,
    lazy: bool = False,
) -> tuple[Floats, Floats]:
    """A matrix of finite values, and the lengths of its rows."""
    try:
        matrix = values if lazy and _is_large(values) else np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{what} are not numbers", expected="a matrix with one row for each") from error
    if matrix.ndim != 2 or matrix.shape[1] == 0:
        raise DataError(
            f"{what} are not a matrix", got=f"shape {matrix.shape}", expected="(rows, dimensions)"
        )
    if columns is not None and matrix.shape[1] != columns:
        raise DataError(
            f"{what} do not fit the pair differences",
            got=f"{matrix.shape[1]} dimensions",
            expected=f"{columns} dimensions",
            remedy="embed both with the same encoder",
        )
    lengths = lengths_of(matrix)
    bad = np.flatnonzero(~np.isfinite(lengths))  # squares overflow only where the values are beyond use
    if bad.size:
        known = names is not None and len(names) == len(matrix)
        shown = ", ".join(names[i] if known and names is not None else str(i) for i in bad[:5])
        raise DataError(
            f"{what} have values that are not finite",
            got=f"{bad.size} of {len(matrix)} {unit}: {shown}{', ...' if bad.size > 5 else ''}",
            expected="finite numbers",
            remedy=f"leave these {unit} out or embed them again",
        )
    return matrix, lengths


def _is_large(values: ArrayLike) -> TypeGuard[NDArray[Any]]:
    """Whether these are many rows of floats, which stay in the type and the file that they are in."""
    return (
        isinstance(values, np.ndarray)
        and values.ndim == 2
        and values.dtype.kind == "f"
        and len(values) > MANY
    )


def _length(name: str, got: int, expected: int, unit: str) -> None:
    if got != expected:
        raise DataError(f"{name} has the wrong length", got=got, expected=f"{expected}, the number of {unit}")


def _codes(*columns: tuple[str, Any, int]) -> list[Codes | None]:
    """Code the values of several columns alike, as integers in the order of their values.

    Integers stay as they are, so that rows of the result can be matched to the manifest's codes.
    """
    arrays: list[NDArray[Any] | None] = []
    for name, values, length in columns:
        if values is None:
            arrays.append(None)
            continue
        array = np.asarray(values).ravel()
        if length or len(array):
            _length(name, len(array), length, "items" if name in ("y", "env") else "pairs")
        arrays.append(array)
    present = [array for array in arrays if array is not None]
    if all(array.dtype.kind in "iub" for array in present):
        return [None if array is None else array.astype(np.int64) for array in arrays]
    values = np.unique(np.concatenate([array.astype(str) for array in present]))
    return [None if array is None else np.searchsorted(values, array.astype(str)) for array in arrays]


def _two_envs(pair_envs: Any, k: int) -> tuple[Any, Any]:
    if pair_envs is None:
        return None, None
    if isinstance(pair_envs, tuple) and len(pair_envs) == 2:
        return pair_envs
    array = np.asarray(pair_envs)
    if array.shape != (k, 2):
        raise DataError("pair_envs has the wrong shape", got=array.shape, expected=f"({k}, 2)")
    return array[:, 0], array[:, 1]


def _clusters(given: ArrayLike | None, k: int, differences: Floats, a: Floats | None) -> Codes:
    """Connected components of pairs that share a given cluster or an equal vector on either side."""
    edges = []
    if given is not None:
        array = np.asarray(given).ravel()
        _length("clusters", len(array), k, "pairs")
        edges.append(np.unique(array.astype(str), return_inverse=True)[1])
    if a is not None and k:
        # One code for a vector wherever it stands, so that it joins pairs across the sides.
        equal = equal_sides(a, differences) + k
        edges.extend([equal[:k], equal[k:]])
    if not edges:
        return np.arange(k)
    nodes = np.concatenate(edges) + k
    size = int(nodes.max(initial=k)) + 1
    pairs = np.tile(np.arange(k), len(edges))
    graph = coo_matrix((np.ones(len(nodes)), (pairs, nodes)), shape=(size, size))
    return np.asarray(connected_components(graph, directed=False)[1][:k], dtype=np.int64)
