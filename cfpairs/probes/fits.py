"""Fitted linear probes, many at once: their weights, and what they say of embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearFits", "decide"]

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class LinearFits:
    """Solutions, one row a fit.

    Attributes
    ----------
    coef : ndarray of shape (f, c, d)
        c is 1 for two classes.
    intercept : ndarray of shape (f, c)
    gradient_norm : ndarray of shape (f,)
        Euclidean norm of the gradient within the constraint, intercept included.
    iterations : ndarray of shape (f,)
    """

    coef: Array
    intercept: Array
    gradient_norm: Array
    iterations: NDArray[np.int64]

    def take(self, fits: Sequence[int] | NDArray[np.int64]) -> LinearFits:
        """Some of the fits, in the given order."""
        of = np.asarray(fits, np.int64)
        return LinearFits(self.coef[of], self.intercept[of], self.gradient_norm[of], self.iterations[of])

    @classmethod
    def join(cls, parts: Sequence[LinearFits]) -> LinearFits:
        """The fits of several batches, one after the other."""
        return cls(
            np.concatenate([part.coef for part in parts]),
            np.concatenate([part.intercept for part in parts]),
            np.concatenate([part.gradient_norm for part in parts]),
            np.concatenate([part.iterations for part in parts]),
        )

    def logits(self, X: NDArray[Any]) -> Array:
        """Logits of every fit, shape (n, f, c)."""
        f, c, d = self.coef.shape
        z: Array = X @ self.coef.reshape(f * c, d).T
        return z.reshape(len(X), f, c) + self.intercept

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """Class index predicted by every fit, shape (n, f)."""
        return decide(self.logits(X))


def decide(logits: Array) -> NDArray[np.int64]:
    """Class index of logits whose last axis is the class; one logit means class 1 when positive."""
    if logits.shape[-1] == 1:
        return np.asarray(logits[..., 0] > 0, np.int64)
    return np.asarray(logits.argmax(axis=-1), np.int64)
