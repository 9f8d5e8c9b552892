"""What all linear probes have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from cfpairs.errors import DataError
from cfpairs.metrics import Groups
from cfpairs.probes.fits import LinearFits, decide
from cfpairs.probes.solver import fit_logistic, principal_axes

__all__ = ["LinearProbe", "balancing_weights", "encode_labels"]

Array = NDArray[np.float64]
ClassWeight = Mapping[Any, float] | str | None


def encode_labels(y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Sorted classes and the class index of every row.

    Raises
    ------
    DataError
        If fewer than two classes are present.
    """
    check_classification_targets(y)
    classes, index = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            "a probe cannot be fitted to one class",
            got=f"only label {classes[0]!r} in {len(y)} rows" if len(classes) else "no row",
            expected="at least two classes",
        )
    return classes, np.asarray(index, np.int64)


def balancing_weights(
    labels: NDArray[Any], env: NDArray[Any] | None, class_weight: ClassWeight
) -> Array | None:
    """Sample weights that a ``class_weight`` stands for.

    Parameters
    ----------
    labels : ndarray of shape (n,)
    env : ndarray of shape (n,) or None
        Environment of every row; needed for ``group``.
    class_weight : {None, "balanced", "group"} or mapping of label to float
        Equal weight of rows, of classes, of the label x environment groups that have rows; or given.

    Raises
    ------
    DataError
        If `class_weight` is unknown, or ``group`` without `env`.
    """
    if class_weight is None:
        return None
    if class_weight == "group":
        if env is None:
            raise DataError("class_weight='group' needs the environments", remedy="pass env=... to fit")
        codes = Groups(np.unique(labels), np.unique(env)).codes(labels, env)
        return np.asarray(compute_sample_weight("balanced", codes))
    if class_weight != "balanced" and not isinstance(class_weight, Mapping):
        raise DataError(
            "class_weight is unknown",
            got=repr(class_weight),
            expected="None, 'balanced', 'group' or a mapping of label to weight",
        )
    return np.asarray(compute_sample_weight(class_weight, labels))


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Base of the probes: linear logits, prediction, and the shared fit.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (1 or n_classes, d)
    intercept_ : ndarray of shape (1 or n_classes,)
    n_iter_ : int
    n_features_in_ : int
    """

    classes_: NDArray[Any]
    coef_: Array
    intercept_: Array
    n_iter_: int
    C: float
    class_weight: ClassWeight
    tol: float
    max_iter: int

    def __init__(
        self,
        C: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def _start(
        self, X: Any, y: Any, sample_weight: Any, env: Any
    ) -> tuple[Array, NDArray[np.int64], Array | None]:
        """Checked rows, class indices and weights; fills `classes_`."""
        rows, labels = validate_data(self, X, y, dtype=np.float64)
        self.classes_, index = encode_labels(labels)
        environments = None if env is None else np.asarray(env)
        if environments is not None and len(environments) != len(rows):
            raise DataError("env has another length than X", got=len(environments), expected=len(rows))
        if not isinstance(self.C, (int, float, np.number)) or not 0 < self.C < np.inf:
            raise DataError("C cannot be used", got=repr(self.C), expected="a positive number")
        weight = balancing_weights(labels, environments, self.class_weight)
        if sample_weight is not None:
            given = _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)
            weight = given if weight is None else weight * given
        return rows, index, weight

    def _solve(self, rows: Array, index: NDArray[np.int64], weight: Array | None, Q: Array | None) -> None:
        axes: Array = principal_axes(rows)
        turned = None if Q is None else axes.T @ Q
        fits = fit_logistic(
            rows @ axes,
            index,
            len(self.classes_),
            np.array([self.C]),
            ranks=None if Q is None else np.array([Q.shape[1]]),
            Q=turned,
            sample_weight=weight,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        self._take(fits, axes, Q)

    def _take(self, fits: LinearFits, axes: Array, Q: Array | None) -> None:
        coef: Array = fits.coef[0] @ axes.T
        if Q is not None and Q.shape[1]:
            # Turning back to the user's axes costs a rounding error; the constraint is to hold to 1e-10.
            coef -= (coef @ Q) @ Q.T
        self.coef_ = coef
        self.intercept_ = fits.intercept[0]
        self.n_iter_ = int(fits.iterations[0])

    def decision_function(self, X: Any) -> Array:
        """Logits, shape (n,) for two classes and (n, n_classes) for more."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        z: Array = rows @ self.coef_.T + self.intercept_
        return z[:, 0] if z.shape[1] == 1 else z

    def predict(self, X: Any) -> NDArray[Any]:
        """Label of every row, shape (n,)."""
        z = self.decision_function(X)
        return self.classes_[decide(z[:, None] if z.ndim == 1 else z)]

    def predict_proba(self, X: Any) -> Array:
        """Probability of every class, shape (n, n_classes)."""
        z = self.decision_function(X)
        if z.ndim == 1:
            return np.column_stack([expit(-z), expit(z)])
        return np.asarray(softmax(z, axis=1))
