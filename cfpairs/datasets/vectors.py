"""Embeddings in npy and Parquet files, read block by block."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpairs.datasets.sheets import vector_columns
from cfpairs.errors import ConfigError, DataError

__all__ = ["NpyVectors", "ParquetVectors", "Vectors", "open_npy", "open_parquet", "place_of"]

FLOATS = ("float16", "float32", "float64")


class Vectors(Protocol):
    """Vectors in one file or in several that follow each other; row i is the i-th of all.

    Attributes
    ----------
    files : tuple of Path
    counts : tuple of int
        Rows of each file.
    dim : int
    dtype : str
        ``float16``, ``float32`` or ``float64``.
    """

    @property
    def files(self) -> tuple[Path, ...]:
        """Where they are."""
        ...

    @property
    def counts(self) -> tuple[int, ...]:
        """Rows of each file."""
        ...

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        ...

    @property
    def dtype(self) -> str:
        """Type of the numbers."""
        ...

    def blocks(
        self, rows: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Row numbers and their vectors (b, d), b at most `size`, in order.

        Memory is bounded by a block (Parquet: by a row group), however many rows there are.

        Parameters
        ----------
        rows : ndarray of int
            Ascending, distinct.
        size : int

        Raises
        ------
        DataError
            If a file cannot be read, or a vector is of another length.
        """
        ...


def _pieces(rows: NDArray[np.int64], counts: Sequence[int]) -> Iterator[tuple[int, int, NDArray[np.int64]]]:
    """Number of the file, its first row among all, and the wanted rows in it (among all)."""
    start = 0
    for number, count in enumerate(counts):
        low, high = np.searchsorted(rows, (start, start + count))
        if high > low:
            yield number, start, rows[low:high]
        start += count


