"""The rows of a Waterbirds ``metadata.csv``, checked, and the groups that they make."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cfpairs.errors import DataError
from cfpairs.registry import suggest

__all__ = ["LABELS", "PLACES", "PUBLISHED", "Listed", "minority", "published_notes", "read_rows"]

REQUIRED = ("img_filename", "y", "split", "place")
MORE = ("img_id", "place_filename")
SPLITS = ("train", "val", "test")
LARGEST = 2**31 - 1

LABELS = ("landbird", "waterbird")
PLACES = ("land", "water")

PUBLISHED = {
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}
"""Landbirds on land, landbirds on water, waterbirds on land, waterbirds on water (Sagawa et al. 2020)."""

REAL_SIZE = 5000
"""A folder with this many items, two labels and two places is taken for the published data set."""


@dataclass(frozen=True, slots=True)
class Listed:
    """One row.

    Attributes
    ----------
    image : str
        Path of the image, relative to the folder of ``metadata.csv``.
    split : str
    label, env : int
    more : mapping of str to str
        ``img_id`` and ``place_filename`` where the file has them.
    """

    image: str
    split: str
    label: int
    env: int
    more: Mapping[str, str] = field(default_factory=dict, compare=False)


def read_rows(path: Path) -> list[Listed]:
    """Every row of ``metadata.csv``, in its order.

    Raises
    ------
    DataError
        If it cannot be read, lacks a column, is empty, has a value that is not allowed or an image twice; the
        message names the line.
    """
    records = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = [name.strip() for name in next(records, [])]
        place = _places(path, header)
        rows: list[Listed] = []
        lines: dict[str, int] = {}
        for values in records:
            if not any(value.strip() for value in values):
                continue
            where = f"{path.name}, line {records.line_num}"
            if len(values) != len(header):
                raise DataError(f"{where}: {len(values)} values", expected=f"{len(header)}, as the header")
            row = _row(values, place, where)
            if row.image in lines:
                raise DataError(
                    f"{where}: image {row.image!r} is listed twice", got=f"first in line {lines[row.image]}"
                )
            lines[row.image] = records.line_num
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path} is not CSV", got=f"line {records.line_num}: {error}") from error
    if not rows:
        raise DataError(f"{path} lists no image")
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8", got=f"a bad byte at {error.start}") from error


def _places(path: Path, header: list[str]) -> dict[str, int]:
    """Where each column that is used stands."""
    if not header:
        raise DataError(f"{path} is empty", expected=f"a header with {', '.join(REQUIRED)}")
    twice = next((name for name in header if header.count(name) > 1 and name in (*REQUIRED, *MORE)), None)
    if twice is not None:
        raise DataError(f"{path} has the column {twice!r} twice")
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        raise DataError(
            f"{path} has no column {missing[0]!r}",
            got=", ".join(header),
            expected=", ".join(REQUIRED),
            remedy=f"rename the column ({suggest(missing[0], tuple(header))})",
        )
    return {name: header.index(name) for name in (*REQUIRED, *MORE) if name in header}


def _row(values: list[str], place: Mapping[str, int], where: str) -> Listed:
    split = _whole(values[place["split"]])
    if split not in (0, 1, 2):
        raise DataError(
            f"{where}: wrong split",
            got=repr(values[place["split"]]),
            expected="0 (train), 1 (val) or 2 (test)",
        )
    codes = {}
    for name in ("y", "place"):
        code = _whole(values[place[name]])
        if code is None:
            raise DataError(f"{where}: wrong {name}", got=repr(values[place[name]]), expected="0, 1, 2, ...")
        codes[name] = code
    image = values[place["img_filename"]].strip()
    return Listed(
        image=os.path.normpath(image) if image else image,
        split=SPLITS[split],
        label=codes["y"],
        env=codes["place"],
        more={name: values[place[name]] for name in MORE if name in place},
    )


def _whole(text: str) -> int | None:
    """A whole number of 0 or more, also as 1.0; None if it is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if value.is_integer() and 0 <= value <= LARGEST else None


def minority(listed: Sequence[Listed]) -> list[Listed]:
    """Training items outside their label's commonest environment.

    Raises
    ------
    DataError
        If there is none, or every label has the same commonest environment.
    """
    train = [row for row in listed if row.split == "train"]
    sizes = Counter((row.label, row.env) for row in train)
    home: dict[int, int] = {}
    for (label, env), _ in sorted(sizes.items(), key=lambda group: (-group[1], group[0])):
        home.setdefault(label, env)
    left_out = [row for row in train if row.env != home[row.label]]
    got = ", ".join(f"y = {y}, place = {e}: {n}" for (y, e), n in sorted(sizes.items()))
    if not left_out or len(set(home.values())) < 2:
        raise DataError(
            "variant counterfactual needs labels that go with different places, and a few items that do not",
            got=f"training items {got or 'none'}",
            remedy="use variant standard",
        )
    return left_out


def published_notes(listed: Sequence[Listed]) -> list[str]:
    """Lines about groups whose size is not the published one, if the data look like the published set."""
    labels, envs = {row.label for row in listed}, {row.env for row in listed}
    if len(listed) < REAL_SIZE or labels != {0, 1} or envs != {0, 1}:
        return []
    sizes = Counter((row.split, row.label, row.env) for row in listed)
    return [
        f"{split}: {sizes[split, y, e]} of {LABELS[y]} on {PLACES[e]}, published are {counts[2 * y + e]}"
        for split, counts in PUBLISHED.items()
        for y in (0, 1)
        for e in (0, 1)
        if sizes[split, y, e] != counts[2 * y + e]
    ]
