"""Arrow schemas, their validation, and Parquet files that are complete or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cfpairs.errors import DataError, WorkspaceError
from cfpairs.workspace import Workspace

__all__ = [
    "DECISIONS",
    "FAILURES",
    "MANIFEST",
    "PAIRS",
    "RESULTS",
    "REVIEW_COLUMNS",
    "Schema",
    "embedding_schema",
    "file_metadata",
    "fingerprint",
    "load_manifest",
    "make_table",
    "read_table",
    "replacing",
    "table_digest",
    "write_bytes",
    "write_table",
]

SPLITS = ("train", "val", "test")
ORIGINS = ("source", "edit", "transfer", "prompt", "control")
STATUSES = ("ok", "rejected", "dropped")


@dataclass(frozen=True)
class Schema:
    """Columns that a kind of table must have; others may stand beside them.

    Parameters
    ----------
    name : str
        What the table is, for messages.
    fields : sequence of pyarrow.Field
        Required columns; ``nullable=False`` forbids nulls.
    optional : sequence of pyarrow.Field
        Columns that are checked where they are present.
    unique : str, optional
        A column whose values must all differ.
    allowed : mapping of str to tuple of str
        The only values that a column may hold.
    """

    name: str
    fields: tuple[pa.Field, ...]
    optional: tuple[pa.Field, ...] = ()
    unique: str | None = None
    allowed: Mapping[str, tuple[str, ...]] | None = None

    def validate(self, table: pa.Table) -> pa.Table:
        """`table` with its columns in order and of the right type.

        Raises
        ------
        DataError
            If a column is missing, has another type, a forbidden null, a repeated key or a value that
            is not allowed.
        """
        columns: dict[str, pa.ChunkedArray] = {}
        fields: list[pa.Field] = []
        for field in (*self.fields, *self.optional):
            if field.name not in table.column_names:
                if field in self.optional:
                    continue
                raise DataError(
                    f"the {self.name} has no column {field.name!r}",
                    got=", ".join(table.column_names) or "no column",
                )
            column = table[field.name]
            try:
                columns[field.name] = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise DataError(
                    f"the {self.name}'s column {field.name!r} has the wrong type",
                    got=column.type,
                    expected=field.type,
                ) from error
            if not field.nullable and column.null_count:
                raise DataError(
                    f"the {self.name}'s column {field.name!r} has empty values", got=column.null_count
                )
            fields.append(field)
        for name in table.column_names:
            if name not in columns:
                columns[name] = table[name]
                fields.append(table.schema.field(name))
        self._check_values(columns)
        schema = pa.schema(fields, metadata=table.schema.metadata)
        return pa.table(list(columns.values()), schema=schema)

    def _check_values(self, columns: dict[str, pa.ChunkedArray]) -> None:
        if self.unique is not None:
            keys = columns[self.unique]
            if pc.count_distinct(keys).as_py() != len(keys):
                counts = pc.value_counts(keys).to_pylist()
                twice = next(c["values"] for c in counts if c["counts"] > 1)
                raise DataError(f"the {self.name} has {self.unique} {twice!r} more than once")
        for name, values in (self.allowed or {}).items():
            bad = pc.filter(columns[name], pc.invert(pc.is_in(columns[name], pa.array(values))))
            if len(bad):
                raise DataError(
                    f"the {self.name}'s column {name!r} has a value that is not allowed",
                    got=repr(bad[0].as_py()),
                    expected="one of " + ", ".join(values),
                )


def _need(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


MANIFEST = Schema(
    "manifest",
    fields=(
        _need("item_id", pa.string()),
        _need("path", pa.string()),
        _need("split", pa.string()),
        _need("label", pa.int32()),
        _need("label_name", pa.string()),
        _need("env", pa.int32()),
        _need("env_name", pa.string()),
        pa.field("mask_path", pa.string()),
        pa.field("subject", pa.string()),
        _need("width", pa.int32()),
        _need("height", pa.int32()),
        _need("origin", pa.string()),
        pa.field("parent_id", pa.string()),
    ),
    optional=(pa.field("pair_set", pa.string()),),
    unique="item_id",
    allowed={"split": SPLITS, "origin": ORIGINS},
)
"""One row an item. ``pair_set`` names the pair set that made an edited item; null for source items. Items of
origin ``control`` are edits with nothing to change, by which the noise of their pair set is measured: never
trained on."""

PAIRS = Schema(
    "pair set",
    fields=(
        _need("pair_id", pa.string()),
        _need("a_id", pa.string()),
        _need("b_id", pa.string()),
        _need("method", pa.string()),
        pa.field("label", pa.int32()),
        pa.field("env_a", pa.int32()),
        pa.field("env_b", pa.int32()),
        pa.field("score", pa.float64()),
        _need("seed", pa.int64()),
        _need("status", pa.string()),
        pa.field("reason", pa.string()),
    ),
    optional=(
        pa.field("decision", pa.string()),
        pa.field("note", pa.string()),
        pa.field("built_status", pa.string()),
        pa.field("built_reason", pa.string()),
    ),
    unique="pair_id",
    allowed={"status": STATUSES},
)
"""One row a pair. ``decision`` (``keep`` or ``drop``), ``note``, and the builder's own status and reason of a
pair that was decided on are there once pairs were reviewed."""

REVIEW_COLUMNS = tuple(field.name for field in PAIRS.optional)
"""What people have said of pairs; beside ``status``, nothing that is computed depends on it."""

DECISIONS = Schema(
    "list of decisions",
    fields=(
        _need("pair_id", pa.string()),
        _need("a_id", pa.string()),
        _need("b_id", pa.string()),
        pa.field("decision", pa.string()),
        pa.field("note", pa.string()),
        pa.field("reason", pa.string()),
    ),
    unique="pair_id",
)
"""Decisions on pairs that the pair set does not have at the moment."""

FAILURES = Schema(
    "list of failures",
    fields=(_need("item_id", pa.string()), _need("path", pa.string()), _need("error", pa.string())),
    unique="item_id",
)

RESULTS = Schema(
    "results",
    fields=(
        pa.field("pair_set", pa.string()),
        _need("method", pa.string()),
        _need("r", pa.int32()),
        _need("selection", pa.string()),
        pa.field("seed", pa.int64()),
        _need("worst_group", pa.float64()),
        _need("worst_group_low", pa.float64()),
        _need("worst_group_high", pa.float64()),
        _need("average", pa.float64()),
        _need("adjusted", pa.float64()),
        pa.field("flip_rate", pa.float64()),
        pa.field("n_pairs", pa.int32()),
        _need("seconds", pa.float64()),
        _need("params", pa.string()),
    ),
    optional=(
        pa.field("gain", pa.float64()),
        pa.field("gain_low", pa.float64()),
        pa.field("gain_high", pa.float64()),
        pa.field("gain_p", pa.float64()),
    ),
)
"""All accuracies are measured on test; ``seed`` is null in the mean over seeds; ``params`` is JSON; ``gain``
is the worst group's lead over ERM chosen by the same rule, with its paired bootstrap interval."""


