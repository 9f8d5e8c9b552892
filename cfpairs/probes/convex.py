"""Fits of convex methods: logistic regression with weights on rows, constraints and penalties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_array

from cfpairs.errors import DataError
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Rows, Setting
from cfpairs.probes.solver import Penalty, fit_logistic, principal_axes

__all__ = ["check_differences", "check_number", "fit_convex", "one_fit", "row_weights"]

Array = NDArray[np.floating[Any]]

MAX_ITER = 2000


def row_weights(data: FitData, kind: str) -> Array | None:
    """Weights that give rows, classes or groups the same say.

    Parameters
    ----------
    data : FitData
    kind : {"none", "balanced", "group"}
        Every row; every class; every label x environment group that has rows. Their mean is 1 before
        ``data.weight`` multiplies them.
    """
    if kind == "none":
        return data.weight
    codes = data.rows.y if kind == "balanced" else data.rows.groups(data.n_env)
    counts = np.bincount(codes)
    present = int((counts > 0).sum())
    weight = np.asarray(len(codes) / (present * counts[codes]), np.float64)
    return weight if data.weight is None else weight * data.weight


def fit_convex(
    data: FitData,
    settings: Sequence[Setting],
    *,
    Q: Array | None = None,
    ranks: NDArray[np.int64] | None = None,
    penalty: Penalty | None = None,
    weight: Array | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = MAX_ITER,
) -> LinearFits:
    """Fit every setting on the same rows, orthogonal to the first columns of `Q`.

    Parameters
    ----------
    data : FitData
    settings : sequence of Setting
    Q : ndarray of shape (d, m), optional
        Orthonormal columns.
    ranks : ndarray of shape (f,), optional
        How many columns of `Q`; default: ``setting.r``, where a rank over m stands for all of them.
    penalty : Penalty, optional
        Beside the ridge.
    weight : ndarray of shape (n,), optional
        Weights of the rows.
    start : LinearFits, optional
    tol : float
        Gradient norm at which a fit stops.
    max_iter : int
        Most steps of a fit.
    """
    most = 0 if Q is None else Q.shape[1]
    return fit_logistic(
        data.rows.X,
        data.rows.y,
        data.n_classes,
        np.array([s.C for s in settings]),
        ranks=np.array([min(s.r, most) for s in settings]) if ranks is None else ranks,
        Q=Q,
        penalty=penalty,
        sample_weight=weight,
        start=start,
        tol=tol,
        max_iter=max_iter,
    )


def one_fit(
    X: NDArray[np.float64],
    index: NDArray[np.int64],
    n_classes: int,
    *,
    env: Any = None,
    differences: NDArray[np.float64] | None = None,
    weight: Array | None = None,
) -> tuple[FitData, NDArray[np.float64]]:
    """What an estimator hands to the function that its method fits with.

    Parameters
    ----------
    X : ndarray of shape (n, d)
    index : ndarray of int, shape (n,)
        Class indices.
    n_classes : int
    env : array-like of shape (n,), optional
        Environments; one for all by default.
    differences : ndarray of shape (k, d), optional
    weight : ndarray of shape (n,), optional

    Returns
    -------
    data : FitData
        In the principal axes of `X`.
    axes : ndarray of shape (d, d)
        Those axes.
    """
    axes = principal_axes(X)
    known, e = np.unique(np.zeros(len(X)) if env is None else np.asarray(env), return_inverse=True)
    turned = None if differences is None else differences @ axes
    rows = Rows(X @ axes, index, np.asarray(e, np.int64).reshape(-1))
    return FitData(rows, n_classes, len(known), differences=turned, weight=weight, axes=axes), axes


def check_differences(differences: Any, d: int) -> NDArray[np.float64]:
    """Pair differences as a matrix of shape (k, d).

    Raises
    ------
    DataError
        If they have another dimension. What is not a matrix of finite numbers is a ValueError, as everywhere
        in scikit-learn.
    """
    D: NDArray[np.float64] = check_array(differences, dtype=np.float64, input_name="differences")
    if D.shape[1] != d:
        raise DataError("differences have another dimension than X", got=D.shape[1], expected=d)
    return D


def check_number(value: Any, name: str, *, above: float = 0.0, strictly: bool = False) -> float:
    """A hyperparameter as a number of `above` or more.

    Raises
    ------
    DataError
        If it is none.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not number or not (value > above or (value == above and not strictly)) or not np.isfinite(value):
        expected = f"a number over {above:g}" if strictly else f"a number of {above:g} or more"
        raise DataError(f"{name} cannot be used", got=repr(value), expected=expected)
    return float(value)
