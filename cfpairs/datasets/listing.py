"""Items listed in a CSV, TSV or Parquet table: images, or embeddings that are there already."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.config import check_options
from cfpairs.datasets.base import VECTOR_ROW
from cfpairs.datasets.columns import (
    Split,
    codes,
    find_columns,
    hashed_splits,
    splits_of,
)
from cfpairs.datasets.digests import content_digest
from cfpairs.datasets.files import Inside, check_folder, image_sizes, size_notes, with_notes
from cfpairs.datasets.given import GivenVectors, discover, open_given
from cfpairs.datasets.listing_files import TableOptions, shown_table, table_files
from cfpairs.datasets.sheets import MISSING, Sheet, SheetRows, open_sheet
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.progress import Progress
from cfpairs.tables import MANIFEST, fingerprint
from cfpairs.workspace import Workspace

__all__ = ["Table", "TableOptions"]

GIVEN_PART_ROWS = 8192
SHOWN = 3


@dataclass(frozen=True)
class _Rows:
    """The rows of the table that become items, by their number in it."""

    table: SheetRows
    found: dict[str, str]
    kept: list[int]

    def values(self, role: str) -> list[str]:
        """Values of kept rows; all missing where the table has no such column."""
        if role not in self.found:
            return [MISSING] * len(self.kept)
        column = self.table.columns[self.found[role]]
        return [column[i] for i in self.kept]


class Table:
    """The ``table`` data set: a row of a table is an item.

    Parameters
    ----------
    options : TableOptions
        Columns that are not named are found by common names; see `cfpairs.datasets.columns.COMMON_NAMES`.

    Notes
    -----
    Labels and environments are numbered in order of their names, or of the numbers where all are whole.
    An item's id is its value in the column of ids, else its path, else its row.
    """

    Options: ClassVar[type[BaseModel]] = TableOptions
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(TableOptions, options)

    @property
    def licence(self) -> str:
        """Licence and origin, as the configuration states them."""
        return self.options.licence

    def starting(self, root: Path) -> Mapping[str, Any]:
        """The table, its columns and the embeddings that were found, written out.

        Raises
        ------
        ConfigError, DataError
            If there is no table, or none of its columns looks like the label or the environment.
        """
        _check(root)
        embeddings = self.options.embeddings or discover(root)
        sheet = self._sheet(root)
        found = find_columns(sheet.names, self.options.columns, sheet.shown)
        options: dict[str, Any] = {"table": shown_table(sheet, root), "columns": found}
        if embeddings is None:
            return {"data": {"options": options}}
        if self._pictures_elsewhere(sheet, found, root):
            options["outside"] = "ignore"
        return {
            "data": {"options": {**options, "embeddings": embeddings}},
            "encoder": {"spec": "given", "part_rows": GIVEN_PART_ROWS},
            "pairs": [{"method": method, "pairs": 240} for method in ("nearest", "random")],
        }

    def prepare(self, root: Path, workspace: Workspace, seed: int, progress: Progress) -> None:
        """Nothing: the table is the user's."""

    def digest(self, root: Path, seed: int) -> str:
        """Sixteen hexadecimal digits of the table, the embeddings' files and the options.

        See `cfpairs.datasets.digests.content_digest` for what is covered; images are not.
        """
        _check(root)
        given = self.given(root)
        return fingerprint(
            "table",
            self.version,
            content_digest(self._sheet(root).files),
            self.options.model_dump(mode="json"),
            given.digest if given else None,
        )

    def given(self, root: Path) -> GivenVectors | None:
        """The embeddings that the options name; None if they name none.

        Raises
        ------
        ConfigError, DataError
            If they are not there or cannot be read.
        """
        options = self.options
        if options.embeddings is None:
            return None
        return open_given(root, options.embeddings, options.embedding_column, options.embedding_id)

    def given_digest(self, root: Path) -> str:
        """Sixteen hexadecimal digits of the given vectors and of all that says whose they are."""
        given, columns = self.given(root), self.options.columns
        return fingerprint(
            given.digest if given else None,
            content_digest(self._sheet(root).files),
            [columns.item_id, columns.path, self.options.images, str(root)],
        )

    def manifest(self, root: Path, workspace: Workspace, seed: int) -> pa.Table:
        """One row an item, in the order of the table; with given embeddings the column ``vector_row``.

        Raises
        ------
        ConfigError
            If a column is not there.
        DataError
            If the table is empty, or a row lacks a label, an environment, a split, a file or a vector, an id
            repeats, or a path leaves the root. With ``drop_missing``, rows that lack something are left out.
        """
        _check(root)
        sheet = self._sheet(root)
        found = find_columns(sheet.names, self.options.columns, sheet.shown)
        table = sheet.read(found.values())
        if not len(table):
            raise DataError(f"the table {sheet.shown} has no row", remedy="check data.options.table")
        given = self.given(root)
        if given is None and "path" not in found:
            raise ConfigError(
                f"the table {sheet.shown} has neither a column of images nor embeddings",
                got=", ".join(map(repr, sheet.names[:20])),
                remedy="set columns.path to the images' column or embeddings to the vectors' files",
            )
        notes: list[str] = []
        rows = self._complete(table, found, notes, given is None)
        ids = _item_ids(rows)
        vectors: NDArray[np.int64] | None = None
        if given is not None:
            vectors = self._vectors(given, rows, ids, root)
            rows, ids, vectors = self._with_vectors(rows, ids, vectors, notes)
        return self._table(rows, ids, vectors, root, workspace, notes)

    def _pictures_elsewhere(self, sheet: Sheet, found: Mapping[str, str], root: Path) -> bool:
        """Whether the paths beside given embeddings leave the root; only the report would show such files."""
        if "path" not in found or self.options.outside != "refuse":
            return False
        path = next(filter(None, sheet.read([found["path"]]).columns[found["path"]]), MISSING)
        try:
            Inside(root).path(os.path.join(self.options.images, path))
        except DataError:
            return True
        return False

    def _sheet(self, root: Path) -> Sheet:
        return open_sheet(table_files(root, self.options), self.options.delimiter)

    def _complete(self, table: SheetRows, found: dict[str, str], notes: list[str], images: bool) -> _Rows:
        """Rows that have all they need."""
        needed = ["label", "env", "split", "item_id", *(["path"] if images else [])]
        kept = list(range(len(table)))
        for role in needed:
            if role in found:
                column = table.columns[found[role]]
                missing = [i for i in kept if column[i] == MISSING]
                if missing:
                    self._refuse(table, missing, f"without a value in column {found[role]!r}", notes)
                    gone = set(missing)
                    kept = [i for i in kept if i not in gone]
        return _Rows(table, found, kept)

    def _refuse(self, table: SheetRows, rows: Sequence[int], what: str, notes: list[str]) -> None:
        """An error, or with ``drop_missing`` a note."""
        shown = ", ".join(table.place(i) for i in rows[:SHOWN]) + (" and others" if len(rows) > SHOWN else "")
        if self.options.drop_missing and len(rows) < len(table):
            notes.append(f"{len(rows)} of {len(table)} rows {what} are left out: {shown}")
            return
        raise DataError(
            f"rows {what}",
            got=f"{len(rows)} of {len(table)}: {shown}",
            remedy="fill them in, or leave them out with --set drop_missing=true (data.options.drop_missing)",
        )

    def _vectors(self, given: GivenVectors, rows: _Rows, ids: Sequence[str], root: Path) -> NDArray[np.int64]:
        """The vector of every kept row."""
        all_ids = [MISSING] * len(rows.table)
        for i, item in zip(rows.kept, ids, strict=True):
            all_ids[i] = item
        names = {"item_id": all_ids}
        if "path" in rows.found:
            names["path"] = rows.table.columns[rows.found["path"]]
            base = os.path.abspath(root / self.options.images)
            names["file"] = [os.path.join(base, path) if path else MISSING for path in names["path"]]
        return given.rows_of(rows.table, names)[rows.kept]

    def _with_vectors(
        self, rows: _Rows, ids: list[str], vectors: NDArray[np.int64], notes: list[str]
    ) -> tuple[_Rows, list[str], NDArray[np.int64]]:
        have = vectors >= 0
        if have.all():
            return rows, ids, vectors
        lacking = [row for row, has in zip(rows.kept, have, strict=True) if not has]
        first = ids[int(np.argmin(have))]
        self._refuse(rows.table, lacking, f"without an embedding (first item {first!r})", notes)
        kept = [row for row, has in zip(rows.kept, have, strict=True) if has]
        return (
            _Rows(rows.table, rows.found, kept),
            [item for item, has in zip(ids, have, strict=True) if has],
            vectors[have],
        )

    def _table(
        self,
        rows: _Rows,
        ids: list[str],
        vectors: NDArray[np.int64] | None,
        root: Path,
        workspace: Workspace,
        notes: list[str],
    ) -> pa.Table:
        splits = self._splits(rows, ids, notes)
        labels, label_names = codes(rows.values("label"))
        envs, env_names = codes(rows.values("env"))
        files = self._files(rows, "path", root)
        sizes = iter(image_sizes([file for file in files if file is not None]))
        shapes = [(0, 0) if file is None else next(sizes) for file in files]
        if vectors is None:
            notes += size_notes(rows.values("path"), shapes)
        else:
            files = [f if f is not None and f.is_file() else None for f in files]
        masks = self._files(rows, "mask", root)
        columns: dict[str, Any] = {
            "item_id": ids,
            "path": ["" if file is None else workspace.relative(file) for file in files],
            "split": splits,
            "label": labels,
            "label_name": [label_names[i] for i in labels],
            "env": envs,
            "env_name": [env_names[i] for i in envs],
            "mask_path": pa.array([None if m is None else workspace.relative(m) for m in masks], pa.string()),
            "subject": pa.array([value or None for value in rows.values("subject")], pa.string()),
            "width": [width for width, _ in shapes],
            "height": [height for _, height in shapes],
            "origin": ["source"] * len(ids),
            "parent_id": pa.nulls(len(ids), pa.string()),
        }
        if vectors is not None:
            columns[VECTOR_ROW] = pa.array(vectors, pa.int64())
        return with_notes(MANIFEST.validate(pa.table(columns)), notes)

    def _splits(self, rows: _Rows, ids: Sequence[str], notes: list[str]) -> list[Split]:
        if "split" in rows.found:
            splits = splits_of(rows.values("split"), self.options.splits)
        else:
            subjects = rows.values("subject")
            keys = [subject or item for subject, item in zip(subjects, ids, strict=True)]
            splits = hashed_splits(keys, self.options.fractions)
            by = f"column {rows.found['subject']!r}" if "subject" in rows.found else "the item's id"
            notes.append(f"the table has no split column: items are split by a hash of {by}")
        for split in ("train", "test"):
            if split not in splits:
                there = ", ".join(f"{splits.count(s)} {s}" for s in ("train", "val", "test") if s in splits)
                raise DataError(
                    f"the table has no {split} item",
                    got=there,
                    remedy="say what the values mean, such as --set splits.1=test, or fill the split column",
                )
        return splits

    def _files(self, rows: _Rows, role: str, root: Path) -> list[Path | None]:
        """Files that a column names; None where it names none."""
        values = rows.values(role)
        base = root / self.options.images
        if self.options.outside == "allow":
            return [Path(os.path.abspath(base / value)) if value else None for value in values]
        inside = Inside(root)
        found: list[Path | None] = []
        for row, value in zip(rows.kept, values, strict=True):
            try:
                path = os.path.join(self.options.images, value)
                found.append(inside.path(path) if value else None)
            except CfpairsError as error:
                if self.options.outside == "ignore":
                    found.append(None)
                    continue
                raise DataError(
                    f"{rows.table.place(row)}: {error.problem}",
                    got=repr(value),
                    expected=error.expected,
                    remedy="move the files into the root, or allow it with --set outside=allow "
                    "(data.options.outside)",
                ) from error
        return found


def _check(root: Path) -> None:
    check_folder(root, "a folder with a table of items", "set data.root (--root) to the folder of the table")


def _item_ids(rows: _Rows) -> list[str]:
    """Ids from their column, else the paths, else the row numbers."""
    role = next((r for r in ("item_id", "path") if r in rows.found), None)
    if role is None or MISSING in (ids := rows.values(role)):
        ids = [f"row-{i:07d}" for i in rows.kept]
        role = None
    first: dict[str, int] = {}
    for row, item in zip(rows.kept, ids, strict=True):
        if item in first:
            place = rows.table.place
            raise DataError(
                f"column {rows.found[str(role)]!r} names an item twice",
                got=f"{item!r} in {place(first[item])} and {place(row)}",
                remedy="name the column of ids with --set columns.item_id=COLUMN (empty: the path is the id)",
            )
        first[item] = row
    return ids
