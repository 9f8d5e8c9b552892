"""Folders that an option names: they lie in the data set's folder and hold images."""

from __future__ import annotations

from pathlib import Path

from cfpairs.errors import ConfigError, DataError

__all__ = ["IMAGE_SUFFIXES", "images_below", "named_folder"]

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"))


def named_folder(root: Path | None, folder: Path, option: str) -> Path:
    """The folder that an option names, relative to the data set's.

    Parameters
    ----------
    root : Path or None
        The data set's folder; None if it has none.
    folder : Path
        What the user wrote.
    option : str
        Name of the option, for the message.

    Raises
    ------
    ConfigError
        If it lies outside `root`, links followed, or there is no root.
    DataError
        If there is no such folder.
    """
    if root is None:
        raise ConfigError(f"{option} needs a data set with a folder", got=folder, remedy="set data.root")
    found, base = (root / folder).resolve(), root.resolve()
    if not found.is_relative_to(base):
        raise ConfigError(
            f"{option} leaves the data set's folder", got=folder, expected=f"a folder below {base}"
        )
    if not found.is_dir():
        raise DataError(f"{option} is no folder", got=found, remedy="write it relative to data.root")
    return found


def images_below(folder: Path) -> list[Path]:
    """Image files below a folder in the order of their paths; links that leave the folder are passed over."""
    files = (file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
    return sorted((f for f in files if f.resolve().is_relative_to(folder)), key=lambda f: f.as_posix())
