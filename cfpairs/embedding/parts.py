"""The part files of one encoder's folder: what is done, what failed, and how one more is written."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpairs.embedding.files import Keys, keys_of, short_hash
from cfpairs.embedding.items import Item
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.tables import FAILURES, embedding_schema, file_metadata, make_table, read_table, write_table
from cfpairs.vectors import part_files, write_vectors

__all__ = ["NEVER", "EncoderIdentity", "Failure", "Item", "Parts", "failures_file"]

NEVER = np.iinfo(np.uint64).max
"""Stands for the content of an item that was never tried."""


class EncoderIdentity(Protocol):
    """What must be known of an encoder to keep its embeddings apart from others."""

    @property
    def id(self) -> str:
        """Folder name of its embeddings."""
        ...

    @property
    def dim(self) -> int:
        """Number of dimensions d."""
        ...

    def metadata(self) -> dict[str, str]:
        """What is stored beside the embeddings; has the key ``encoder_id``."""
        ...


@dataclass(frozen=True)
class Failure:
    """An image that could not be embedded; `attempt` counts the states of its file that were tried."""

    item_id: str
    path: str
    error: str
    content_hash: str
    attempt: int = 1


@dataclass(frozen=True)
class _Rows:
    """Which items have a vector: sorted keys of their ids, the content it was made of, and the part."""

    keys: Keys
    contents: Keys
    parts: NDArray[np.int32]

    def places(self, keys: Keys) -> NDArray[np.int64]:
        """The row of each key; -1 where there is none."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        found = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        return np.where(self.keys[found] == keys, found, -1)

    def repeating(self) -> int | None:
        """The lowest part that has an item which is in an earlier one, or twice in itself."""
        later = self.parts[1:][self.keys[1:] == self.keys[:-1]]
        return int(later.min()) if len(later) else None

    def where(self, kept: NDArray[np.bool_]) -> _Rows:
        return _Rows(self.keys[kept], self.contents[kept], self.parts[kept])


@dataclass(frozen=True)
class _Part:
    """What one file says, its vectors aside."""

    file: Path
    keys: Keys
    contents: Keys
    failures: tuple[Failure, ...]


def failures_file(folder: Path) -> Path:
    """Where the failures of one encoder's folder are listed."""
    return folder / "failures.parquet"