def embedding_schema(dim: int, store: str = "float32") -> Schema:
    """Columns of one embedding part: the key, the vector and the hash of the image file's bytes."""
    kind = {"float32": pa.float32(), "float16": pa.float16()}[store]
    return Schema(
        "embeddings",
        fields=(
            _need("item_id", pa.string()),
            pa.field("embedding", pa.list_(kind, dim), nullable=False),
            _need("content_hash", pa.string()),
        ),
        unique="item_id",
    )


def make_table(rows: Sequence[Mapping[str, Any]], schema: Schema) -> pa.Table:
    """A valid table from one mapping a row; absent keys become nulls."""
    known = [*schema.fields, *schema.optional]
    extra = sorted({key for row in rows for key in row} - {f.name for f in known})
    arrays: dict[str, pa.Array] = {}
    for field in known:
        values = [row.get(field.name) for row in rows]
        if field in schema.optional and rows and all(v is None for v in values):
            continue
        arrays[field.name] = pa.array(values, field.type)
    for name in extra:
        arrays[name] = pa.array([row.get(name) for row in rows])
    return schema.validate(pa.table(arrays))


def fingerprint(*parts: object) -> str:
    """Sixteen hexadecimal digits that change when anything in `parts` does.

    Parts must be what JSON can hold (models: pass ``model_dump(mode="json")``).
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def table_digest(table: pa.Table, columns: Iterable[str] | None = None) -> str:
    """Sixteen hexadecimal digits over the values of `columns` (default: all, by name)."""
    names = sorted(table.column_names) if columns is None else list(columns)
    sha = hashlib.sha256()
    for name in names:
        sha.update(json.dumps([name, table[name].to_pylist()], ensure_ascii=False, default=str).encode())
    return sha.hexdigest()[:16]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` that takes its place when the block ends without an error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"cannot make the folder {path.parent}", got=error.strerror or str(error)
        ) from error
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        raise WorkspaceError(
            f"cannot write {path}",
            got=error.strerror or str(error),
            remedy="check free space and permissions; nothing was changed",
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises
    ------
    WorkspaceError
        If the folder or the file cannot be written; the old file, if any, is untouched.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_table(
    path: Path, table: pa.Table, schema: Schema | None = None, metadata: Mapping[str, str] | None = None
) -> None:
    """Validate `table` and write it as Parquet, whole or not at all.

    Parameters
    ----------
    metadata : mapping of str to str, optional
        Stored in the file's key-value metadata (see `file_metadata`).
    """
    if schema is not None:
        table = schema.validate(table)
    pairs = {key.encode(): value.encode() for key, value in sorted((metadata or {}).items())}
    table = table.replace_schema_metadata(pairs or None)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(
    path: Path,
    schema: Schema | None = None,
    columns: list[str] | None = None,
    rows: pc.Expression | None = None,
) -> pa.Table:
    """Read a Parquet file and check it.

    Parameters
    ----------
    path : Path
    schema : Schema, optional
    columns : list of str, optional
        The only ones to read.
    rows : pyarrow.compute.Expression, optional
        Which rows to read; the others never are in memory together.

    Raises
    ------
    WorkspaceError
        If there is no such file.
    DataError
        If it is not Parquet, is cut short, or does not have the columns of `schema`.
    """
    try:
        table = pq.read_table(path, columns=columns, filters=rows, partitioning=None)
    except FileNotFoundError as error:
        raise WorkspaceError(
            f"{path} is missing", remedy="'cfpairs status' shows which stage makes it"
        ) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet", got=error, remedy="delete it and run the stage again"
        ) from error
    return schema.validate(table) if schema is not None else table


def file_metadata(path: Path) -> dict[str, str]:
    """Key-value metadata of a Parquet file; empty if it is absent or unreadable."""
    try:
        raw = pq.read_schema(path).metadata or {}
    except (FileNotFoundError, pa.ArrowInvalid, OSError):
        return {}
    return {key.decode(): value.decode() for key, value in raw.items() if key != b"ARROW:schema"}


def load_manifest(workspace: Workspace | Path | str) -> pa.Table:
    """The items of a workspace, one row each, source items before edited ones.

    Raises
    ------
    WorkspaceError
        If the workspace has no manifest.
    """
    if not isinstance(workspace, Workspace):
        workspace = Workspace(workspace)
    return read_table(workspace.manifest, MANIFEST)
