"""Files that list pairs: CSV, TSV or Parquet, read whole, each row with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cfpairs.errors import DataError
from cfpairs.registry import suggest

__all__ = ["FACTS", "ListedPair", "PairFile", "read_pair_file"]

FACTS = ("label", "env_a", "env_b", "score")
"""Columns that a file may have beside the two items, and that are understood."""

SUFFIXES = (".csv", ".tsv", ".parquet")
SEPARATORS = {".csv": ",;\t", ".tsv": "\t,;"}
"""Tried in this order; spreadsheets write semicolons where the comma is the decimal sign."""

SHOWN = 8


@dataclass(frozen=True)
class ListedPair:
    """One row of a file, as it was written.

    Attributes
    ----------
    line : int
        Line of a text file (the header is line 1), row of a Parquet file (the first is row 1).
    a, b : str
        The two items; empty if the file leaves them out.
    label, env_a, env_b, score : str or None
    fault : str or None
        Why the row cannot be read as the header says.
    """

    line: int
    a: str
    b: str
    label: str | None = None
    env_a: str | None = None
    env_b: str | None = None
    score: str | None = None
    fault: str | None = None


@dataclass(frozen=True)
class PairFile:
    """All rows of a file.

    Attributes
    ----------
    name : str
        The file's name without its folder.
    unit : str
        ``line`` or ``row``: what `ListedPair.line` counts.
    rows : tuple of ListedPair
    others : dict of str to pyarrow.ChunkedArray
        The columns that are only carried along, a value a row.
    """

    name: str
    unit: str
    rows: tuple[ListedPair, ...]
    others: dict[str, pa.ChunkedArray]


def read_pair_file(path: Path, a: str = "a", b: str = "b") -> PairFile:
    """Read a file of pairs.

    Parameters
    ----------
    path : Path
        A ``.csv``, ``.tsv`` or ``.parquet`` file. A text file is UTF-8 with a header line; its values are
        separated by commas, semicolons or tabs, whichever gives the two columns.
    a, b : str
        Names of the columns that hold the two items of a pair.

    Raises
    ------
    DataError
        If the file as a whole cannot be used: another kind of file, damaged, another encoding, no row, a
        column that is missing or there twice.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{path.name} is no file of pairs",
            got=f"ending {path.suffix!r}" if path.suffix else "no ending",
            expected="one of " + ", ".join(SUFFIXES),
            remedy="save the list as one of these",
        )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}", got=error.strerror or str(error)) from error
    if not content.strip():
        raise DataError(f"{path.name} is empty", expected=f"columns {a!r} and {b!r} and a row a pair")
    if suffix == ".parquet":
        return _from_parquet(path, content, a, b)
    return _from_text(path, content, a, b)


def _from_text(path: Path, content: bytes, a: str, b: str) -> PairFile:
    text = _decode(path, content)
    separator = _separator(text, SEPARATORS[path.suffix.lower()], (a, b))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines: list[int] = []
    records: list[list[str]] = []
    begin = 1
    try:
        for record in reader:
            if any(value.strip() for value in record):
                lines.append(begin)
                records.append([value.strip() for value in record])
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{path.name} is not a {path.suffix[1:].upper()} file that can be read",
            got=f"{error}, in what begins on line {begin}",
            remedy="check the quotation marks there",
        ) from error
    if not records:
        raise DataError(f"{path.name} has no row", expected=f"columns {a!r} and {b!r} and a row a pair")
    header = [name or f"column_{place}" for place, name in enumerate(records[0], 1)]
    _check_header(path.name, header, a, b)
    if len(records) == 1:
        raise DataError(f"{path.name} lists no pair", got="a header alone")
    width = len(header)
    place = {name: i for i, name in enumerate(header)}
    rows = []
    for line, record in zip(lines[1:], records[1:], strict=True):
        fault = None
        if len(record) > width:
            fault = f"more values than columns: {len(record)} values, the header has {width}"
        record.extend([""] * (width - len(record)))
        facts = {name: record[place[name]] or None for name in FACTS if name in place}
        rows.append(ListedPair(line, record[place[a]], record[place[b]], fault=fault, **facts))
    others = {
        name: pa.chunked_array([[record[i] or None for record in records[1:]]], pa.string())
        for name, i in place.items()
        if name not in (a, b, *FACTS)
    }
    return PairFile(path.name, "line", tuple(rows), others)


def _decode(path: Path, content: bytes) -> str:
    remedy = "save it as UTF-8 (spreadsheets call it 'CSV UTF-8')"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path.name} has the wrong encoding", got="UTF-16", expected="UTF-8", remedy=remedy)
    if b"\0" in content:
        got = "Parquet" if content.startswith(b"PAR1") else "bytes that are no text"
        raise DataError(f"{path.name} is not a {path.suffix[1:].upper()} file", got=got, expected="text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path.name} has the wrong encoding",
            got=f"byte 0x{content[error.start]:02x} on line {line}",
            expected="UTF-8",
            remedy=remedy,
        ) from error


def _separator(text: str, choices: str, needed: tuple[str, str]) -> str:
    """The first of `choices` that gives the needed columns, else the one that gives the most."""
    first = next(line for line in text.splitlines() if line.strip())

    def header(separator: str) -> list[str]:
        return [value.strip().strip('"') for value in first.split(separator)]

    for separator in choices:
        if set(needed) <= set(header(separator)):
            return separator
    return max(choices, key=lambda separator: len(header(separator)))


def _check_header(file: str, header: Sequence[str], a: str, b: str) -> None:
    if a == b:
        raise DataError("the two items of a pair need a column each", got=f"{a!r} for both")
    missing = [name for name in (a, b) if name not in header]
    if missing:
        shown = ", ".join(repr(name) for name in header[:SHOWN]) + (", ..." if len(header) > SHOWN else "")
        raise DataError(
            f"{file} has no column {' and no column '.join(map(repr, missing))}",
            got=shown,
            expected=None if len(header) == 2 else suggest(missing[0], tuple(header)),
            remedy=f"rename its columns, or say which they are: {_how_to_say(header, a, b)}",
        )
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{file} has column {twice!r} more than once", remedy="rename one of them")


def _how_to_say(header: Sequence[str], a: str, b: str) -> str:
    """The options that name the columns: those of the file if there are two, else a pattern."""
    left, right = header if len(header) == 2 else (a if a in header else "NAME", b if b in header else "NAME")
    return f"--set a={left} --set b={right}"


def _from_parquet(path: Path, content: bytes, a: str, b: str) -> PairFile:
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path.name} is not a Parquet file that can be read", got=error) from error
    _check_header(path.name, table.column_names, a, b)
    if not len(table):
        raise DataError(f"{path.name} lists no pair", got="columns without a row")
    first, second = (_as_text(path.name, table, name) for name in (a, b))
    facts = {name: _as_text(path.name, table, name) for name in FACTS if name in table.column_names}
    rows = tuple(
        ListedPair(
            place + 1,
            first[place] or "",
            second[place] or "",
            **{name: values[place] for name, values in facts.items()},
        )
        for place in range(len(table))
    )
    others = {name: table[name] for name in table.column_names if name not in (a, b, *FACTS)}
    return PairFile(path.name, "row", rows, others)


def _as_text(file: str, table: pa.Table, name: str) -> list[str | None]:
    try:
        values: list[str | None] = table[name].cast(pa.string()).to_pylist()
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: column {name!r} has the wrong type",
            got=table.schema.field(name).type,
            expected="text or numbers",
        ) from error
    return [(value or "").strip() or None for value in values]
