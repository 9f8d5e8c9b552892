"""What the autoencoder reads and writes: embeddings by their principal components, or small images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.pairs.edit.base import EditRejectedError
from cfpairs.pairs.edit.pixels import decode_image, read_file
from cfpairs.vectors import Embeddings

__all__ = ["LARGEST_SIDE", "ImageSpace", "Space", "VectorSpace"]

LARGEST_SIDE = 64
"""Larger images are more than two convolutions can draw."""

Array = NDArray[np.float32]


class Space(Protocol):
    """A view of items that the model can learn, and the way back."""

    def model_rows(self, rows: NDArray[np.int64]) -> Array:
        """What the model reads of these training items."""
        ...

    def result(self, row: int, moved: Array, kept: Array, keep_detail: bool) -> NDArray[np.generic]:
        """What is made of a training item.

        Parameters
        ----------
        row : int
        moved, kept : ndarray
            What the model decodes for the target environment, and for the item's own.
        keep_detail : bool
            Add their difference to the item, so that what the model cannot draw stays; else take `moved`.
        """
        ...


class VectorSpace:
    """Embeddings, seen through their first principal components at one common scale.

    Parameters
    ----------
    ids : sequence of str, length n
        Training items.
    embeddings : Embeddings
    dims : int
        Most components.

    Raises
    ------
    DataError
        If values are not finite, or all vectors are the same.
    """

    def __init__(self, ids: Sequence[str], embeddings: Embeddings, dims: int) -> None:
        self._raw = np.asarray(embeddings.rows(ids), np.float64)
        if not np.isfinite(self._raw).all():
            raise DataError("embeddings hold values that are not finite", remedy="embed those items again")
        n, d = self._raw.shape
        m = min(dims, d, n - 1)
        self._mean = self._raw.mean(axis=0)
        centred = self._raw - self._mean
        values, axes = scipy.linalg.eigh(centred.T @ centred / n, subset_by_index=(d - m, d - 1))
        largest = np.abs(axes).argmax(axis=0)
        self._axes = (axes * np.sign(axes[largest, np.arange(m)]))[:, ::-1]
        self._scale = float(np.sqrt(max(values.mean(), 0.0)))
        if not self._scale > 1e-12 * max(1.0, float(np.abs(self._raw).max())):
            raise DataError("all embeddings of the training items are the same")

    def model_rows(self, rows: NDArray[np.int64]) -> Array:
        """Principal components, shape (n, m), of variance one on average."""
        found = (self._raw[rows] - self._mean) @ self._axes / self._scale
        return np.ascontiguousarray(found, np.float32)

    def result(self, row: int, moved: Array, kept: Array, keep_detail: bool) -> Array:
        """A vector of the embedding, shape (d,)."""
        change = moved - kept if keep_detail else moved
        origin = self._raw[row] if keep_detail else self._mean
        return np.asarray(origin + self._scale * (self._axes @ change.astype(np.float64)), np.float32)


class ImageSpace:
    """Small images of one size, as channels in 0..1.

    Parameters
    ----------
    files : sequence of Path, length n
        Images of the training items.
    size : (int, int)
        Height and width that all have.

    Raises
    ------
    DataError
        If an image is larger than `LARGEST_SIDE`, or one cannot be read or has another size.
    """

    def __init__(self, files: Sequence[Path], size: tuple[int, int]) -> None:
        if max(size) > LARGEST_SIDE:
            raise DataError(
                "images are too large for the autoencoder",
                got=f"{size[1]} x {size[0]}",
                expected=f"at most {LARGEST_SIDE} x {LARGEST_SIDE}",
                remedy="set the builder's option 'space' to embedding",
            )
        self.pixels = np.empty((len(files), *size, 3), np.uint8)
        for at, file in enumerate(files):
            try:
                found = decode_image(read_file(file, "image"), "image")
            except EditRejectedError as error:
                raise DataError(f"{file}: {error}", remedy="mend or drop that item") from error
            if found.shape[:2] != size:
                raise DataError(
                    "images differ in size",
                    got=f"{found.shape[1]} x {found.shape[0]} in {file}",
                    expected=f"{size[1]} x {size[0]}",
                    remedy="set the builder's option 'space' to embedding",
                )
            self.pixels[at] = found

    def model_rows(self, rows: NDArray[np.int64]) -> Array:
        """Channels first, shape (n, 3, height, width)."""
        return np.ascontiguousarray(self.pixels[rows].transpose(0, 3, 1, 2), np.float32) / np.float32(255)

    def result(self, row: int, moved: Array, kept: Array, keep_detail: bool) -> NDArray[np.uint8]:
        """An image, shape (height, width, 3)."""
        drawn = 255.0 * (moved - kept if keep_detail else moved).transpose(1, 2, 0)
        if keep_detail:
            drawn = drawn + self.pixels[row]
        return np.asarray(np.clip(np.rint(drawn), 0, 255), np.uint8)
