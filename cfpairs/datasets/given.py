"""Embeddings that a table of items brings: which files they are in, and which vector is whose."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cfpairs.datasets.columns import COMMON_NAMES
from cfpairs.datasets.digests import content_digest
from cfpairs.datasets.sheets import Sheet, SheetRows, open_sheet, vector_columns
from cfpairs.datasets.vectors import Vectors, open_npy, open_parquet, place_of
from cfpairs.datasets.walk import natural_key
from cfpairs.errors import ConfigError, DataError
from cfpairs.tables import fingerprint

__all__ = ["GivenVectors", "discover", "open_given"]

FOLDERS = ("embeddings", "img_emb", "features", "vectors")
NAMED = re.compile(r"emb|feat|vec|clip", re.IGNORECASE)
SUMMED = 3
"""So many examples are shown in messages."""


@dataclass(frozen=True)
class GivenVectors:
    """Vectors and what says whose they are.

    Attributes
    ----------
    vectors : Vectors
    keys : Sheet or None
        A row for every vector, with its id; None: vectors follow the rows of the table.
    key_column : str or None
        The column of `keys` that the configuration names.
    """

    vectors: Vectors
    keys: Sheet | None
    key_column: str | None

    @property
    def digest(self) -> str:
        """Changes when the vectors or their ids do; see `content_digest` for what it covers."""
        files = [*self.vectors.files, *(self.keys.files if self.keys else ())]
        column = getattr(self.vectors, "column", None)
        return fingerprint(content_digest(list(dict.fromkeys(files))), column, self.key_column)

    def place(self, row: int) -> str:
        """File and row of a vector, for messages."""
        return place_of(row, self.vectors)

    def blocks(
        self, rows: NDArray[np.int64], size: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """See `Vectors.blocks`."""
        return self.vectors.blocks(rows, size)

    def rows_of(self, table: SheetRows, names: Mapping[str, Sequence[str]]) -> NDArray[np.int64]:
        """The vector of every row of the table; -1 where it has none.

        Parameters
        ----------
        table : SheetRows
            All rows of the table.
        names : mapping of str to sequence of str
            What an item may be called in the files of the vectors, a value a row: its id, its path.

        Raises
        ------
        DataError
            If vectors follow the rows of the table and are not as many, no id matches, or an item has two.
        """
        n = sum(self.vectors.counts)
        if self.keys is None or self.keys.files == table.sheet.files:
            if n != len(table):
                raise DataError(
                    "vectors and rows of the table are not as many",
                    got=f"{n} vectors in {_shown(self.vectors.files)}, "
                    f"{len(table)} rows in {table.sheet.shown}",
                    remedy="give one vector for each row, in the same order, or Parquet with an id column",
                )
            return np.arange(n, dtype=np.int64)
        return self._by_key(names, self.keys)

    def _by_key(self, names: Mapping[str, Sequence[str]], keys: Sheet) -> NDArray[np.int64]:
        columns = [self.key_column] if self.key_column else _key_columns(keys.names)
        if not columns:
            raise ConfigError(
                f"{keys.shown} has no column that looks like an id",
                got=", ".join(map(repr, keys.names[:12])),
                remedy="name it: --set embedding_id=COLUMN (data.options.embedding_id)",
            )
        found = keys.read(columns).columns
        best = np.full(len(next(iter(names.values()))), -1, np.int64)
        chosen, most = columns[0], 0
        for column in columns:
            known = set(found[column])
            for called in names.values():
                hits = sum(name in known for name in called)
                if hits > most:
                    chosen, most = column, hits
                    best = self._match(found[column], called, column)
        if not most:
            raise DataError(
                f"no id in {keys.shown} is one of the table's",
                got=f"{chosen} {found[chosen][0]!r} and item {next(iter(names.values()))[0]!r}",
                remedy="name the ids with --set embedding_id=COLUMN or --set columns.item_id=COLUMN",
            )
        return best

    def _match(self, ids: Sequence[str], called: Sequence[str], column: str) -> NDArray[np.int64]:
        wanted = {name for name in called if name}
        row: dict[str, int] = {}
        twice = []
        for i, key in enumerate(ids):
            if key in wanted and row.setdefault(key, i) != i:
                twice.append(key)
        if twice:
            raise DataError(
                f"items have two vectors by {column!r}",
                got=f"{len(twice)}, such as {twice[0]!r} ({self.place(row[twice[0]])})",
                remedy="leave one vector for each item",
            )
        return np.array([row.get(name, -1) for name in called], np.int64)


def _key_columns(names: Sequence[str]) -> list[str]:
    common = [*COMMON_NAMES["item_id"], *COMMON_NAMES["path"]]
    return [name for name in common if name in names]


def _shown(files: Sequence[Path]) -> str:
    return files[0].name if len(files) == 1 else f"{len(files)} files from {files[0].name}"


def open_given(
    root: Path, spec: str, column: str | None = None, key_column: str | None = None
) -> GivenVectors:
    """The embeddings that a configuration names.

    Parameters
    ----------
    root : Path
    spec : str
        Relative to `root` or absolute: an npy or Parquet file, a pattern such as ``part_*.npy``, a folder of
        either, or a folder as clip-retrieval writes it. Parts are taken in natural order.
    column, key_column : str, optional
        Columns of the vectors and of their ids.

    Raises
    ------
    ConfigError
        If the files are not there or do not go together.
    DataError
        If one cannot be read.
    """
    images, metadata = _clip_retrieval(root / spec)
    if images:
        vectors: Vectors = open_npy(images)
        keys = open_sheet(metadata)
        for file, n, listed, rows in zip(images, vectors.counts, metadata, keys.counts(), strict=True):
            if n != rows:
                raise DataError(
                    "vectors and rows of metadata are not as many",
                    got=f"{n} in {file.name}, {rows} in {listed.name}",
                    remedy="encode that part again",
                )
        return GivenVectors(vectors, keys, _known(key_column, keys))
    files = _files(root, spec)
    if files[0].suffix == ".npy":
        if key_column:
            raise ConfigError(
                "npy files have no id column", got=repr(key_column), remedy="leave embedding_id out"
            )
        return GivenVectors(open_npy(files), None, None)
    keys = open_sheet(files)
    return GivenVectors(open_parquet(files, column), keys, _known(key_column, keys))


def _known(column: str | None, keys: Sheet) -> str | None:
    if column is not None and column not in keys.names:
        raise ConfigError(
            f"{keys.shown} has no column {column!r}",
            expected="one of " + ", ".join(keys.names[:12]),
            remedy="set data.options.embedding_id",
        )
    return column


def _files(root: Path, spec: str) -> list[Path]:
    """The files that `spec` names, in natural order."""
    path = root / spec
    if path.is_file():
        files = [path]
    elif path.is_dir():
        files = [f for f in path.iterdir() if f.suffix in (".npy", ".parquet") and not f.name.startswith(".")]
    elif any(c in spec for c in "*?["):
        base = Path(path.anchor) if path.is_absolute() else Path()
        files = [f for f in base.glob(str(path.relative_to(base))) if f.is_file()]
    else:
        files = []
    kinds = sorted({f.suffix for f in files})
    if not files:
        raise ConfigError(
            "there are no embeddings where data.options.embeddings says",
            got=str(path),
            expected="an npy or Parquet file, a folder or a pattern of them",
        )
    if len(kinds) > 1 or kinds[0] not in (".npy", ".parquet"):
        raise ConfigError(
            "embeddings are in files of one kind, npy or Parquet",
            got=", ".join(kinds),
            remedy="name the files by a pattern such as 'folder/*.npy' in data.options.embeddings",
        )
    return sorted(files, key=lambda f: natural_key(f.name))


def _clip_retrieval(folder: Path) -> tuple[list[Path], list[Path]]:
    """Parts of clip-retrieval's output with equal numbers; nothing if `folder` is no such output."""
    for images, metadata in ((folder / "img_emb", folder / "metadata"), (folder, folder)):
        parts, listed = _numbered(images, "img_emb", ".npy"), _numbered(metadata, "metadata", ".parquet")
        if parts and listed:
            lone = sorted(parts.keys() ^ listed.keys())
            if lone:
                raise DataError(
                    "parts of clip-retrieval's output are missing",
                    got=f"{len(parts)} of img_emb, {len(listed)} of metadata; number {lone[0]} stands alone",
                )
            order = sorted(parts)
            return [parts[i] for i in order], [listed[i] for i in order]
    return [], []


