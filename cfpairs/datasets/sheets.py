"""CSV, TSV and Parquet tables, read as text with the place of every row."""

from __future__ import annotations

import bisect
import csv
import gzip
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cfpairs.errors import ConfigError, DataError

__all__ = ["MISSING", "TABLE_ENDINGS", "Sheet", "open_sheet", "vector_columns"]

TABLE_ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")

MISSING = ""
"""What an empty value is read as; so are blanks, null and NaN."""

DELIMITERS = ",;\t|"
WHOLE = re.compile(r"([+-]?\d+)\.0+")

Delimiter = Literal[",", ";", "\t", "|"]


@dataclass(frozen=True)
class Sheet:
    """A table in one file, or in several that follow each other.

    Attributes
    ----------
    files : tuple of Path
    names : tuple of str
        Columns that all files have, in order; lists, structures and bytes are no columns of a table.
    delimiter : str
        Between the values of a CSV; empty for Parquet.
    """

    files: tuple[Path, ...]
    names: tuple[str, ...]
    delimiter: str

    @property
    def shown(self) -> str:
        """Its name in messages."""
        first = self.files[0].name
        return first if len(self.files) == 1 else f"{first} and {len(self.files) - 1} more"

    def read(self, names: Iterable[str]) -> SheetRows:
        """The values of some columns.

        Raises
        ------
        DataError
            If a file is damaged.
        """
        wanted = list(dict.fromkeys(names))
        columns: dict[str, list[str]] = {name: [] for name in wanted}
        counts = []
        for file in self.files:
            table = _read_file(file, wanted, self.names, self.delimiter)
            counts.append(table.num_rows)
            for name in wanted:
                columns[name] += _as_text(table[name])
        return SheetRows(self, tuple(counts), {name: _whole_numbers(v) for name, v in columns.items()})

    def counts(self) -> list[int]:
        """Rows of each file; only for Parquet, where it costs nothing."""
        return [_metadata(file).num_rows for file in self.files]


@dataclass(frozen=True)
class SheetRows:
    """Values of a sheet.

    Attributes
    ----------
    sheet : Sheet
    counts : tuple of int
        Rows of each file.
    columns : dict of str to list of str
        `MISSING` for an empty value.
    """

    sheet: Sheet
    counts: tuple[int, ...]
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return sum(self.counts)

    def place(self, row: int) -> str:
        """Where a row is, as a person finds it: the line of a CSV, the row of a Parquet file from 0."""
        ends = list(itertools.accumulate(self.counts))
        number = bisect.bisect_right(ends, row)
        inner = row - (ends[number] - self.counts[number])
        name = self.sheet.files[number].name
        return f"{name} line {inner + 2}" if self.sheet.delimiter else f"{name} row {inner}"


def open_sheet(files: Sequence[Path], delimiter: str | None = None) -> Sheet:
    """A table whose columns are known and whose values are not read yet.

    Parameters
    ----------
    files : sequence of Path
        One file or more, all CSV or all Parquet, with the same columns.
    delimiter : str, optional
        Of a CSV; by default a tab for ``.tsv``, else what the first line has most of.

    Raises
    ------
    DataError
        If a file is missing, empty or no such table, or the files do not go together.
    """
    if not files:
        raise DataError("a table has no file")
    kinds = {file.suffix == ".parquet" for file in files}
    if len(kinds) > 1:
        raise DataError("the parts of a table are of two kinds", got=", ".join(f.name for f in files[:4]))
    if kinds == {True}:
        heads = [(_plain_columns(file), "") for file in files]
    else:
        heads = [_csv_head(file, delimiter) for file in files]
    shared = [name for name in heads[0][0] if all(name in head[0] for head in heads)]
    twice = sorted({name for name in shared if heads[0][0].count(name) > 1})
    if twice:
        raise DataError(f"{files[0].name} has two columns of one name", got=repr(twice[0]))
    if not shared:
        raise DataError("no column is in all parts of the table", got=", ".join(f.name for f in files[:4]))
    return Sheet(tuple(files), tuple(shared), heads[0][1])


def vector_columns(file: Path) -> list[str]:
    """Columns of a Parquet file that hold lists of floating-point numbers.

    Raises
    ------
    DataError
        If the file is no Parquet.
    """
    schema = _metadata(file).schema.to_arrow_schema()
    return [field.name for field in schema if _is_vector(field.type)]


def _is_vector(kind: pa.DataType) -> bool:
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(check(kind) for check in lists) and bool(pa.types.is_floating(kind.value_type))


def _plain_columns(file: Path) -> tuple[str, ...]:
    schema = _metadata(file).schema.to_arrow_schema()
    return tuple(field.name for field in schema if _is_plain(field.type))


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_nested, pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return not any(check(kind) for check in checks)


def _metadata(file: Path) -> Any:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(file, error, "Parquet") from error


def _unreadable(file: Path, error: Exception, kind: str) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("there is no such file", got=str(file))
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{file} cannot be read", got=error.strerror)
    return DataError(f"{file} cannot be read as {kind}", got=str(error).splitlines()[0])


def _csv_head(file: Path, delimiter: str | None) -> tuple[tuple[str, ...], str]:
    """The column names and the delimiter."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as handle:
            line = handle.readline(1 << 20)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise DataError(f"{file} is no UTF-8 text", remedy="save it as CSV in UTF-8") from error
        raise _unreadable(file, error, "text") from error
    if not line.strip():
        raise DataError(f"the table {file.name} is empty", expected="a first line with the column names")
    if "\0" in line:
        raise DataError(f"{file} is no UTF-8 text", remedy="save it as CSV in UTF-8")
    if delimiter is None:
        tabs = ".tsv" in file.suffixes
        delimiter = "\t" if tabs else max(DELIMITERS, key=line.count)
    return tuple(next(csv.reader([line], delimiter=delimiter))), delimiter


def _read_file(file: Path, wanted: list[str], names: Sequence[str], delimiter: str) -> pa.Table:
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise ConfigError(f"{file.name} has no column {unknown[0]!r}", expected="one of " + ", ".join(names))
    try:
        if not delimiter:
            return pq.ParquetFile(file).read(columns=wanted)
        return pa.csv.read_csv(
            file,
            parse_options=pa.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=pa.csv.ConvertOptions(
                include_columns=wanted,
                column_types={name: pa.string() for name in wanted},
                strings_can_be_null=False,
            ),
        )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowKeyError, OSError) as error:
        raise _unreadable(file, error, "a table") from error


def _as_text(column: pa.ChunkedArray) -> list[str]:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_floating(kind):
        return [MISSING if v is None or math.isnan(v) else repr(float(v)) for v in column.to_pylist()]
    return [_clean(value) for value in column.cast(pa.string()).to_pylist()]


def _clean(value: str | None) -> str:
    text = (value or MISSING).strip()
    return MISSING if text.lower() == "nan" else text


def _whole_numbers(values: list[str]) -> list[str]:
    """Integers that a gap in the column has turned into ``1.0`` are integers again."""
    if not any("." in value for value in values):
        return values
    found = [value if value.lstrip("+-").isdigit() else WHOLE.fullmatch(value) for value in values]
    if any(f is None and v != MISSING for f, v in zip(found, values, strict=True)):
        return values
    return [f[1] if isinstance(f, re.Match) else (f or MISSING) for f in found]
