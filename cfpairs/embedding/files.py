"""What is known of image files, so that one that has not changed need not be read again."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cfpairs.embedding.images import hash_now
from cfpairs.errors import CfpairsError
from cfpairs.tables import replacing

__all__ = ["UNREADABLE", "FileIndex", "Keys", "file_state", "key_of", "keys_of", "short_hash"]

Keys = NDArray[np.uint64]
"""64-bit hashes. Among ten million strings the chance that any two share one is 3 in a million."""

UNREADABLE = 0
"""Stands for the content of a file that cannot be read."""

_RECENT_NS = 2_000_000_000
"""A file changed less than two seconds ago may change again without a new time of change."""

_STATE = struct.Struct("<qqq")


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
    numbers = _STATE.pack(found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    return int.from_bytes(hashlib.blake2b(numbers, digest_size=8).digest(), "little")


class FileIndex:
    """For each file its state (size and times) when it was last read, and what its bytes were.

    It only saves reading: where it is missing or out of date, files are read. It holds 24 bytes a file.

    Parameters
    ----------
    path : Path
        The NumPy file that it is kept in; it need not be there. Its rows are sorted: the key of the path, the
        state, the content.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: Keys | None = None
        self._new: list[tuple[int, int, int]] = []
        self._blocks: list[Keys] = []

    def _rows(self) -> Keys:
        """What the file has, read when it is first needed; nothing if it is no such file."""
        if self._known is None:
            self._known = np.empty((0, 3), np.uint64)
            try:
                found = np.load(self._path, allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return self._known
            if found.dtype == np.uint64 and found.ndim == 2 and found.shape[1] == 3:
                self._known = found
        return self._known

    def note(self, path: str, state: int, content: int) -> None:
        """Remember the content of a file that was read; one that cannot be recognised is not kept."""
        if state and content != UNREADABLE:
            self._new.append((key_of(path), state, content))
            if len(self._new) == 1024:
                self._pack()

    def _pack(self) -> None:
        if self._new:
            self._blocks.append(np.array(self._new, np.uint64))
            self._new = []

    def contents(self, paths: Sequence[str], files: Iterable[str]) -> Keys:
        """`short_hash` of each file as it is now; those that are not recognised are read and noted.

        Parameters
        ----------
        paths : sequence of str, length n
            The names under which they are noted.
        files : iterable of str
            The files.
        """
        known = self._rows()
        keys = keys_of(paths)
        places = np.minimum(np.searchsorted(known[:, 0], keys), max(len(known) - 1, 0))
        before = known[places] if len(known) else np.zeros((len(keys), 3), np.uint64)
        before[before[:, 0] != keys] = 0
        rows = zip(paths, files, before[:, 1].tolist(), before[:, 2].tolist(), strict=True)
        return np.array([self._content(*row) for row in rows], np.uint64)

    def _content(self, path: str, file: str, state_before: int, content_before: int) -> int:
        try:
            status = os.stat(file)
        except (OSError, ValueError):
            return UNREADABLE
        if not stat.S_ISREG(status.st_mode):
            return UNREADABLE
        state = file_state(status)
        if state and state == state_before:
            return content_before
        content = short_hash(hash_now(Path(file)))
        self.note(path, state, content)
        return content

    def save(self) -> None:
        """Write what is new, whole or not at all; that it cannot be written is no fault."""
        self._pack()
        if not self._blocks:
            return
        blocks, self._blocks = [self._rows(), *self._blocks], []
        self._known = None
        rows = np.concatenate(blocks)
        del blocks
        order = np.argsort(rows[:, 0], kind="stable")
        newest = np.append(rows[order[1:], 0] != rows[order[:-1], 0], True)
        self._known = rows[order[newest]]
        try:
            with replacing(self._path) as temporary, temporary.open("wb") as handle:
                np.save(handle, self._known)
        except CfpairsError:
            return
