"""LEACE: the environment erased from the embeddings, changing them least; then logistic regression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
import torch
from numpy.typing import NDArray

from cfpairs.probes.base import LinearProbe
from cfpairs.probes.convex import fit_convex, one_fit
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Rows, Setting

with warnings.catch_warnings():
    # The package compiles a function that is not used here by a deprecated way of torch.
    warnings.simplefilter("ignore")
    from concept_erasure import LeaceFitter

__all__ = ["LEACE", "LEACEClassifier", "leace_eraser"]

Array = NDArray[np.float64]

TOLERANCE = 1e-6
"""Whitened cross-covariances under this are rounding; the largest possible is 1/2 for two environments."""

SINGULAR = 1e-12
"""Share of the largest pivot of a covariance under which the smallest may be rounding."""


class LEACEClassifier(LinearProbe):
    """Logistic regression on embeddings from which no linear probe can tell the environment.

    Parameters
    ----------
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention; the ridge is on weights of the erased embeddings.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    tol : float, default=1e-10
        Gradient norm at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    eraser_ : tuple of ndarray, shapes (d, m), (m, d), (d,)
        L, R and the mean: an embedding x becomes ``x - L R (x - mean)``.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`, with the eraser folded in: predicting needs no erasing.

    See Also
    --------
    MeanDifferenceClassifier : removes the same information by an orthogonal projection.

    Notes
    -----
    ``r(x) = x - W^+ P W (x - E x)`` with ``W = (S_xx^{1/2})^+`` and P the orthogonal projection onto the
    columns of ``W S_xz``, z the environment as indicators (theorem 4.3 of the reference), by its authors'
    package, without the shrinkage and the bound on the trace that it offers beside the equation. Looks at
    training labels and environments. Rows of weight 0 are left out; other weights do not change the eraser.

    References
    ----------
    Belrose, Schneider-Joseph, Ravfogel, Cotterell, Raff, Biderman (2023). LEACE: Perfect Linear Concept
    Erasure in Closed Form. NeurIPS.

    Examples
    --------
    >>> X = [[-1.0, 0.0], [1.0, 0.1], [-1.1, 9.0], [1.0, 9.2]]
    >>> probe = LEACEClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1])
    >>> probe.predict([[1.0, 0.0], [1.0, 9.0], [-1.0, 9.0]]).tolist()
    [1, 1, 0]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> LEACEClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        env : array-like of shape (n,), optional
            Environments. Without them, this is ERM.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        data, axes = one_fit(rows, index, len(self.classes_), env=env, weight=weight)
        fits = fit_erased(data, [Setting("leace", 0, float(self.C))], tol=self.tol, max_iter=self.max_iter)
        left, right, mean = leace_eraser(data)
        self.eraser_ = (axes @ left, right @ axes.T, axes @ mean)
        self._take(fits, axes, None)
        return self


def leace_eraser(data: FitData) -> tuple[Array, Array, Array]:
    """L (d, m), R (m, d) and the mean (d,): LEACE makes ``x - L R (x - mean)`` of an embedding x.

    With one environment, there is nothing to erase and m is 0.
    """
    known = data.cache.get("leace")
    if known is not None:
        left, right, mean = known
        return left, right, mean
    kept = np.ones(len(data.rows), np.bool_) if data.weight is None else np.asarray(data.weight) > 0
    rows = np.asarray(data.rows.X[kept], np.float64)
    present, env = np.unique(data.rows.env[kept], return_inverse=True)
    d = rows.shape[1]
    if len(present) < 2:
        found = (np.zeros((d, 0)), np.zeros((0, d)), rows.mean(axis=0))
    else:
        indicator = np.eye(len(present))[env.reshape(-1)]
        quick = _two_environments(rows, indicator[:, 1]) if len(present) == 2 else None
        if quick is not None:
            data.cache["leace"] = quick
            return quick
        fitter = LeaceFitter(
            d,
            len(present),
            dtype=torch.float64,
            shrinkage=False,
            constrain_cov_trace=False,
            svd_tol=TOLERANCE,
        )
        eraser = fitter.update(torch.from_numpy(rows), torch.from_numpy(indicator)).eraser
        found = (eraser.proj_left.numpy(), eraser.proj_right.numpy(), fitter.mean_x.numpy())
    data.cache["leace"] = found
    return found


def _two_environments(rows: Array, second: Array) -> tuple[Array, Array, Array] | None:
    """LEACE of a single binary concept: ``L = s``, ``R = s^T S^+ / (s^T S^+ s)``, s the cross-covariance.

    One solution with S, the covariance, in place of its eigenvectors; where rows are no more than columns,
    with their Gram matrix: ``S^+ s = C^T (C C^T)^+ z``, C the centred rows, z the concept. None where either
    is nearly singular, or where there is next to nothing to erase: the general way has a rule for those.
    """
    n, d = rows.shape
    mean = rows.mean(axis=0)
    centred, concept = rows - mean, second - second.mean()
    s = centred.T @ concept / n
    moment = centred.T @ centred / n if n > d else centred @ centred.T
    if n <= d:
        # The rows' sum is zero; this makes the matrix regular and leaves what is orthogonal to ones alone.
        moment += np.trace(moment) / n**2
    try:
        factor = np.linalg.cholesky(moment)
    except np.linalg.LinAlgError:
        return None
    pivots = np.diag(factor)
    solved = scipy.linalg.cho_solve((factor, True), s if n > d else concept)
    right = solved if n > d else centred.T @ solved
    length = float(s @ right)
    if (pivots.min() / pivots.max()) ** 2 < SINGULAR or length < (10 * TOLERANCE) ** 2:
        return None
    return s[:, None], right[None, :] / length, mean


def fit_erased(
    data: FitData,
    settings: Sequence[Setting],
    *,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> LinearFits:
    """Logistic regression on the erased rows, with the eraser folded into the weights."""
    left, right, mean = leace_eraser(data)
    X = data.rows.X
    erased = X - ((X - mean) @ right.T @ left.T).astype(X.dtype)
    own = FitData(Rows(erased, data.rows.y, data.rows.env), data.n_classes, data.n_env, weight=data.weight)
    fits = fit_convex(own, settings, weight=data.weight, start=start, tol=tol, max_iter=max_iter)
    seen = (fits.coef @ left) @ right
    return LinearFits(fits.coef - seen, fits.intercept + seen @ mean, fits.gradient_norm, fits.iterations)


class LEACE(ProbeMethod):
    """``leace``: the environment erased linearly, then logistic regression; uses environments."""

    family: ClassVar[str] = "erm"
    name: ClassVar[str] = "leace"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every ridge at once."""
        return fit_erased(data, settings, start=start, tol=tol)
