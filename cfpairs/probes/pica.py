"""Principal invariant components: directions whose variance is the same in every environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import check_number, fit_convex, one_fit
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Rows, Setting, Value

__all__ = ["PICA", "PICAClassifier", "PICAProjection", "invariant_components"]

Array = NDArray[np.floating[Any]]


def invariant_components(
    spectrum: tuple[Array, Array, Array], tol: float, components: int | None
) -> tuple[Array, int]:
    """Algorithm 1 of the paper, given the `environment_spectrum`.

    Parameters
    ----------
    spectrum : tuple of ndarray
    tol : float
        A direction is invariant where environments differ by at most this share of their largest difference.
    components : int or None
        Keep at most so many, by falling variance; None: all.

    Returns
    -------
    U : ndarray of shape (d, m)
        Orthonormal columns.
    dimension : int
        Of the invariant space.
    """
    values, vectors, total = spectrum
    # By rising values: the invariant space of every tolerance is spanned by leading vectors.
    dimension = int((values <= tol * values.max(initial=0.0)).sum())
    invariant = vectors[:, :dimension]
    kept = dimension if components is None else min(components, dimension)
    if not kept:
        return invariant[:, :0], dimension
    inside = total[:dimension, :dimension]
    _, found = scipy.linalg.eigh(inside, subset_by_index=(dimension - kept, dimension - 1))
    U: Array = invariant @ found[:, ::-1]
    return U, dimension


def environment_spectrum(X: Array, env: NDArray[np.int64], n_env: int) -> tuple[Array, Array, Array]:
    """How much the environments' covariances differ along every direction.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    env : ndarray of int, shape (n,)
        0..n_env-1. Environments of one row have no covariance and are left out.
    n_env : int

    Returns
    -------
    values : ndarray of shape (d,)
        Singular values of all pairwise differences of covariances, stacked; ascending.
    vectors : ndarray of shape (d, d)
        Their right singular vectors.
    total : ndarray of shape (d, d)
        Sum of the covariances, in the axes of those vectors.

    Notes
    -----
    The stacked differences M have ``M^T M = sum_{a<b} (S_a - S_b)^2 = E sum_a (S_a - S)^2``, S the mean: the
    cost grows with the number of environments, not of their pairs. Two environments need no squaring.
    """
    d = X.shape[1]
    parts = []
    for e in range(n_env):
        rows = X[env == e]
        if len(rows) > 1:
            centred = rows - rows.mean(axis=0)
            parts.append(centred.T @ centred / (len(rows) - 1))
    if not parts:
        return np.zeros(d), np.eye(d), np.eye(d)
    total = np.asarray(sum(parts))
    if len(parts) == 1:
        return np.zeros(d), np.eye(d, dtype=total.dtype), total
    if len(parts) == 2:
        values, vectors = scipy.linalg.eigh(parts[0] - parts[1], driver="evd")
        order = np.argsort(np.abs(values), kind="stable")
        values, vectors = np.abs(values)[order], np.ascontiguousarray(vectors[:, order])
        return values, vectors, vectors.T @ total @ vectors
    mean, squares = total / len(parts), np.zeros_like(total)
    for part in parts:
        squares += (part - mean) @ (part - mean)
    values, vectors = scipy.linalg.eigh(squares * len(parts), driver="evd")
    return np.sqrt(np.maximum(values, 0.0)), vectors, vectors.T @ total @ vectors


class PICAProjection(TransformerMixin, BaseEstimator):
    """Principal invariant component analysis.

    Parameters
    ----------
    n_components : int, optional
        Keep at most so many components; all that are invariant by default.
    tol : float, default=0.05
        Along an invariant direction the covariances differ by at most this share of their largest difference.

    Attributes
    ----------
    components_ : ndarray of shape (m, d)
        Orthonormal rows, by falling variance.
    mean_ : ndarray of shape (d,)
        Of all rows.
    invariant_dimension_ : int
        Dimension of the invariant space, of which the components are the first.
    n_features_in_ : int

    See Also
    --------
    PICAClassifier : logistic regression on the components.

    Notes
    -----
    ``max_U sum_e tr(U^T S_e U)  s.t.  U^T U = I,  (S_a - S_b) U = 0`` for all environments a and b, S_e the
    covariance of the rows of e about their own mean: eigenvectors of ``S_1 - S_2`` whose eigenvalue is 0
    (in absolute value: a large negative one is environmental too), more environments by the singular vectors
    of all differences stacked; inside that space the top eigenvectors of the sum. Needs no labels.

    References
    ----------
    Norman, Meir (2025). Unsupervised Invariant Risk Minimization, section 3 and appendix A.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> env = np.repeat([0, 1], 500)
    >>> X = rng.normal(size=(1000, 2)) * np.where(env == 0, 3.0, 1.0)[:, None] ** [0, 1]
    >>> abs(PICAProjection(n_components=1).fit(X, env=env).components_).round(1).tolist()
    [[1.0, 0.0]]
    """

    def __init__(self, n_components: int | None = None, *, tol: float = 0.05) -> None:
        self.n_components = n_components
        self.tol = tol

    def fit(self, X: Any, y: Any = None, *, env: Any = None) -> PICAProjection:
        """Find the components.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : ignored
        env : array-like of shape (n,), optional
            Environments. Without them, this is principal component analysis.

        Raises
        ------
        DataError
            If a parameter cannot be used, or `env` has another length than `X`.
        """
        rows = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        components, tol = check_components(self.n_components), check_number(self.tol, "tol")
        names, code = np.unique(np.zeros(len(rows)) if env is None else np.asarray(env), return_inverse=True)
        if len(code) != len(rows):
            raise DataError("env has another length than X", got=len(code), expected=len(rows))
        spectrum = environment_spectrum(rows, np.asarray(code, np.int64).reshape(-1), len(names))
        U, self.invariant_dimension_ = invariant_components(spectrum, tol, components)
        largest = np.abs(U).argmax(axis=0)
        self.components_ = (U * np.sign(U[largest, np.arange(U.shape[1])])).T
        self.mean_ = rows.mean(axis=0)
        return self

    def transform(self, X: Any) -> NDArray[np.float64]:
        """Coordinates along the components, shape (n, m)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        z: NDArray[np.float64] = (rows - self.mean_) @ self.components_.T
        return z


