"""The IDX files of MNIST and its kin: plain or gzipped, read whole and checked against what they claim.

Layout (LeCun, Cortes and Burges 1998): two zero bytes, the type of a value, the number of axes, then the
length of each axis as four bytes, largest first, then the values.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError

__all__ = ["MOST_BYTES", "PARTS", "IdxPart", "find_parts", "idx_shape", "read_idx", "read_part"]

PARTS = ("train", "t10k")
"""What the file names of the two parts begin with."""

MOST_BYTES = 2**31
"""A larger array is refused: MNIST has 47 MB, the largest of its kin (EMNIST by class) 0.6 GB."""

TYPES = {0x08: "unsigned bytes", 0x09: "signed bytes", 0x0B: "int16", 0x0C: "int32", 0x0D: "float32"} | {
    0x0E: "float64"
}
UNSIGNED = 0x08
GZIP = b"\x1f\x8b"

DEFLATE_RATIO = 1032
"""Deflate packs at most so many bytes into one."""

CHUNK = 1 << 24


@dataclass(frozen=True)
class IdxPart:
    """The two files of one part, ``train`` or ``t10k``."""

    images: Path
    labels: Path


def find_parts(root: Path) -> dict[str, IdxPart]:
    """The files of both parts in `root`, or in a folder ``raw`` below it.

    Names are those of MNIST: ``train-images-idx3-ubyte`` and so on, with a dot in place of the last but one
    hyphen, with ``.gz`` at the end, or both.

    Raises
    ------
    DataError
        If a file is missing; the message names it.
    """
    if not root.is_dir():
        raise DataError(
            "no folder of IDX files",
            got=f"no folder {root}",
            remedy="pass the folder that holds them as --root",
        )
    missing = []
    for folder in (root, root / "raw"):
        found: dict[str, IdxPart] = {}
        for part in PARTS:
            images, labels = _named(folder, part, "images", 3), _named(folder, part, "labels", 1)
            if images is None or labels is None:
                kind, axes = ("images", 3) if images is None else ("labels", 1)
                missing.append(f"{part}-{kind}-idx{axes}-ubyte")
                break
            found[part] = IdxPart(images, labels)
        else:
            return found
    raise DataError(
        f"an IDX file is missing in {root}",
        got=f"no {missing[0]}, plain or .gz",
        expected="images and labels of train and t10k, as MNIST and Fashion-MNIST name them",
    )


def _named(folder: Path, part: str, kind: str, axes: int) -> Path | None:
    names = (f"{part}-{kind}-idx{axes}-ubyte", f"{part}-{kind}.idx{axes}-ubyte")
    for name in (*names, *(f"{name}.gz" for name in names)):
        if (folder / name).is_file():
            return folder / name
    return None


def idx_shape(path: Path, axes: int) -> tuple[int, ...]:
    """The shape that a file claims, its header checked; reads no values.

    Parameters
    ----------
    path : Path
    axes : int
        How many axes it must have.

    Raises
    ------
    DataError
        If it cannot be read, is no IDX file, has another type or number of axes, an axis of length 0, or
        claims more than `MOST_BYTES`.
    """
    with _opened(path) as (file, _):
        return _read_shape(file, path, axes)


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """The values of a file of unsigned bytes.

    Returns
    -------
    ndarray of uint8
        Of the shape that the header says.

    Raises
    ------
    DataError
        As `idx_shape`, and if the file holds fewer or more values than it claims or is damaged.
    """
    with _opened(path) as (file, packed):
        shape = _read_shape(file, path, axes)
        wanted = math.prod(shape)
        if wanted > path.stat().st_size * (DEFLATE_RATIO if packed else 1):
            raise _cut_short(path, shape)
        values = bytearray()
        while len(values) < wanted and (chunk := file.read(min(CHUNK, wanted - len(values)))):
            values += chunk
        if len(values) < wanted:
            raise _cut_short(path, shape)
        if file.read(1):
            raise DataError(f"{path} holds more values than its header says", expected=_words(shape))
    return np.frombuffer(values, np.uint8).reshape(shape)


def read_part(part: IdxPart) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (n, height, width) and labels (n,) of one part.

    Raises
    ------
    DataError
        If a file cannot be used, or the two hold different numbers of items.
    """
    check_part(part)
    return read_idx(part.images, 3), read_idx(part.labels, 1)


def check_part(part: IdxPart) -> int:
    """Check the headers of one part; returns its number of items."""
    images, labels = idx_shape(part.images, 3), idx_shape(part.labels, 1)
    if images[0] != labels[0]:
        raise DataError(
            f"{part.images} and {part.labels.name} do not belong together",
            got=f"{images[0]} images, {labels[0]} labels",
            expected="a label an image",
        )
    return images[0]


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bool]]:
    """The file's content, unpacked where it is gzipped whatever its name, and whether it is."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=raw) as file:
                    yield file, True  # type: ignore[misc]  # GzipFile reads as a BinaryIO does
            else:
                yield raw, False
    except EOFError as error:
        raise DataError(f"{path} is cut short", got=error, remedy="fetch it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged", got=error, remedy="fetch it again") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read", got=error.strerror or str(error)) from error


def _read_shape(file: BinaryIO, path: Path, axes: int) -> tuple[int, ...]:
    start = file.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] not in TYPES:
        raise DataError(f"{path} is no IDX file", got=f"it begins with {start.hex() or 'nothing'}")
    if start[2] != UNSIGNED:
        raise DataError(f"{path} has values of another type", got=TYPES[start[2]], expected=TYPES[UNSIGNED])
    if start[3] != axes:
        raise DataError(f"{path} has another shape", got=_axes(start[3]), expected=_axes(axes))
    lengths = file.read(4 * axes)
    if len(lengths) < 4 * axes:
        raise DataError(f"{path} is cut short", got="a header without its lengths", remedy="fetch it again")
    shape = struct.unpack(f">{axes}I", lengths)
    if 0 in shape:
        raise DataError(f"{path} is empty", got=_words(shape))
    if math.prod(shape) > MOST_BYTES:
        raise DataError(f"{path} is too large", got=_words(shape), expected=f"at most {MOST_BYTES} bytes")
    return shape


def _cut_short(path: Path, shape: tuple[int, ...]) -> DataError:
    return DataError(
        f"{path} is cut short",
        expected=f"{_words(shape)} values, as its header says",
        remedy="fetch it again",
    )


def _axes(number: int) -> str:
    return f"{number} {'axis' if number == 1 else 'axes'}"


def _words(shape: tuple[int, ...]) -> str:
    return " x ".join(str(length) for length in shape)
