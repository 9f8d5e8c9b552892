"""The items of a run, taken from a table or from a Parquet file a few thousand at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpairs.embedding.files import Keys, keys_of
from cfpairs.errors import DataError, WorkspaceError

__all__ = ["Item", "ItemList"]

_BLOCK = 4096
_COLUMNS = ["item_id", "path"]


@dataclass(frozen=True, slots=True)
class Item:
    """One image to embed; `path` as the manifest has it."""

    item_id: str
    path: str


class ItemList(Sequence[Item]):
    """Items in the order of a table.

    Of a file, only the rows that are being looked at are in memory; of each item that is left out or kept,
    one byte is. Access by index reads both columns whole.

    Parameters
    ----------
    source : pyarrow.Table or Path
        With columns ``item_id`` and ``path``; a path is that of a Parquet file.
    kept : ndarray of bool, optional
        The rows that belong to the list; by default all.

    Raises
    ------
    WorkspaceError
        If the file cannot be read.
    DataError
        If a column is missing.
    """

    def __init__(self, source: pa.Table | Path, kept: NDArray[np.bool_] | None = None) -> None:
        self._source = source
        try:
            schema = source.schema if isinstance(source, pa.Table) else pq.read_schema(source)
            rows = len(source) if isinstance(source, pa.Table) else pq.read_metadata(source).num_rows
        except (OSError, pa.ArrowException) as error:
            raise WorkspaceError(f"{source} cannot be read as Parquet", got=error) from error
        if not set(_COLUMNS) <= set(schema.names):
            raise DataError(
                "the items lack a column", got=", ".join(schema.names), expected="item_id and path"
            )
        self._kept = np.ones(rows, bool) if kept is None else kept
        self._count = int(np.count_nonzero(self._kept))

    def only(self, kept: NDArray[np.bool_]) -> ItemList:
        """Those of a list of all rows for which `kept` is true."""
        return ItemList(self._source, kept)

    def __len__(self) -> int:
        return self._count

    def _batches(self) -> Iterator[pa.RecordBatch]:
        if isinstance(self._source, pa.Table):
            yield from self._source.select(_COLUMNS).to_batches(max_chunksize=_BLOCK)
            return
        # A buffered stream reads page by page, so that no whole column is ever held.
        with pq.ParquetFile(self._source, buffer_size=1 << 16, pre_buffer=False) as opened:
            for batch in opened.iter_batches(_BLOCK, columns=_COLUMNS, use_threads=False):
                yield batch
                # Arrow's allocator keeps what is freed, which adds up over hundreds of batches.
                pa.default_memory_pool().release_unused()

    def blocks(self) -> Iterator[tuple[list[str], list[str]]]:
        """Ids and paths, at most 4,096 at a time."""
        start = 0
        for batch in self._batches():
            kept = self._kept[start : start + len(batch)]
            start += len(batch)
            if not kept.all():
                batch = batch.filter(pa.array(kept))
            if len(batch):
                yield batch["item_id"].to_pylist(), batch["path"].to_pylist()

    def __iter__(self) -> Iterator[Item]:
        for ids, paths in self.blocks():
            yield from map(Item, ids, paths)

    def chunks(self, size: int) -> Iterator[list[Item]]:
        """Lists of `size` items; the last may be shorter."""
        stream = iter(self)
        while chunk := list(islice(stream, size)):
            yield chunk

    @overload
    def __getitem__(self, which: int) -> Item: ...
    @overload
    def __getitem__(self, which: slice) -> list[Item]: ...
    def __getitem__(self, which: int | slice) -> Item | list[Item]:
        source = self._source
        table = source if isinstance(source, pa.Table) else pq.read_table(source, columns=_COLUMNS)
        if isinstance(which, int):
            which = slice(which, which + 1 or None)
            return self._at(table, which)[0]
        return self._at(table, which)

    def _at(self, table: pa.Table, which: slice) -> list[Item]:
        rows = table.take(pa.array(np.flatnonzero(self._kept)[which]))
        return list(map(Item, rows["item_id"].to_pylist(), rows["path"].to_pylist()))

    def check_distinct(self) -> None:
        """See that no id occurs twice.

        Raises
        ------
        DataError
            If one does.
        """
        keys: Keys = np.empty(len(self), np.uint64)
        done = 0
        for ids, _ in self.blocks():
            keys[done : done + len(ids)] = keys_of(ids)
            done += len(ids)
        keys.sort()
        twice = keys[1:][keys[1:] == keys[:-1]]
        if len(twice):
            shared = (item for ids, _ in self.blocks() for item in _with_key(ids, twice[0]))
            raise DataError(
                "items to embed repeat an item_id", got=" and ".join(map(repr, islice(shared, 2)))
            )


def _with_key(ids: list[str], key: np.uint64) -> list[str]:
    return [ids[i] for i in np.flatnonzero(keys_of(ids) == key)]
