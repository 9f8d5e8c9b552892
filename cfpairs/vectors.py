"""Embeddings on disk, and as vectors keyed by item id."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpairs.errors import DataError, WorkspaceError
from cfpairs.tables import embedding_schema, file_metadata, replacing

__all__ = ["Embeddings", "contents_digest", "part_files", "read_embeddings", "write_vectors"]

ROW_GROUP_BYTES = 8 << 20
"""Vectors in one row group, so that a reader can take a large part bit by bit."""


class Embeddings:
    """Vectors keyed by item id.

    Parameters
    ----------
    item_ids : sequence of str or pyarrow.StringArray, length n
    matrix : ndarray of shape (n, d)
        Row i belongs to ``item_ids[i]``.
    metadata : mapping of str to str, optional
        What the encoder wrote beside them.

    Notes
    -----
    The ids are kept as one Arrow array; `rows` joins them to others without a Python object for each.
    """

    def __init__(
        self,
        item_ids: Sequence[str] | pa.Array,
        matrix: NDArray[Any],
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._ids = _id_array(item_ids)
        self.matrix = matrix
        self.metadata = dict(metadata or {})
        if matrix.ndim != 2 or len(self._ids) != matrix.shape[0]:
            raise DataError(
                "ids and vectors do not match", got=f"{len(self._ids)} ids, vectors {matrix.shape}"
            )
        if pc.count_distinct(self._ids).as_py() != len(self._ids):
            raise DataError("an item has two embeddings", remedy="delete the folder and embed again")

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._members

    @cached_property
    def item_ids(self) -> list[str]:
        """The id of each row."""
        found: list[str] = self._ids.to_pylist()
        return found

    @cached_property
    def _members(self) -> frozenset[str]:
        return frozenset(self.item_ids)

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        return int(self.matrix.shape[1])

    def rows(self, item_ids: Sequence[str] | pa.Array) -> NDArray[Any]:
        """Vectors of `item_ids`, shape (k, d), in that order.

        Raises
        ------
        DataError
            If an item has none; the message counts them and names one.
        """
        wanted = _id_array(item_ids)
        places = pc.index_in(wanted, value_set=self._ids)
        if places.null_count:
            missing = wanted.filter(places.is_null())
            raise DataError(
                "items without an embedding",
                got=f"{len(missing)}, such as {missing[0].as_py()!r}",
                remedy="run 'cfpairs embed'; failures.parquet lists images that could not be read",
            )
        found: NDArray[Any] = self.matrix[places.to_numpy()]
        return found


def _id_array(item_ids: Sequence[str] | pa.Array) -> pa.Array:
    if isinstance(item_ids, pa.ChunkedArray):
        return item_ids.combine_chunks()
    return item_ids if isinstance(item_ids, pa.Array) else pa.array(item_ids, pa.string())


def part_files(folder: Path) -> list[Path]:
    """The complete parts of one encoder's folder, in order."""
    return sorted(folder.glob("part-[0-9]*.parquet"))


def contents_digest(folder: Path, item_ids: pa.Array) -> str:
    """Sixteen hexadecimal digits over what was embedded: the ids and contents of those of `item_ids` there.

    They do not depend on the order of either, or on the division into parts. The vectors are not read.
    """
    schema = pa.schema([("item_id", pa.string()), ("content_hash", pa.string())])
    parts = [pq.read_table(part, columns=schema.names).cast(schema) for part in part_files(folder)]
    rows = pa.concat_tables(parts, promote_options="none") if parts else schema.empty_table()
    rows = rows.filter(pc.is_in(rows["item_id"], value_set=_id_array(item_ids))).sort_by("item_id")
    sha = hashlib.sha256()
    for line in pc.binary_join_element_wise(rows["item_id"], rows["content_hash"], "\n").to_pylist():
        sha.update(f"{line}\0".encode())
    return sha.hexdigest()[:16]


