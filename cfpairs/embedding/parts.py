"""The part files of one encoder's folder: what is done, what failed, and how one more is written."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cfpairs.embedding.images import hash_now
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.tables import (
    FAILURES,
    embedding_schema,
    file_metadata,
    make_table,
    part_files,
    read_table,
    write_table,
)

__all__ = ["EncoderIdentity", "Failure", "Item", "Parts", "failures_file"]


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
class Item:
    """One image to embed; `path` as the manifest has it."""

    item_id: str
    path: str


@dataclass(frozen=True)
class Failure:
    """An image that could not be embedded; `attempt` counts the states of its file that were tried."""

    item_id: str
    path: str
    error: str
    content_hash: str
    attempt: int = 1


def failures_file(folder: Path) -> Path:
    """Where the failures of one encoder's folder are listed."""
    return folder / "failures.parquet"


class Parts:
    """The parts in one folder, and the writer of the next.

    A part has a row for each image that was embedded and, in its metadata, a record of each that was not;
    so the parts alone say what is done.

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
        self._embedded: set[str] = set()
        self._failures: dict[str, Failure] = {}
        self._numbers: set[int] = set()

    def scan(self) -> list[str]:
        """Read every part; set aside what cannot be used.

        Returns
        -------
        list of str
            One line for each part that is to be made again.

        Raises
        ------
        WorkspaceError
            If a part cannot be opened or set aside for want of permission.
        """
        said = []
        for leftover in self._folder.glob(".*.parquet.*.tmp"):
            with contextlib.suppress(OSError):
                leftover.unlink()
        for file in part_files(self._folder):
            try:
                ids, failures = self._read(file)
            except DataError as error:
                aside = _set_aside(file)
                said.append(f"{file.name} is made again, the old one is now {aside.name}: {error}")
                continue
            self._numbers.add(int(re.sub(r"\D", "", file.stem)))
            self._embedded.update(ids)
            self._keep(failures)
        return said

    def free_numbers(self) -> Iterator[int]:
        """Numbers that no part has, from the lowest on."""
        return (number for number in itertools.count() if number not in self._numbers)

    def start_at(self, number: int, failures: Iterable[Failure]) -> None:
        """Instead of `scan`, for one that is to write the part `number`: what is known of its items."""
        self._numbers.update(range(number))
        self._keep(failures)

    def _read(self, file: Path) -> tuple[list[str], list[Failure]]:
        _check_readable(file)
        metadata = file_metadata(file)
        table = read_table(file, self._schema)
        for key in ("encoder_id", "dtype"):
            if metadata.get(key) != self._metadata[key]:
                raise DataError(f"it has another {key}", got=metadata.get(key), expected=self._metadata[key])
        try:
            failures = [Failure(**record) for record in json.loads(metadata["failures"])]
        except (KeyError, TypeError, ValueError) as error:
            raise DataError("it has no record of failures") from error
        ids: list[str] = table["item_id"].to_pylist()
        if not self._embedded.isdisjoint(ids):
            raise DataError("it repeats items of an earlier part")
        return ids, failures

    def _keep(self, failures: Iterable[Failure]) -> None:
        for failure in failures:
            known = self._failures.get(failure.item_id)
            if known is None or known.attempt < failure.attempt:
                self._failures[failure.item_id] = failure

    def failure(self, item_id: str) -> Failure | None:
        """Why an item has no embedding; None if it has one or was never tried."""
        return None if item_id in self._embedded else self._failures.get(item_id)

    def is_open(self, item: Item, file: Path) -> bool:
        """Whether an item is still to be tried: never tried, or it failed and `file` has changed since."""
        if item.item_id in self._embedded:
            return False
        failure = self._failures.get(item.item_id)
        return failure is None or failure.content_hash != hash_now(file)

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
            stored = vectors.astype(self._store)
        if not np.isfinite(stored).all():
            raise DataError("an embedding is too large for float16", remedy="set store: float32")
        records = [self._counted(failure) for failure in failures]
        table = pa.table(
            {
                "item_id": pa.array([item.item_id for item in items], pa.string()),
                "embedding": pa.FixedSizeListArray.from_arrays(pa.array(stored.ravel()), self._dim),
                "content_hash": pa.array(hashes, pa.string()),
            }
        )
        number = next(self.free_numbers())
        metadata = {**self._metadata, "failures": json.dumps([asdict(record) for record in records])}
        write_table(self._folder / f"part-{number:05d}.parquet", table, self._schema, metadata)
        self._numbers.add(number)
        self._embedded.update(item.item_id for item in items)
        self._keep(records)

    def _counted(self, failure: Failure) -> Failure:
        known = self._failures.get(failure.item_id)
        attempt = known.attempt + 1 if known else 1
        return Failure(failure.item_id, failure.path, failure.error, failure.content_hash, attempt)

    def write_failures(self) -> None:
        """Derive ``failures.parquet`` from the parts, by item id; empty if nothing failed."""
        failed = (self._failures[item_id] for item_id in sorted(self._failures.keys() - self._embedded))
        rows = [{"item_id": f.item_id, "path": f.path, "error": f.error} for f in failed]
        path, table = failures_file(self._folder), make_table(rows, FAILURES)
        if not path.exists() or not read_table(path).equals(table):
            write_table(path, table, FAILURES)


def _check_readable(file: Path) -> None:
    """A part that may not be read is no damaged part."""
    try:
        with file.open("rb"):
            pass
    except PermissionError as error:
        raise WorkspaceError(f"{file} may not be read", remedy="give read permission") from error
    except OSError as error:
        raise DataError("it cannot be opened", got=error.strerror) from error


def _set_aside(file: Path) -> Path:
    aside = file.with_name(file.name + ".unusable")
    try:
        file.replace(aside)
    except OSError as error:
        raise WorkspaceError(
            f"the damaged {file} cannot be renamed", got=error.strerror, remedy="delete it"
        ) from error
    return aside
