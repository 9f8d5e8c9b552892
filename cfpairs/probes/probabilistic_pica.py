"""The linear Gaussian model behind PICA: what every environment shares, and what each scales its own way."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cfpairs.errors import DataError
from cfpairs.probes.pica import check_components

__all__ = ["ProbabilisticPICA"]

Array = NDArray[np.float64]

LEAST_SPREAD = 1e-6
"""Relative variances of the environments that differ by less than this say nothing."""


class ProbabilisticPICA(TransformerMixin, BaseEstimator):
    """Probabilistic principal invariant component analysis.

    Parameters
    ----------
    n_inv, n_env : int, default=1
        Dimensions of z_inv and of z_e; the paper takes both alike.
    environment_variances : array-like of shape (E,), optional
        Variance of z_e in every environment, in ascending order of their names, up to a common factor.
        Nothing in the data tells it; by default the traces of the covariances, which is the largest shift
        that they allow.

    Attributes
    ----------
    environments_ : ndarray of shape (E,)
    means_ : ndarray of shape (E, d)
        mu_e.
    environment_variances_ : ndarray of shape (E,)
        sigma_e^2, the largest 1.
    A_inv_ : ndarray of shape (d, n_inv)
        Orthogonal columns, by falling length.
    A_env_ : ndarray of shape (d, n_env)
        Likewise.
    noise_variance_ : float
        sigma^2.
    n_features_in_ : int

    See Also
    --------
    PICAProjection : the directions alone, without a model.

    Notes
    -----
    ``x_e = mu_e + A_inv z_inv + A_env z_e + noise`` with ``z_inv ~ N(0, I)``, ``z_e ~ N(0, sigma_e^2 I)`` and
    ``noise ~ N(0, sigma^2 I)``, so that ``S_e = A_inv A_inv^T + sigma_e^2 A_env A_env^T + sigma^2 I``. The
    covariances lie on a line in sigma_e^2: its slope gives A_env, its value at 0 A_inv, both by eigenvectors,
    and sigma^2 is the mean of the d - n_inv - n_env smallest eigenvalues of the mean covariance. For two
    environments this is appendix A.3; for more the line is fitted by least squares.

    References
    ----------
    Norman, Meir (2025). Unsupervised Invariant Risk Minimization, appendix A.3.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> env = np.repeat([0, 1], 5000)
    >>> X = rng.normal(size=(10000, 3)) * [3.0, 1.0, 0.1]
    >>> X[:, 1] *= np.where(env == 0, 5.0, 1.0)
    >>> model = ProbabilisticPICA(environment_variances=[25.0, 1.0]).fit(X, env=env)
    >>> abs(model.A_inv_).round(0).ravel().tolist(), abs(model.A_env_).round(0).ravel().tolist()
    ([3.0, 0.0, 0.0], [0.0, 5.0, 0.0])
    """

    def __init__(self, n_inv: int = 1, n_env: int = 1, *, environment_variances: Any = None) -> None:
        self.n_inv = n_inv
        self.n_env = n_env
        self.environment_variances = environment_variances

    def fit(self, X: Any, y: Any = None, *, env: Any = None) -> ProbabilisticPICA:
        """Find the parameters.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : ignored
        env : array-like of shape (n,)
            Environments, two or more, each of two rows or more.

        Raises
        ------
        DataError
            If there is one environment, all have the same variance, or the dimensions do not fit.
        """
        rows: Array = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        n_inv, n_env = (check_components(value) or 1 for value in (self.n_inv, self.n_env))
        if n_inv + n_env >= rows.shape[1]:
            raise DataError(
                "the latent dimensions leave none for the noise",
                got=f"{n_inv} + {n_env} of {rows.shape[1]}",
                expected="n_inv + n_env below the number of features",
            )
        self.environments_, code = _environments(rows, env)
        of = [rows[code == e] for e in range(len(self.environments_))]
        self.means_ = np.stack([part.mean(axis=0) for part in of])
        covariances = np.stack([np.cov(part.T) for part in of])
        self.environment_variances_ = self._variances(covariances)
        centred = self.environment_variances_ - self.environment_variances_.mean()
        mean = covariances.mean(axis=0)
        slope = np.tensordot(centred, covariances, axes=1) / (centred @ centred)
        smallest = scipy.linalg.eigvalsh(mean)[: rows.shape[1] - n_inv - n_env]
        self.noise_variance_ = max(0.0, float(smallest.mean()))
        at_zero = mean - self.environment_variances_.mean() * slope
        self.A_env_ = _root(slope, n_env)
        self.A_inv_ = _root(at_zero - self.noise_variance_ * np.eye(len(mean)), n_inv)
        return self

    def _variances(self, covariances: Array) -> Array:
        given = self.environment_variances
        found = np.trace(covariances, axis1=1, axis2=2) if given is None else np.asarray(given, np.float64)
        if found.shape != (len(covariances),) or not np.isfinite(found).all() or (found < 0).any():
            raise DataError(
                "environment_variances cannot be used",
                got=np.array2string(found),
                expected=f"{len(covariances)} numbers of 0 or more",
            )
        largest = float(found.max())
        if not largest > 0 or np.ptp(found) < LEAST_SPREAD * largest:
            raise DataError(
                "the environments have the same variance, so that nothing tells z_e apart",
                got=np.array2string(found, precision=4),
                remedy="use PCA, or pass environment_variances that differ",
            )
        variances: Array = found / largest
        return variances

    def covariance(self, environment: Any) -> Array:
        """``S_e`` of the model, shape (d, d)."""
        variance = self.environment_variances_[self._index(environment)]
        d = len(self.A_inv_)
        found: Array = self.A_inv_ @ self.A_inv_.T + variance * self.A_env_ @ self.A_env_.T
        return found + self.noise_variance_ * np.eye(d)

    def sample(self, n: int, environment: Any, seed: int) -> Array:
        """Rows of an environment, shape (n, d)."""
        check_is_fitted(self)
        e, rng = self._index(environment), np.random.default_rng(seed)
        inv = rng.normal(size=(n, self.A_inv_.shape[1]))
        own = np.sqrt(self.environment_variances_[e]) * rng.normal(size=(n, self.A_env_.shape[1]))
        noise = np.sqrt(self.noise_variance_) * rng.normal(size=(n, len(self.A_inv_)))
        found: Array = self.means_[e] + inv @ self.A_inv_.T + own @ self.A_env_.T + noise
        return found

    def transform(self, X: Any, *, env: Any = None) -> Array:
        """``E[z_inv | x]``, shape (n, n_inv).

        Parameters
        ----------
        X : array-like of shape (n, d)
        env : array-like of shape (n,), optional
            Environment of each row, one of `environments_`. By default the average of mean and covariance
            over environments is taken.
        """
        check_is_fitted(self)
        rows: Array = validate_data(self, X, dtype=np.float64, reset=False)
        covariances = [self.covariance(name) for name in self.environments_]
        if env is None:
            return self._posterior(rows - self.means_.mean(axis=0), np.mean(covariances, axis=0))
        found = np.empty((len(rows), self.A_inv_.shape[1]))
        code = np.array([self._index(name) for name in np.asarray(env)])
        for e in np.unique(code):
            own = code == e
            found[own] = self._posterior(rows[own] - self.means_[e], covariances[e])
        return found

    def _posterior(self, centred: Array, covariance: Array) -> Array:
        # A little on the diagonal keeps a model without noise solvable.
        held = covariance + 1e-12 * np.trace(covariance) * np.eye(len(covariance))
        found: Array = np.linalg.solve(held, centred.T).T @ self.A_inv_
        return found

    def _index(self, environment: Any) -> int:
        check_is_fitted(self)
        places = np.flatnonzero(self.environments_ == environment)
        if not len(places):
            raise DataError(
                "no such environment", got=repr(environment), expected=", ".join(map(str, self.environments_))
            )
        return int(places[0])


def _environments(rows: Array, env: Any) -> tuple[NDArray[Any], NDArray[np.int64]]:
    if env is None or len(np.asarray(env)) != len(rows):
        got = "none" if env is None else len(np.asarray(env))
        raise DataError("environments are needed, one a row", got=got, expected=len(rows))
    names, code, counts = np.unique(np.asarray(env), return_inverse=True, return_counts=True)
    if len(names) < 2 or counts.min() < 2:
        raise DataError(
            "a covariance is needed in two environments",
            got=", ".join(f"{name}: {count} rows" for name, count in zip(names, counts, strict=True)),
            expected="two environments or more, each of two rows or more",
        )
    return names, np.asarray(code, np.int64).reshape(-1)


def _root(matrix: Array, dims: int) -> Array:
    """``U L^(1/2)`` of the largest eigenvalues, those below 0 taken for 0; the largest entry is positive."""
    d = len(matrix)
    values, vectors = scipy.linalg.eigh(matrix, subset_by_index=(d - dims, d - 1))
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.sign(vectors[largest, np.arange(dims)])
    found: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return found
