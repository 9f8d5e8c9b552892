"""Images below a folder, listed in one walk that opens no file."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cfpairs.datasets.files import Inside
from cfpairs.errors import DataError
from cfpairs.tables import fingerprint

__all__ = ["IMAGE_EXTENSIONS", "FoundFile", "Listing", "list_images", "natural_key"]

IMAGE_EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Endings of image files, in lower case; case does not count."""

JUNK = ("__MACOSX", "@eaDir")
"""Folders that archivers and file servers leave behind; what lies in them looks like images."""

WORKSPACE_MARKS = ("manifest.parquet", ".lock-holder.json", "cfpairs.yaml")
"""A folder below the root that holds one of these is a workspace, no part of the data set."""

WORKSPACE_FOLDERS = ("pairs", "embeddings", "probes")
"""What is not looked into where the root itself is a workspace."""


def natural_key(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key that takes runs of digits as numbers and upper case as lower case.

    Examples
    --------
    >>> sorted(["b10", "B9", "a"], key=natural_key)
    ['a', 'B9', 'b10']
    """
    parts = re.split(r"(\d+)", name.casefold())
    return tuple(int(part) if i % 2 else part for i, part in enumerate(parts)), name


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file below a folder.

    Attributes
    ----------
    relative : str
        Its path from that folder, with forward slashes.
    size : int
        Bytes.
    modified : int
        Nanoseconds since 1970.
    """

    relative: str
    size: int
    modified: int


@dataclass(frozen=True)
class Listing:
    """What `list_images` found.

    Attributes
    ----------
    files : tuple of FoundFile
        In natural order of their paths.
    folders : tuple of str
        Every folder that was looked into, relative, in natural order.
    unnameable : int
        Images left out because their names are no valid Unicode, so that no table can hold them.
    """

    files: tuple[FoundFile, ...]
    folders: tuple[str, ...]
    unnameable: int = 0

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the names, sizes and times of change of all files."""
        return fingerprint([[f.relative, f.size, f.modified] for f in self.files], self.unnameable)


def list_images(
    root: Path,
    extensions: Iterable[str] = IMAGE_EXTENSIONS,
    *,
    skip: Iterable[str] = (),
    links_out: bool = False,
) -> Listing:
    """Every image below a folder, found in one walk that opens no file.

    Hidden files and folders, what archivers leave behind, workspaces and anything that is no regular file are
    left out.

    Parameters
    ----------
    root : Path
    extensions : iterable of str
        In lower case, with the dot.
    skip : iterable of str
        Folders, relative to `root`, that are not looked into.
    links_out : bool
        Whether links may lead out of `root`.

    Raises
    ------
    DataError
        If a folder cannot be read, or a link leaves `root` or leads back to a folder above itself.
    """
    inside = Inside(root, links_out=links_out)
    endings, skipped = frozenset(extensions), {*skip}
    if any((inside.root / mark).exists() for mark in WORKSPACE_MARKS[:2]):
        skipped.update(WORKSPACE_FOLDERS)
    files: list[FoundFile] = []
    folders: list[str] = []
    unnameable = 0
    waiting = [("", frozenset({os.path.realpath(root)}))]
    while waiting:
        prefix, above = waiting.pop()
        for entry in _entries(inside.root, prefix):
            relative = prefix + entry.name
            if entry.name.startswith(".") or entry.name in JUNK or relative in skipped:
                continue
            linked = entry.is_symlink()
            if _is_folder(entry):
                if linked and not links_out:
                    inside.path(relative)
                below = _enter(entry, above, relative)
                if below is not None and _is_text(relative):
                    folders.append(relative)
                    waiting.append((relative + "/", below))
            elif os.path.splitext(entry.name)[1].lower() in endings:
                if linked:
                    inside.path(relative)
                facts = _facts(entry)
                if facts is None:
                    continue
                if _is_text(relative):
                    files.append(FoundFile(relative, *facts))
                else:
                    unnameable += 1
    files.sort(key=lambda file: natural_key(file.relative))
    return Listing(tuple(files), tuple(sorted(folders, key=natural_key)), unnameable)


def _entries(root: Path, prefix: str) -> list[os.DirEntry[str]]:
    folder = os.path.join(root, prefix)
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        shown = folder.encode(errors="backslashreplace").decode()
        raise DataError(f"the folder {shown} cannot be read", got=error.strerror or str(error)) from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link that leads to itself
        if error.errno == errno.ELOOP:
            return False
        raise DataError(f"{entry.path!r} cannot be read", got=error.strerror or str(error)) from error


def _enter(entry: os.DirEntry[str], above: frozenset[str], relative: str) -> frozenset[str] | None:
    """The real paths of a folder and those above it; None for a folder that is no part of the data."""
    if any(os.path.exists(os.path.join(entry.path, mark)) for mark in WORKSPACE_MARKS):
        return None
    real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
    if real in above:
        raise DataError(
            "a link leads back to a folder above itself", got=repr(relative), remedy="remove the link"
        )
    return above | {os.path.realpath(entry.path)}


def _facts(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """Size and time of change; zeros for a link to nothing; None if it is no regular file or is gone."""
    try:
        found = entry.stat()
    except OSError:
        return (0, 0) if entry.is_symlink() else None
    return (found.st_size, found.st_mtime_ns) if stat.S_ISREG(found.st_mode) else None


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
