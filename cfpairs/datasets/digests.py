"""Whether files have changed, found out without reading all of very large ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from cfpairs.errors import DataError
from cfpairs.tables import fingerprint

__all__ = ["content_digest"]

WHOLE_BYTES = 64 << 20
"""Files of up to this many bytes together are hashed whole."""

SAMPLES, SAMPLE_BYTES = 16, 1 << 16
"""Of larger ones, this many stretches of this many bytes in each file."""


def content_digest(files: Sequence[Path]) -> str:
    """Sixteen hexadecimal digits that change when the files do.

    Notes
    -----
    Files of up to 64 MiB together are hashed whole, whatever their names and times. Of larger ones the digest
    covers, for each file, its size, its time of change and 16 stretches of 64 KiB spread evenly from its
    first byte to its last: a file that is written anew is noticed, and so is a copy with a new time.

    Raises
    ------
    DataError
        If a file cannot be read.
    """
    try:
        found = [(file, file.stat()) for file in files]
        whole = sum(stat.st_size for _, stat in found) <= WHOLE_BYTES
        return fingerprint([_digest(file, stat.st_size, stat.st_mtime_ns, whole) for file, stat in found])
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read", got=error.strerror) from error


@lru_cache(maxsize=4096)
def _digest(file: Path, size: int, modified: int, whole: bool) -> str:
    sha = hashlib.sha256()
    with file.open("rb") as handle:
        if whole:
            sha = hashlib.file_digest(handle, "sha256")
        else:
            sha.update(f"{size} {modified}".encode())
            last = max(size - SAMPLE_BYTES, 0)
            for i in range(SAMPLES):
                handle.seek(last * i // (SAMPLES - 1))
                sha.update(handle.read(SAMPLE_BYTES))
    return sha.hexdigest()
