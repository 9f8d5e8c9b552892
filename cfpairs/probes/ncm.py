"""Noisy Counterfactual Matching: a probe that cannot see the top directions of pair differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from sklearn.utils.validation import check_array

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import fit_convex, row_weights
from cfpairs.probes.method import FitData, Need, ProbeMethod, Setting
from cfpairs.probes.solver import LinearFits
from cfpairs.subspace import check_rank, difference_directions

__all__ = ["NCM", "GroupNCM", "NCMClassifier"]


class NCMClassifier(LinearProbe):
    """Logistic regression whose weights are orthogonal to the top-r pair difference directions.

    Parameters
    ----------
    r : int, default=0
        How many directions are removed; 0 is ERM and needs no pairs.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        Weigh rows, classes, or label x environment groups equally (``group`` needs ``env`` in `fit`), or
        every class as the mapping says.
    tol : float, default=1e-10
        Gradient norm within the constraint at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    directions_ : ndarray of shape (d, r)
        Q_r: orthonormal, the top right singular vectors of the differences.
    singular_values_ : ndarray
        All singular values of the differences; empty when none were given.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_ @ directions_`` is zero to 1e-10.

    See Also
    --------
    CounterfactualProjection : the projection alone.
    ERMClassifier : r = 0.

    Notes
    -----
    ``min_theta (1/n) sum_i CE(y_i, theta^T x_i + b) + ||theta||^2 / (2 C n)  s.t.  Q_r^T theta = 0``
    (equation 3 and algorithm 1 of the reference). The constraint holds in the weights themselves, so that
    predicting needs no projection. D is never centred.

    References
    ----------
    Bai, Ji, Zhou, Inouye (2025). From Invariant Representations to Invariant Data: Provable Robustness to
    Spurious Correlations via Noisy Counterfactual Matching.

    Examples
    --------
    >>> X = np.array([[-1.0, -9.0], [1.0, 9.0]])
    >>> probe = NCMClassifier(r=1).fit(X, [0, 1], differences=[[0.0, 2.0]])
    >>> probe.predict([[1.0, -9.0]])
    array([1])
    """

    def __init__(
        self,
        r: int = 0,
        C: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.r = r
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, differences: Any = None, env: Any = None
    ) -> NCMClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        differences : array-like of shape (k, d)
            D: one row a pair, a minus b, in the same preprocessing as X. Needed when r > 0.
        env : array-like of shape (n,), optional
            Environments; used by ``class_weight="group"`` only.

        Raises
        ------
        DataError
            If r > 0 without differences, r is over their rank, or they have another dimension than X.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        r = check_rank(self.r)
        d = rows.shape[1]
        if differences is None:
            if r:
                raise DataError(
                    "NCM needs pair differences", got=f"r = {r} and none", remedy="pass differences=D to fit"
                )
            self.singular_values_, self.directions_ = np.zeros(0), np.zeros((d, 0))
        else:
            D = check_array(differences, dtype=np.float64, input_name="differences")
            if D.shape[1] != d:
                raise DataError("differences have another dimension than X", got=D.shape[1], expected=d)
            found = difference_directions(D)
            self.singular_values_ = found.singular_values
            self.directions_ = found.top(r).copy()
        self._solve(rows, index, weight, self.directions_)
        return self


class NCM(ProbeMethod):
    """``ncm``: logistic regression orthogonal to the top-r directions of the pair differences."""

    name: ClassVar[str] = "ncm"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    ranks: ClassVar[bool] = True
    weights: ClassVar[str] = "none"

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every rank and ridge at once; all ranks share one basis."""
        Q = None if data.directions is None else data.directions.vectors
        return fit_convex(data, settings, Q=Q, weight=row_weights(data, self.weights), start=start, tol=tol)


class GroupNCM(NCM):
    """``ncm-group``: the same with the same say to every label x environment group; uses group labels."""

    name: ClassVar[str] = "ncm-group"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs", "env"})
    weights: ClassVar[str] = "group"
