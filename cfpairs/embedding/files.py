"""What is known of image files, so that one that has not changed need not be read again."""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cfpairs.embedding.images import hash_now
from cfpairs.errors import CfpairsError
from cfpairs.tables import write_table

__all__ = ["UNREADABLE", "FileIndex", "Keys", "file_state", "key_of", "keys_of", "short_hash"]

Keys = NDArray[np.uint64]
"""64-bit hashes. Among ten million strings the chance that any two share one is 3 in a million."""

UNREADABLE = 0
"""Stands for the content of a file that cannot be read."""

_RECENT_NS = 2_000_000_000
"""A file changed less than two seconds ago may change again without a new time of change."""

_COLUMNS = ("path_key", "state", "content")


def keys_of(texts: Iterable[str]) -> Keys:
    """One 64-bit hash (BLAKE2b) a string."""
    digests = b"".join(
        hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest() for text in texts
    )
    return np.frombuffer(digests, "<u8")


def key_of(text: str) -> int:
    """The 64-bit hash of one string."""
    return int(keys_of([text])[0])


def short_hash(content_hash: str) -> int:
    """The first 64 bits of a `content_hash`; `UNREADABLE` for none."""
    return int(content_hash[:16], 16) if content_hash else UNREADABLE


def file_state(found: os.stat_result) -> int:
    """A 64-bit hash of size, time of change and time of the inode's change; 0 if it changed just now."""
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) < _RECENT_NS:
        return 0
    return key_of(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")


class FileIndex:
    """For each file its state (size and times) when it was last read, and what its bytes were.

    It only saves reading: where it is missing or out of date, files are read. It holds 24 bytes a file.

    Parameters
    ----------
    path : Path
        The Parquet file that it is kept in; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: list[Keys] = [np.empty(0, np.uint64) for _ in _COLUMNS]
        self._new: list[tuple[int, int, int]] = []
        self._blocks: list[Keys] = []
        try:
            table = pq.read_table(path, columns=list(_COLUMNS), use_threads=False)
            self._known = [table[name].to_numpy().astype(np.uint64) for name in _COLUMNS]
        except (OSError, pa.ArrowException, KeyError):
            return

    def note(self, path: str, state: int, content: int) -> None:
        """Remember the content of a file that was read; one that cannot be recognised is not kept."""
        if state and content != UNREADABLE:
            self._new.append((key_of(path), state, content))
            if len(self._new) == 4096:
                self._pack()

    def _pack(self) -> None:
        if self._new:
            self._blocks.append(np.array(self._new, np.uint64))
            self._new = []

    def contents(self, paths: Iterable[str], files: Iterable[Path]) -> Keys:
        """`short_hash` of each file as it is now; those that are not recognised are read and noted."""
        names = list(paths)
        keys = keys_of(names)
        places = np.searchsorted(self._known[0], keys)
        found = np.empty(len(names), np.uint64)
        for i, file in enumerate(files):
            found[i] = self._content(names[i], file, int(keys[i]), int(places[i]))
        return found

    def _content(self, path: str, file: Path, key: int, place: int) -> int:
        try:
            status = file.stat()
        except (OSError, ValueError):
            return UNREADABLE
        if not stat.S_ISREG(status.st_mode):
            return UNREADABLE
        state = file_state(status)
        known, states, contents = self._known
        if state and place < len(known) and known[place] == key and states[place] == state:
            return int(contents[place])
        content = short_hash(hash_now(file))
        self.note(path, state, content)
        return content

    def save(self) -> None:
        """Write what is new, whole or not at all; that it cannot be written is no fault."""
        self._pack()
        if not self._blocks:
            return
        # The last note of a file counts: the newest come first, and `unique` keeps the first.
        blocks = self._blocks[::-1]
        self._blocks = []
        columns = [np.concatenate([*(b[::-1, i] for b in blocks), self._known[i]]) for i in range(3)]
        del blocks
        keys, order = np.unique(columns[0], return_index=True)
        self._known = [keys, columns[1][order], columns[2][order]]
        try:
            write_table(self._path, pa.table(dict(zip(_COLUMNS, self._known, strict=True))))
        except CfpairsError:
            return
