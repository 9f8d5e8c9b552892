"""Options of the data set ``table``, and which files in a folder are its table."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from cfpairs.config import Strict
from cfpairs.datasets.columns import Columns, Fractions, Split, find_columns
from cfpairs.datasets.given import metadata_folder
from cfpairs.datasets.sheets import TABLE_ENDINGS, Delimiter, Sheet, open_sheet
from cfpairs.datasets.walk import natural_key
from cfpairs.errors import CfpairsError, ConfigError, DataError

__all__ = ["TableOptions", "shown_table", "table_files"]

LIKELY = ("metadata", "items", "table", "manifest", "data", "labels", "index")
"""Names that tables of items often have, the likeliest first."""


class TableOptions(Strict):
    """Settings of the data set ``table``."""

    table: str | None = Field(
        default=None, description="a CSV, TSV or Parquet file, or a folder of its parts; from the root"
    )
    delimiter: Delimiter | None = None
    columns: Columns = Columns()
    images: str = Field(
        default="", description="folder that the paths in the table start from; from the root"
    )
    splits: dict[str, Split] = Field(default_factory=dict, description="what values of the split column mean")
    fractions: Fractions = Fractions()
    drop_missing: bool = Field(
        default=False, description="leave out what cannot be used, instead of refusing it"
    )
    outside: Literal["refuse", "allow", "ignore"] = Field(
        default="refuse",
        description="paths that leave the root, absolute ones or links; ignore: such items have no image",
    )
    embeddings: str | None = Field(
        default=None,
        description="npy or Parquet file, pattern, folder, or clip-retrieval's folder; from the root",
    )
    embedding_column: str | None = None
    embedding_id: str | None = Field(default=None, description="column of ids beside the embeddings")
    licence: str = "Not stated; see the source of the table."


def shown_table(sheet: Sheet, root: Path) -> str:
    """How the options name a table."""
    path = sheet.files[0] if len(sheet.files) == 1 else sheet.files[0].parent
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(root))
    return absolute.relative_to(base).as_posix() if absolute.is_relative_to(base) else str(absolute)


def table_files(root: Path, options: TableOptions) -> list[Path]:
    """The files of the table that the options name, or the one that is likeliest."""
    if options.table is None:
        return _find_table(root, options)
    path = root / options.table
    if not path.is_dir():
        if not path.name.endswith(TABLE_ENDINGS):
            raise ConfigError("a table of another kind", got=path.name, expected=", ".join(TABLE_ENDINGS))
        return [path]
    files = _tables_in(path)
    if not files:
        raise DataError("no table in the folder", got=str(path), expected="files " + ", ".join(TABLE_ENDINGS))
    return files


def _tables_in(folder: Path) -> list[Path]:
    files = [f for f in folder.iterdir() if f.name.endswith(TABLE_ENDINGS) and not f.name.startswith(".")]
    return sorted((f for f in files if f.is_file()), key=lambda f: natural_key(f.name))


def _find_table(root: Path, options: TableOptions) -> list[Path]:
    """The only table in the root that has a label and an environment; of several, the one named likeliest."""
    files = _tables_in(root)
    metadata = metadata_folder(root)
    if not files and metadata is not None:
        return _tables_in(root / metadata)
    fitting = [file for file in files if len(files) == 1 or _fits(file, options)]
    for name in LIKELY:
        if len(fitting) > 1:
            named = [f for f in fitting if f.name.split(".")[0].casefold() == name]
            fitting = named if len(named) == 1 else fitting
    if len(fitting) == 1:
        return fitting
    if fitting and options.embeddings is not None and _same_family(fitting):
        return fitting
    raise DataError(
        "no table in the folder" if not files else "it is unclear which table lists the items",
        got=", ".join(f.name for f in (fitting or files)[:8]) or f"nothing but other files in {root}",
        expected="one file " + ", ".join(TABLE_ENDINGS) + " with columns for label and environment",
        remedy="name it with --set table=FILE (data.options.table)",
    )


def _fits(file: Path, options: TableOptions) -> bool:
    try:
        sheet = open_sheet([file], options.delimiter)
        find_columns(sheet.names, options.columns, sheet.shown)
    except CfpairsError:
        return False
    return True


def _same_family(files: Sequence[Path]) -> bool:
    return len({re.sub(r"\d+", "", file.name) for file in files}) == 1