@dataclass(frozen=True)
class NpyVectors:
    """Two-dimensional arrays in npy files; see `Vectors`."""

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    dim: int
    dtype: str

    def blocks(
        self, rows: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """See `Vectors.blocks`."""
        for number, start, wanted in _pieces(rows, self.counts):
            for begin in range(0, len(wanted), size):
                block = wanted[begin : begin + size]
                # Mapped anew for every block: pages of a mapping that stays open would count as memory.
                mapped = _map_npy(self.files[number])
                yield block, _as_float32(mapped[block - start])


@dataclass(frozen=True)
class ParquetVectors:
    """A column of lists in Parquet files; an empty value is a vector of NaN; see `Vectors`."""

    files: tuple[Path, ...]
    counts: tuple[int, ...]
    dim: int
    dtype: str
    column: str

    def blocks(
        self, rows: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """See `Vectors.blocks`."""
        for number, start, wanted in _pieces(rows, self.counts):
            file, at = self.files[number], start
            for batch in _batches(file, self.column, size):
                low, high = np.searchsorted(wanted, (at, at + len(batch)))
                if high > low:
                    matrix = _matrix(batch, self.dim, file, at - start)
                    yield wanted[low:high], matrix[wanted[low:high] - at]
                at += len(batch)


def _as_float32(values: NDArray[Any]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(values, np.float32)


def open_npy(files: Sequence[Path]) -> NpyVectors:
    """Vectors in npy files, of which only the headers are read.

    Raises
    ------
    DataError
        If one is missing, cut short, no npy, not two-dimensional, not of floating-point numbers or of another
        dimension than the others. Pickled objects are never loaded.
    """
    arrays = [_map_npy(file) for file in files]
    dims = {int(array.shape[1]): file.name for array, file in zip(arrays, files, strict=True)}
    if len(dims) != 1:
        raise DataError(
            "parts of the embeddings differ in dimension",
            got=", ".join(f"{dim} in {name}" for dim, name in sorted(dims.items())),
        )
    kinds = sorted({array.dtype.name for array in arrays})
    return NpyVectors(tuple(files), tuple(len(a) for a in arrays), next(iter(dims)), "+".join(kinds))


def _map_npy(file: Path) -> NDArray[Any]:
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("there is no such file", got=str(file)) from error
    except (OSError, ValueError, EOFError) as error:
        raise _bad_npy(file, error) from error
    if not isinstance(array, np.ndarray):
        array.close()
        raise DataError(f"{file.name} is an npz archive", expected="one array in an npy file")
    if array.ndim != 2 or not array.shape[1]:
        raise DataError(f"{file.name} has the wrong shape", got=array.shape, expected="(items, dimensions)")
    if array.dtype.name not in FLOATS:
        raise DataError(
            f"{file.name} holds no embeddings", got=array.dtype.name, expected=" or ".join(FLOATS)
        )
    return array


def _bad_npy(file: Path, error: Exception) -> DataError:
    """What is wrong with a file that numpy does not map."""
    text = " ".join(str(error).split())
    if "Python objects" in text or "Object arrays" in text:
        return DataError(
            f"{file.name} holds pickled Python objects, which are refused",
            expected=" or ".join(FLOATS),
            remedy="save it anew: np.save(file, np.stack(list(array)).astype('float32'))",
        )
    if "pickled" in text:
        return DataError(f"{file.name} is no npy file", remedy="write it by np.save")
    if isinstance(error, EOFError) or "mmap length" in text or "EOF" in text or "cannot mmap" in text:
        size = file.stat().st_size
        return DataError(f"{file.name} is cut short or empty", got=f"{size} bytes", remedy="copy it again")
    return DataError(f"{file.name} cannot be read as npy", got=text)


def open_parquet(files: Sequence[Path], column: str | None = None) -> ParquetVectors:
    """Vectors in a column of Parquet files, of which only the first ones are read.

    Parameters
    ----------
    column : str, optional
        Default: the only one that holds lists of floating-point numbers.

    Raises
    ------
    ConfigError
        If there is no such column, or more than one and `column` is not given.
    DataError
        If a file cannot be read, or the parts differ in dimension.
    """
    parts = [_open_part(file, column) for file in files]
    first = parts[0]
    for part in parts:
        if (part.dim, part.column) != (first.dim, first.column):
            raise DataError(
                "parts of the embeddings differ",
                got=", ".join(f"{p.dim} dimensions in {p.files[0].name} ({p.column})" for p in (first, part)),
            )
    kinds = sorted({part.dtype for part in parts})
    counts = tuple(part.counts[0] for part in parts)
    return ParquetVectors(tuple(files), counts, first.dim, "+".join(kinds), first.column)


def _open_part(file: Path, column: str | None) -> ParquetVectors:
    found = vector_columns(file)
    if column is not None and column not in found:
        raise ConfigError(
            f"{file.name} has no column {column!r} of vectors",
            got="vectors in " + ", ".join(map(repr, found)) if found else "no column of vectors",
            remedy="set data.options.embedding_column",
        )
    if column is None and len(found) != 1:
        raise ConfigError(
            f"{file.name} has {len(found) or 'no'} columns of vectors",
            got=", ".join(map(repr, found)) or None,
            expected="lists of floating-point numbers",
            remedy="name one in data.options.embedding_column" if found else "check data.options.embeddings",
        )
    name = column or found[0]
    kind = pq.read_schema(file).field(name).type
    if pa.types.is_fixed_size_list(kind):
        dim = int(kind.list_size)
    else:
        lengths = (len(v) for batch in _batches(file, name, 256) for v in batch if v.is_valid)
        dim = next(lengths, 0)
    if not dim:
        raise DataError(f"{file.name} has no vector in column {name!r}")
    value = {"halffloat": "float16", "float": "float32", "double": "float64"}[str(kind.value_type)]
    return ParquetVectors((file,), (pq.read_metadata(file).num_rows,), dim, value, name)


def _batches(file: Path, column: str, size: int) -> Iterator[pa.Array]:
    try:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=size, columns=[column]):
                yield batch.column(0)
    except FileNotFoundError as error:
        raise DataError("there is no such file", got=str(file)) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file.name} cannot be read as Parquet", got=str(error).splitlines()[0]) from error


def _matrix(batch: pa.Array, dim: int, file: Path, first: int) -> NDArray[np.float32]:
    """A batch of lists as (b, d); NaN where a list is null."""
    valid = np.asarray(batch.is_valid())
    lengths = np.asarray(batch.value_lengths().fill_null(dim)) if not _is_fixed(batch) else None
    if lengths is not None and (lengths != dim).any():
        row = int(np.argmax(lengths != dim))
        raise DataError(
            "vectors differ in length",
            got=f"{int(lengths[row])} numbers in {file.name} row {first + row}",
            expected=f"{dim} numbers",
        )
    values = _as_float32(batch.flatten().to_numpy(zero_copy_only=False))
    matrix = np.full((len(batch), dim), np.nan, np.float32)
    matrix[valid] = values.reshape(-1, dim)
    return matrix


def _is_fixed(batch: pa.Array) -> bool:
    return bool(pa.types.is_fixed_size_list(batch.type))


def place_of(row: int, vectors: Vectors) -> str:
    """File and row of a vector, for messages."""
    ends = list(itertools.accumulate(vectors.counts))
    number = bisect.bisect_right(ends, row)
    return f"{vectors.files[number].name} row {row - (ends[number] - vectors.counts[number])}"
