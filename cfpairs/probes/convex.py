"""Fits of convex methods: logistic regression with weights on rows and directions taken away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.probes.method import FitData, Setting
from cfpairs.probes.solver import LinearFits, fit_logistic

__all__ = ["fit_convex", "row_weights"]

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
    weight: Array | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
) -> LinearFits:
    """Fit every setting on the same rows, orthogonal to the first ``setting.r`` columns of `Q`.

    Parameters
    ----------
    data : FitData
    settings : sequence of Setting
    Q : ndarray of shape (d, m), optional
        Orthonormal columns; a rank over m stands for all of them.
    weight : ndarray of shape (n,), optional
        Weights of the rows.
    start : LinearFits, optional
    tol : float
        Gradient norm at which a fit stops.
    """
    most = 0 if Q is None else Q.shape[1]
    return fit_logistic(
        data.rows.X,
        data.rows.y,
        data.n_classes,
        np.array([s.C for s in settings]),
        ranks=np.array([min(s.r, most) for s in settings]),
        Q=Q,
        sample_weight=weight,
        start=start,
        tol=tol,
        max_iter=MAX_ITER,
    )