def check_components(value: Any) -> int | None:
    """A number of components, or None for all.

    Raises
    ------
    DataError
        If it is no whole number of 1 or more.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise DataError(
            "n_components cannot be used", got=repr(value), expected="a whole number of 1 or more, or None"
        )
    return int(value)


class PICAClassifier(LinearProbe):
    """Logistic regression on the principal invariant components.

    Parameters
    ----------
    n_components : int, optional
        Keep at most so many components; all that are invariant by default.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    invariance_tol : float, default=0.05
        As `tol` of `PICAProjection`.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    tol : float, default=1e-10
        Gradient norm at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    components_ : ndarray of shape (m, d)
        As of `PICAProjection`; ``coef_`` is a combination of its rows.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    Notes
    -----
    ``min (1/n) sum_i CE(y_i, W^T U^T x_i + b) + ||W||^2 / (2 C n)``, U from `PICAProjection`; theta = U W.
    Looks at training labels and environments.

    References
    ----------
    Norman, Meir (2025). Unsupervised Invariant Risk Minimization.

    Examples
    --------
    >>> PICAClassifier().fit([[-1.0], [-2.0], [1.0], [2.0]], [0, 0, 1, 1]).predict([[3.0]])
    array([1])
    """

    def __init__(
        self,
        n_components: int | None = None,
        C: float = 1.0,
        *,
        invariance_tol: float = 0.05,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.n_components = n_components
        self.C = C
        self.invariance_tol = invariance_tol
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> PICAClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
            Rows of weight 0 are left out of the covariances; other weights do not change the components.
        env : array-like of shape (n,), optional
            Environments. Without them, all components are invariant and this is ERM on the first.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        data, axes = one_fit(rows, index, len(self.classes_), env=env, weight=weight)
        components = check_components(self.n_components)
        invariance = check_number(self.invariance_tol, "invariance_tol")
        setting = Setting("pica", 0, float(self.C), (("components", components or 0), ("tol", invariance)))
        fits = fit_pica(data, [setting], tol=self.tol, max_iter=self.max_iter)
        U, _ = invariant_components(_spectrum(data), invariance, components)
        self.components_ = (axes @ U).T
        self._take(fits, axes, None)
        return self


def _spectrum(data: FitData) -> tuple[Array, Array, Array]:
    known = data.cache.get("pica")
    if known is None:
        kept = np.ones(len(data.rows), np.bool_) if data.weight is None else np.asarray(data.weight) > 0
        known = environment_spectrum(data.rows.X[kept], data.rows.env[kept], data.n_env)
        data.cache["pica"] = known
    values, vectors, total = known
    return values, vectors, total


def fit_pica(
    data: FitData,
    settings: Sequence[Setting],
    *,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> LinearFits:
    """Fit every setting; those that share their components are one batch."""
    order: list[int] = []
    parts: list[LinearFits] = []
    for invariance in sorted({s.number("tol") for s in settings}):
        of_tol = [i for i, s in enumerate(settings) if s.number("tol") == invariance]
        counts = [int(settings[i].number("components")) for i in of_tol]
        U, dimension = invariant_components(_spectrum(data), invariance, max(counts) if all(counts) else None)
        Z: Array = data.rows.X @ U.astype(data.rows.X.dtype)
        taken = [min(count, dimension) if count else dimension for count in counts]
        for m in sorted(set(taken)):
            of = [i for i, own in zip(of_tol, taken, strict=True) if own == m]
            rows = Rows(np.ascontiguousarray(Z[:, :m]), data.rows.y, data.rows.env)
            near = None if start is None else start.take(of)
            if near is not None:
                near = LinearFits(near.coef @ U[:, :m], near.intercept, near.gradient_norm, near.iterations)
            fits = fit_convex(
                FitData(rows, data.n_classes, data.n_env),
                [settings[i] for i in of],
                weight=data.weight,
                start=near,
                tol=tol,
                max_iter=max_iter,
            )
            coef = fits.coef @ np.asarray(U[:, :m], np.float64).T
            parts.append(LinearFits(coef, fits.intercept, fits.gradient_norm, fits.iterations))
            order += of
    return LinearFits.join(parts).take(np.argsort(order))


class PICA(ProbeMethod):
    """``pica``: principal invariant components, then logistic regression; uses environments.

    ``components`` over the dimension of the invariant space, and 0, stand for all of it.
    """

    name: ClassVar[str] = "pica"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {
        "components": (16, 64, 256),
        "tol": (0.001, 0.01, 0.1),
    }

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every setting; settings that share components are one batch."""
        return fit_pica(data, settings, start=start, tol=tol)
