"""Pair differences, their second moment, and the projection that removes their top directions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import scipy.linalg
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cfpairs.errors import DataError
from cfpairs.vectors import Embeddings

__all__ = [
    "CounterfactualProjection",
    "Directions",
    "SecondMoment",
    "difference_directions",
    "difference_matrix",
]

Array = NDArray[np.float64]


def difference_matrix(pairs: pa.Table, embeddings: Embeddings) -> Array:
    """Differences a - b of the pairs whose status is ``ok``, joined by item id.

    Parameters
    ----------
    pairs : pyarrow.Table
        Schema ``PAIRS``.
    embeddings : Embeddings
        Preprocessed, so that ``theta @ D[j]`` is the change of a logit over pair j.

    Returns
    -------
    ndarray of shape (k, d)
        Row j is ``x_a - x_b`` of the j-th such pair; never centred, because the mean is signal.

    Raises
    ------
    DataError
        If an item of a pair has no embedding.
    """
    kept = pairs.filter(pa.compute.equal(pairs["status"], "ok"))
    a = embeddings.rows(kept["a_id"].to_pylist())
    b = embeddings.rows(kept["b_id"].to_pylist())
    return np.asarray(a, np.float64) - np.asarray(b, np.float64)


@dataclass(frozen=True)
class Directions:
    """Top right singular vectors of a difference matrix.

    Attributes
    ----------
    vectors : ndarray of shape (d, m)
        Orthonormal columns, by falling singular value; in each, the entry of largest size is positive.
    singular_values : ndarray of shape (m,)
    rank : int
        Numerical rank of D: singular values over ``max(k, d) * eps`` times the largest.
    n_pairs : int
    """

    vectors: Array
    singular_values: Array
    rank: int
    n_pairs: int

    def top(self, r: int) -> Array:
        """The first `r` columns, shape (d, r).

        Raises
        ------
        DataError
            If `r` is over the rank: further directions would be arbitrary.
        """
        if r > self.rank:
            raise DataError(
                "r is over the rank of the pair differences",
                got=f"r = {r}",
                expected=f"at most {self.rank}, the rank of {self.n_pairs} pairs",
                remedy="lower r or add pairs",
            )
        return self.vectors[:, :r]

    def turned(self, axes: Array) -> Directions:
        """The same directions in other orthonormal axes, the columns of `axes` (d, d)."""
        return Directions(axes.T @ self.vectors, self.singular_values, self.rank, self.n_pairs)


def difference_directions(D: NDArray[Any], *, limit: int | None = None) -> Directions:
    """Directions of a difference matrix of shape (k, d), in float64.

    A direct SVD for k <= d; the eigendecomposition of D^T D (the second moment) above, where singular
    values under 1e-8 times the largest are lost in rounding and count as zero.

    Parameters
    ----------
    D : ndarray of shape (k, d)
    limit : int, optional
        Keep at most so many vectors; by default all up to the rank.
    """
    rows = np.asarray(D, dtype=np.float64)
    if rows.ndim != 2:
        raise DataError(
            "differences must be a matrix", got=f"shape {rows.shape}", expected="(pairs, dimensions)"
        )
    if not np.isfinite(rows).all():
        bad = int((~np.isfinite(rows).all(axis=1)).sum())
        raise DataError("pair differences are not finite", got=f"{bad} of {len(rows)} pairs")
    k, d = rows.shape
    if k == 0:
        return Directions(np.zeros((d, 0)), np.zeros(0), 0, 0)
    if k > d:
        return SecondMoment(d).update(rows).directions(limit=limit)
    # gesdd is three times as fast as gesvd; LAPACK's rare failure to converge is met by the slow one.
    try:
        _, values, rows_t = np.linalg.svd(rows, full_matrices=False)
    except np.linalg.LinAlgError:
        _, values, rows_t = scipy.linalg.svd(rows, full_matrices=False, lapack_driver="gesvd")
    cut = max(k, d) * np.finfo(np.float64).eps * values[0]
    rank = int((values > cut).sum())
    return _directions(rows_t.T, values, rank, k, limit)


def _directions(vectors: Array, values: Array, rank: int, k: int, limit: int | None) -> Directions:
    keep = rank if limit is None else min(rank, limit)
    kept = vectors[:, :keep]
    if keep:
        signs = np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(keep)])
        kept = kept * signs
    return Directions(np.ascontiguousarray(kept), values, rank, k)


@dataclass
class SecondMoment:
    """Streaming sums over pair differences; parts computed apart can be merged.

    Parameters
    ----------
    dim : int
        Number of dimensions d.

    Attributes
    ----------
    n_pairs : int
    gram : ndarray of shape (d, d)
        Sum of ``delta delta^T``.
    total : ndarray of shape (d,)
        Sum of ``delta``.
    energy : float
        Sum of ``||delta||^2``.
    """

    dim: int
    n_pairs: int = 0
    gram: Array = field(init=False, repr=False)
    total: Array = field(init=False, repr=False)
    energy: float = 0.0

    def __post_init__(self) -> None:
        self.gram = np.zeros((self.dim, self.dim))
        self.total = np.zeros(self.dim)

    @classmethod
    def of_gram(cls, gram: Array, n_pairs: int) -> SecondMoment:
        """A moment whose ``D^T D`` is known, in whatever axes; its `total` is not and stays zero."""
        moment = cls(len(gram), n_pairs, float(np.trace(gram)))
        moment.gram = np.asarray(gram, dtype=np.float64)
        return moment

    def update(self, D: NDArray[Any]) -> SecondMoment:
        """Add rows of shape (k, d)."""
        rows = np.asarray(D, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            raise DataError(
                "differences have another dimension", got=f"shape {rows.shape}", expected=f"(k, {self.dim})"
            )
        self.gram += rows.T @ rows
        self.total += rows.sum(axis=0)
        self.energy += float(np.einsum("ij,ij->", rows, rows))
        self.n_pairs += len(rows)
        return self

    def remove(self, D: NDArray[Any]) -> SecondMoment:
        """Take out rows of shape (k, d) that were added before.

        Raises
        ------
        DataError
            If these are more rows than were added.
        """
        rows = np.asarray(D, dtype=np.float64)
        if rows.ndim == 2 and len(rows) > self.n_pairs:
            raise DataError(
                "more pairs are taken out than were added", got=len(rows), expected=f"at most {self.n_pairs}"
            )
        gone = SecondMoment(self.dim).update(rows)
        self.gram -= gone.gram
        self.total -= gone.total
        self.energy -= gone.energy
        self.n_pairs -= gone.n_pairs
        return self

    def merge(self, other: SecondMoment) -> SecondMoment:
        """Add the sums of `other`."""
        if other.dim != self.dim:
            raise DataError("second moments differ in dimension", got=other.dim, expected=self.dim)
        self.gram += other.gram
        self.total += other.total
        self.energy += other.energy
        self.n_pairs += other.n_pairs
        return self

    def directions(self, *, limit: int | None = None) -> Directions:
        """Directions of the rows seen so far; squaring loses those under 1e-8 of the largest."""
        eigenvalues, vectors = np.linalg.eigh(self.gram)
        values = np.sqrt(np.clip(eigenvalues[::-1], 0.0, None))
        top = values[0] if len(values) else 0.0
        floor = np.sqrt(np.finfo(np.float64).eps * max(self.dim, 1)) * top
        rank = min(int((values > floor).sum()), self.n_pairs)
        return _directions(vectors[:, ::-1], values[: min(self.dim, self.n_pairs)], rank, self.n_pairs, limit)


class CounterfactualProjection(TransformerMixin, BaseEstimator):
    """Remove the top-r directions of pair differences from embeddings.

    Parameters
    ----------
    r : int, default=1
        Number of directions; 0 removes nothing.

    Attributes
    ----------
    directions_ : ndarray of shape (d, r)
        Orthonormal columns Q_r, the top right singular vectors of D.
    singular_values_ : ndarray of shape (min(k, d),)
        All singular values of D.
    rank_ : int
        Numerical rank of D.
    n_features_in_ : int

    See Also
    --------
    NCMClassifier : the linear probe that is orthogonal to these directions.

    Notes
    -----
    ``P = I - Q_r Q_r^T`` (Bai et al. 2025, algorithm 1). D is never centred: its mean is signal, and
    swapping a and b in any pair must change nothing.

    Examples
    --------
    >>> D = np.array([[2.0, 0.0], [-3.0, 0.0]])
    >>> CounterfactualProjection(r=1).fit(D).transform([[5.0, 7.0]])
    array([[0., 7.]])
    """

    def __init__(self, r: int = 1) -> None:
        self.r = r

    def fit(self, X: Any, y: Any = None) -> CounterfactualProjection:
        """Learn the directions.

        Parameters
        ----------
        X : array-like of shape (k, d)
            Pair differences D, one row a pair, a minus b.
        y : ignored

        Raises
        ------
        DataError
            If `r` is negative, no whole number, or over the rank of D.
        """
        D = validate_data(self, X, dtype=np.float64)
        r = check_rank(self.r)
        found = difference_directions(D)
        self.singular_values_ = found.singular_values
        self.rank_ = found.rank
        self.directions_ = found.top(r).copy()
        return self

    def transform(self, X: Any) -> Array:
        """Embeddings without the directions, shape (n, d)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        projected: Array = rows - (rows @ self.directions_) @ self.directions_.T
        return projected


def check_rank(r: object) -> int:
    """`r` as an int, if it is a whole number of 0 or more.

    Raises
    ------
    DataError
        Otherwise.
    """
    if isinstance(r, bool) or not isinstance(r, (int, np.integer)) or r < 0:
        raise DataError("r cannot be used", got=repr(r), expected="a whole number of 0 or more")
    return int(r)
