"""One preprocessing of embeddings, recorded and the same for every probe."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import PreprocessConfig
from cfpairs.errors import DataError
from cfpairs.vectors import Embeddings

__all__ = ["Preprocessor"]

Array = NDArray[np.float64]


@dataclass
class Preprocessor:
    """Normalise, scale and standardise embeddings, always in float64.

    Parameters
    ----------
    config : PreprocessConfig
        ``normalize`` (``l2``: unit length), then ``scale`` (``sqrt_d``: times the square root of the
        dimension, so that a coordinate has a size of about one), then ``standardize`` (``train``: mean and
        standard deviation of the rows given to `fit`).

    Examples
    --------
    >>> X = Preprocessor(PreprocessConfig()).fit_transform(np.array([[3.0, 4.0]]))
    >>> X.round(3)
    array([[0.849, 1.131]])
    """

    config: PreprocessConfig
    mean_: Array | None = field(default=None, init=False)
    scale_: Array | None = field(default=None, init=False)

    def fit(self, X: NDArray[Any]) -> Preprocessor:
        """Learn mean and scale from the training rows, shape (n, d)."""
        if self.config.standardize == "train":
            rows = self._normalized(X)
            self.mean_ = rows.mean(axis=0)
            deviation = rows.std(axis=0)
            self.scale_ = np.where(deviation > 0, deviation, 1.0)
        return self

    def transform(self, X: NDArray[Any]) -> Array:
        """Preprocessed rows, shape (n, d).

        Raises
        ------
        DataError
            If a value is not finite, or a row that is to be normalised is zero.
        """
        rows = self._normalized(X)
        if self.mean_ is not None and self.scale_ is not None:
            rows = (rows - self.mean_) / self.scale_
        return rows

    def fit_transform(self, X: NDArray[Any]) -> Array:
        """`fit`, then `transform` the same rows."""
        return self.fit(X).transform(X)

    def transform_embeddings(self, embeddings: Embeddings) -> Embeddings:
        """The same items with preprocessed vectors."""
        return Embeddings(embeddings.item_ids, self.transform(embeddings.matrix), embeddings.metadata)

    def _normalized(self, X: NDArray[Any]) -> Array:
        rows = np.array(X, dtype=np.float64)
        if not np.isfinite(rows).all():
            bad = int((~np.isfinite(rows).all(axis=1)).sum())
            raise DataError(
                "embeddings hold values that are not finite",
                got=f"{bad} of {len(rows)} rows",
                remedy="embed those items again, or drop them",
            )
        if self.config.normalize == "l2":
            length = np.linalg.norm(rows, axis=1, keepdims=True)
            if rows.size and not length.all():
                raise DataError(
                    "an embedding is all zero and cannot be normalised",
                    got=f"{int((length == 0).sum())} such rows",
                    remedy="drop the items, or set preprocess.normalize to none",
                )
            rows /= length
        if self.config.scale == "sqrt_d":
            rows *= np.sqrt(rows.shape[1])
        return rows