class Parts:
    """The parts in one folder, and the writer of the next.

    A part has a row for each image that was embedded and, in its metadata, a record of each that was not;
    so the parts alone say what is done. No two parts have a row of the same item. In memory an item takes 20
    bytes, a failure its record.

    Parameters
    ----------
    folder : Path
    encoder : EncoderIdentity
    store : str
        ``float32`` or ``float16``.
    """

    def __init__(self, folder: Path, encoder: EncoderIdentity, store: str) -> None:
        self._folder = folder
        self._dim = encoder.dim
        self._store = store
        self._metadata = {**encoder.metadata(), "dtype": store}
        self._schema = embedding_schema(encoder.dim, store)
        self._rows = _Rows(np.empty(0, np.uint64), np.empty(0, np.uint64), np.empty(0, np.int32))
        self._failures: dict[str, Failure] = {}
        self._mended: set[str] = set()
        self._numbers: set[int] = set()

    def scan(self, *, repair: bool = True) -> list[str]:
        """Read the ids of every part; set aside parts that cannot be used.

        Parameters
        ----------
        repair : bool
            False leaves the folder as it is and takes no notice of such parts.

        Returns
        -------
        list of str
            One line for each part that is to be made again.

        Raises
        ------
        WorkspaceError
            If a part cannot be opened or set aside for want of permission.
        """
        if repair:
            for leftover in self._folder.glob(".*.parquet.*.tmp"):
                with contextlib.suppress(OSError):
                    leftover.unlink()
        found: dict[int, _Part] = {}
        bad: list[tuple[Path, DataError]] = []
        for file in part_files(self._folder):
            try:
                found[int(re.sub(r"\D", "", file.stem))] = self._read(file)
            except DataError as error:
                bad.append((file, error))
        self._rows = _joined(found)
        while (repeating := self._rows.repeating()) is not None:
            bad.append((found.pop(repeating).file, DataError("it repeats items of an earlier part")))
            self._rows = _joined(found)
        self._numbers = set(found)
        for part in found.values():
            self._keep(part.failures)
        return (
            [_set_aside(file, error) for file, error in sorted(bad, key=lambda one: one[0])] if repair else []
        )

    def _read(self, file: Path) -> _Part:
        """Ids, contents and failures of one part; its vectors are not read."""
        _check_readable(file)
        try:
            with pq.ParquetFile(file) as opened:
                kinds = opened.schema_arrow
                table = opened.read(columns=["item_id", "content_hash"], use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise DataError("it cannot be read as Parquet", got=error) from error
        metadata = {key.decode(): value.decode() for key, value in (kinds.metadata or {}).items()}
        for key in ("encoder_id", "dtype"):
            if metadata.get(key) != self._metadata[key]:
                raise DataError(f"it has another {key}", got=metadata.get(key), expected=self._metadata[key])
        self._schema.validate(kinds.empty_table())
        try:
            failures = tuple(Failure(**record) for record in json.loads(metadata["failures"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("it has no record of failures") from error
        contents = [short_hash(text) for text in table["content_hash"].to_pylist()]
        keys = keys_of(table["item_id"].to_pylist())
        return _Part(file, keys, np.array(contents, np.uint64), failures)

    def _keep(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            known = self._failures.get(failure.item_id)
            if known is None or known.attempt < failure.attempt:
                self._failures[failure.item_id] = failure

    def free_numbers(self) -> Iterator[int]:
        """Numbers that no part has, from the lowest on."""
        return (number for number in itertools.count() if number not in self._numbers)

    def start_at(self, number: int, failures: Iterable[Failure]) -> None:
        """Instead of `scan`, for one that is to write the part `number`: what is known of its items."""
        self._numbers.update(range(number))
        self._keep(failures)

    def holds(self, number: int, items: Sequence[Item]) -> bool:
        """Whether the part `number` is there, whole, and made of just these items."""
        try:
            part = self._read(self._folder / f"part-{number:05d}.parquet")
        except (DataError, WorkspaceError):
            return False
        failed = keys_of(failure.item_id for failure in part.failures)
        tried = np.sort(np.concatenate([part.keys, failed]))
        return np.array_equal(tried, np.sort(keys_of(item.item_id for item in items)))

    def recorded(self, item_ids: Sequence[str]) -> Keys:
        """For each item the `short_hash` of the file that it was tried with; `NEVER` if it was not tried.

        For an image that could not be read at all it is `UNREADABLE`.
        """
        places = self._rows.places(keys_of(item_ids))
        found = np.full(len(places), NEVER, np.uint64)
        embedded = places >= 0
        found[embedded] = self._rows.contents[places[embedded]]
        if self._failures:
            for i in np.flatnonzero(~embedded).tolist():
                failure = self._failures.get(item_ids[i])
                if failure is not None:
                    found[i] = short_hash(failure.content_hash)
        return found

    def embedded(self, item_ids: Sequence[str]) -> NDArray[np.bool_]:
        """Which items had a vector when the parts were scanned."""
        return self._rows.places(keys_of(item_ids)) >= 0

    def failure(self, item_id: str) -> Failure | None:
        """Why an item has no embedding; None if it has one or was never tried."""
        failure = self._failures.get(item_id)
        if failure is None or item_id in self._mended or self.embedded([item_id])[0]:
            return None
        return failure

    def failed_among(self, items: Iterable[Item]) -> Iterator[Failure]:
        """The failures of those of `items` that have no embedding, in their order."""
        if self._failures:
            yield from (found for item in items if (found := self.failure(item.item_id)))

    def drop(self, item_ids: Iterable[str]) -> None:
        """Take the vectors of these items out of their parts; each part is rewritten whole or not at all.

        Raises
        ------
        DataError, WorkspaceError
            If a part cannot be read or written.
        """
        keys = keys_of(item_ids)
        places = self._rows.places(keys)
        for number in np.unique(self._rows.parts[places[places >= 0]]).tolist():
            self._rewrite(number, keys)
        self._rows = self._rows.where(~np.isin(self._rows.keys, keys))

    def _rewrite(self, number: int, without: Keys) -> None:
        file = self._path(number)
        metadata = file_metadata(file)
        table = read_table(file, self._schema)
        table = table.filter(pa.array(~np.isin(keys_of(table["item_id"].to_pylist()), without)))
        if not len(table) and metadata["failures"] == "[]":
            file.unlink(missing_ok=True)
            self._numbers.discard(number)
            return
        values = table["embedding"].combine_chunks().flatten().to_numpy()
        vectors = values.reshape(len(table), self._dim)
        ids, hashes = (table[name].to_pylist() for name in ("item_id", "content_hash"))
        write_vectors(file, ids, vectors, hashes, metadata)

    def _path(self, number: int) -> Path:
        return self._folder / f"part-{number:05d}.parquet"

    def write(
        self,
        items: Sequence[Item],
        hashes: Sequence[str],
        vectors: NDArray[np.float32],
        failures: Sequence[Failure],
    ) -> None:
        """Write one part under the lowest free number, whole or not at all.

        Parameters
        ----------
        items, hashes : sequence of length n
            What was embedded, and the `content_hash` of each file.
        vectors : ndarray of shape (n, d)
        failures : sequence of Failure
            What was not; their `attempt` is filled in here.

        Raises
        ------
        DataError
            If a value is too large for ``float16``.
        WorkspaceError
            If the folder cannot be written.
        """
        with np.errstate(over="ignore"):
            stored = vectors.astype(self._store, copy=False)
        if not np.isfinite(stored).all():
            raise DataError("an embedding is too large for float16", remedy="set store: float32")
        records = [self._counted(failure) for failure in failures]
        number = next(self.free_numbers())
        metadata = {**self._metadata, "failures": json.dumps([asdict(record) for record in records])}
        write_vectors(self._path(number), [item.item_id for item in items], stored, hashes, metadata)
        self._numbers.add(number)
        if self._failures:
            self._mended.update(item.item_id for item in items if item.item_id in self._failures)
        self._keep(records)

    def _counted(self, failure: Failure) -> Failure:
        known = self._failures.get(failure.item_id)
        return replace(failure, attempt=known.attempt + 1 if known else 1)

    def write_failures(self) -> None:
        """Derive ``failures.parquet`` from the parts, by item id; empty if nothing failed."""
        failed = [found for item_id in sorted(self._failures) if (found := self.failure(item_id))]
        rows = [{"item_id": f.item_id, "path": f.path, "error": f.error} for f in failed]
        path, table = failures_file(self._folder), make_table(rows, FAILURES)
        if not path.exists() or not read_table(path).equals(table):
            write_table(path, table, FAILURES)


def _joined(found: Mapping[int, _Part]) -> _Rows:
    empty = _Part(Path(), np.empty(0, np.uint64), np.empty(0, np.uint64), ())
    parts = [empty, *found.values()]
    keys = np.concatenate([part.keys for part in parts])
    order = np.argsort(keys, kind="stable")
    contents = np.concatenate([part.contents for part in parts])[order]
    numbers = np.repeat(np.array([-1, *found], np.int32), [len(part.keys) for part in parts])
    return _Rows(keys[order], contents, numbers[order])


def _check_readable(file: Path) -> None:
    """A part that may not be read is no damaged part."""
    try:
        with file.open("rb"):
            pass
    except PermissionError as error:
        raise WorkspaceError(f"{file} may not be read", remedy="give read permission") from error
    except OSError as error:
        raise DataError("it cannot be opened", got=error.strerror) from error


def _set_aside(file: Path, error: DataError) -> str:
    aside = file.with_name(file.name + ".unusable")
    try:
        file.replace(aside)
    except OSError as fault:
        raise WorkspaceError(
            f"the damaged {file} cannot be renamed", got=fault.strerror, remedy="delete it"
        ) from fault
    return f"{file.name} is made again, the old one is now {aside.name}: {error}"