def write_vectors(
    path: Path,
    item_ids: Iterable[str],
    vectors: NDArray[Any],
    content_hashes: Iterable[str],
    metadata: Mapping[str, str],
) -> None:
    """Write one part, whole or not at all.

    Parameters
    ----------
    path : Path
    item_ids : iterable of str, length n
        Distinct.
    vectors : ndarray of shape (n, d)
        float32 or float16, stored as they are.
    content_hashes : iterable of str, length n
    metadata : mapping of str to str
        Stored in the file's key-value metadata.

    Raises
    ------
    DataError
        If an id repeats.
    WorkspaceError
        If the file cannot be written; no part of it is left then.

    Notes
    -----
    Vectors are stored plain: their bits hardly compress (zstd over split bytes saves a sixth), and plain
    numbers are read three times as fast.
    """
    dim = vectors.shape[1]
    table = pa.table(
        {
            "item_id": pa.array(item_ids, pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
            "content_hash": pa.array(content_hashes, pa.string()),
        }
    )
    table = embedding_schema(dim, vectors.dtype.name).validate(table)
    pairs = {key.encode(): value.encode() for key, value in sorted(metadata.items())}
    with replacing(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(pairs),
            temporary,
            row_group_size=max(1, ROW_GROUP_BYTES // (dim * vectors.itemsize)),
            compression={"item_id": "zstd", "embedding.list.element": "none", "content_hash": "zstd"},
            use_dictionary=False,
            write_statistics=["item_id"],
        )


def read_embeddings(folder: Path | str) -> Embeddings:
    """Read every part of one encoder's folder.

    Returns
    -------
    Embeddings
        ``matrix`` is (n, d), of the stored type. It is filled straight from Arrow's buffers; of a single
        part it is a view of them, not to be written to.

    Raises
    ------
    WorkspaceError
        If there is no part.
    DataError
        If a part cannot be read, or parts differ in dimension or type.
    """
    files = part_files(Path(folder))
    if not files:
        raise WorkspaceError(f"no embeddings in {folder}", remedy="run 'cfpairs embed'")
    if len(files) == 1:
        ids, matrix = _read_part(files[0])
        return Embeddings(ids, matrix, file_metadata(files[0]))
    counts, kinds = zip(*map(_shape, files), strict=True)
    if len(set(kinds)) > 1:
        raise DataError(
            f"parts in {folder} differ in dimension or type",
            got=" and ".join(sorted({f"{dim} x {dtype}" for dim, dtype in kinds})),
            remedy="run 'cfpairs embed', or delete the folder and embed again",
        )
    ends = np.cumsum(counts)
    matrix = np.empty((int(ends[-1]), kinds[0][0]), kinds[0][1])

    def fill(file: Path, end: int) -> pa.Array:
        ids, vectors = _read_part(file)
        matrix[end - len(ids) : end] = vectors
        return ids

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        blocks = list(pool.map(fill, files, ends.tolist()))
    return Embeddings(pa.concat_arrays(blocks), matrix, file_metadata(files[0]))


def _shape(file: Path) -> tuple[int, tuple[int, str]]:
    """Rows, and dimension and number type, as the file's footer has them."""
    try:
        with pq.ParquetFile(file) as opened:
            kind = opened.schema_arrow.field("embedding").type
            return opened.metadata.num_rows, (kind.list_size, kind.value_type.to_pandas_dtype().__name__)
    except (pa.ArrowInvalid, OSError, KeyError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _read_part(file: Path) -> tuple[pa.Array, NDArray[Any]]:
    try:
        with pq.ParquetFile(file) as opened:
            table = opened.read(columns=["item_id", "embedding"], use_threads=False)
        vectors = table["embedding"].combine_chunks()
        values = vectors.flatten().to_numpy(zero_copy_only=True)
        return table["item_id"].combine_chunks(), values.reshape(len(vectors), vectors.type.list_size)
    except (pa.ArrowInvalid, OSError, KeyError, AttributeError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(
        f"{file} cannot be read as embeddings", got=error, remedy="run 'cfpairs embed' to make it again"
    )