def _numbered(folder: Path, stem: str, suffix: str) -> dict[int, Path]:
    found = {}
    for file in folder.glob(f"{stem}_*{suffix}"):
        number = file.name.removeprefix(f"{stem}_").removesuffix(suffix)
        if number.isdigit():
            found[int(number)] = file
    return found


def metadata_folder(root: Path) -> str | None:
    """Where clip-retrieval's metadata are below `root`, if it has such an output."""
    images, metadata = _clip_retrieval(root)
    return os.path.relpath(metadata[0].parent, root) if images else None


def discover(root: Path) -> str | None:
    """Embeddings that lie in a folder, as `open_given` takes them; None if none are found or it is unclear.

    Looked for: clip-retrieval's layout; one npy or Parquet file (or numbered parts of one) whose name speaks
    of embeddings, or the only such file; a folder ``embeddings``, ``img_emb``, ``features`` or ``vectors``.
    """
    if _clip_retrieval(root)[0]:
        return "."
    npy = _families(f for f in root.glob("*.npy") if f.is_file())
    parquet = _families(f for f in root.glob("*.parquet") if f.is_file() and _holds_vectors(f))
    for families in (npy, parquet):
        named = [spec for spec in families if NAMED.search(spec)]
        for choice in (named, families):
            if len(choice) == 1:
                return choice[0]
    for name in FOLDERS:
        files = list((root / name).glob("*.npy")) or list((root / name).glob("*.parquet"))
        if files and (files[0].suffix == ".npy" or _holds_vectors(files[0])):
            return name
    return None


def _families(files: Iterator[Path]) -> list[str]:
    """File names, with numbered parts of one name as a pattern."""
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(re.sub(r"\d+(?=\D*$)", "*", file.name), []).append(file.name)
    return sorted(names[0] if len(names) == 1 else pattern for pattern, names in groups.items())


def _holds_vectors(file: Path) -> bool:
    try:
        return bool(vector_columns(file))
    except DataError:
        return False
