"""Files of a data set: paths that stay below its folder, sizes from image headers, notes for the user."""

from __future__ import annotations

import json
import os
import stat
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from cfpairs.errors import DataError

__all__ = [
    "Inside",
    "check_folder",
    "image_sizes",
    "notes_of",
    "size_notes",
    "with_notes",
]

WORKERS = 4
BLOCK = 64
FEW_BAD = 10
BAD_SHARE = 0.05
"""Images that are missing or unreadable end a run when they are more than both of these allow, or all."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

ORIENTATION = 0x0112


def check_folder(root: Path, what: str, source: str) -> None:
    """Make sure that the folder of a data set is there.

    Parameters
    ----------
    root : Path
    what : str
        What is looked for in it, in words.
    source : str
        Where the data set comes from, in words.

    Raises
    ------
    DataError
        If it is missing, no folder, or cannot be read.
    """
    try:
        if stat.S_ISDIR(root.stat().st_mode):
            return
        got = f"{root}, which is a file"
    except (FileNotFoundError, NotADirectoryError):
        got = f"{root}, which does not exist"
    except (OSError, ValueError) as error:
        got = f"{root}, which cannot be read: {getattr(error, 'strerror', None) or error}"
    raise DataError("no data folder", got=got, expected=what, remedy=source)


class Inside:
    """Paths below a folder that may not leave it, neither by their names nor by links.

    Parameters
    ----------
    root : Path
        The folder; may itself be a link.
    links_out : bool
        Whether links may lead out of the folder all the same.
    """

    def __init__(self, root: Path, *, links_out: bool = False) -> None:
        self.root = Path(os.path.abspath(root))
        self.links_out = links_out
        self._real_root = os.path.realpath(self.root)
        self._parents: dict[str, bool] = {}

    def path(self, relative: str) -> Path:
        """The absolute path of what a data set names; it need not exist.

        Parameters
        ----------
        relative : str
            Relative to the folder, or absolute and below it.

        Raises
        ------
        DataError
            If it is empty, is no possible name, or leaves the folder.
        """
        if not relative.strip() or "\0" in relative:
            raise DataError("a path in the data set is empty or no possible name", got=repr(relative))
        joined = os.path.normpath(os.path.join(self.root, relative))
        if joined == str(self.root) or not _below(joined, str(self.root)):
            raise self._leaves(relative)
        if not self.links_out:
            parent = os.path.dirname(joined)
            if parent not in self._parents:
                self._parents[parent] = _below(os.path.realpath(parent), self._real_root)
            if not self._parents[parent] or (os.path.islink(joined) and not self.holds(joined)):
                raise self._leaves(relative)
        return Path(joined)

    def holds(self, path: str) -> bool:
        """Whether a path, its links followed, lies in the folder."""
        return _below(os.path.realpath(path), self._real_root)

    def _leaves(self, relative: str) -> DataError:
        return DataError(
            "a path leaves the data folder",
            got=repr(relative),
            expected=f"a path below {self.root}",
            remedy="move or copy the files into it, or set data.root to a folder that holds them all",
        )


def _below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)


def image_sizes(paths: Sequence[Path]) -> list[tuple[int, int]]:
    """Width and height of images as they are seen, read from their headers by several threads.

    Returns
    -------
    list of tuple of int
        (0, 0) for a file that is missing, is no image, or has more pixels than are safe to decode.
    """
    from PIL import Image

    blocks = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    # Set once around all threads: warning filters belong to the process.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with ThreadPoolExecutor(WORKERS) as pool:
            return [
                size for sizes in pool.map(lambda block: [_size(p) for p in block], blocks) for size in sizes
            ]


def _size(path: Path) -> tuple[int, int]:
    from PIL import Image

    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would be waited on for ever
            return 0, 0
        with Image.open(path) as image:
            width, height = image.size
            turned = "exif" in image.info and image.getexif().get(ORIENTATION) in SIDEWAYS
    except Exception:  # Pillow raises almost anything on damaged bytes
        return 0, 0
    return (height, width) if turned else (width, height)


def size_notes(names: Sequence[str], sizes: Sequence[tuple[int, int]]) -> list[str]:
    """A line about the images that are missing or unreadable, if there are any.

    A few are kept in the manifest with width and height 0: encoding lists them as failures.

    Raises
    ------
    DataError
        If they are too many for a data set that is complete: all, or more than 10 and more than 5 %.
    """
    bad = [name for name, (width, _) in zip(names, sizes, strict=True) if not width]
    if not bad:
        return []
    if len(bad) == len(names) or len(bad) > max(FEW_BAD, BAD_SHARE * len(names)):
        raise DataError(
            "too many images are missing or unreadable",
            got=f"{len(bad)} of {len(names)}, such as {bad[0]!r}",
            remedy="unpack the data set again, or check data.root",
        )
    shown = ", ".join(map(repr, bad[:3])) + (" and others" if len(bad) > 3 else "")
    return [
        f"{len(bad)} of {len(names)} images are missing or unreadable and stay without embedding: {shown}"
    ]


NOTES_KEY = b"cfpairs.notes"


def with_notes(table: pa.Table, notes: Sequence[str]) -> pa.Table:
    """A manifest with lines for the user in its schema's metadata."""
    metadata = {**(table.schema.metadata or {}), NOTES_KEY: json.dumps(list(notes)).encode()}
    return table.replace_schema_metadata(metadata)


def notes_of(table: pa.Table) -> list[str]:
    """The lines that `with_notes` put there."""
    return [str(line) for line in json.loads((table.schema.metadata or {}).get(NOTES_KEY, b"[]"))]
