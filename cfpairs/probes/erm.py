"""Empirical risk minimisation: the linear probe that knows nothing of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from cfpairs.probes.base import LinearProbe
from cfpairs.probes.convex import fit_convex, row_weights
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Setting

__all__ = ["ERM", "BalancedERM", "ERMClassifier", "GroupERM"]


class ERMClassifier(LinearProbe):
    """Logistic regression on frozen embeddings.

    Parameters
    ----------
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        Weigh rows, classes, or label x environment groups equally (``group`` needs ``env`` in `fit`), or
        every class as the mapping says.
    tol : float, default=1e-10
        Gradient norm at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    coef_ : ndarray of shape (1 or n_classes, d)
    intercept_ : ndarray of shape (1 or n_classes,)
    n_iter_ : int
    n_features_in_ : int

    See Also
    --------
    NCMClassifier : the same with the directions of pair differences removed.

    Notes
    -----
    Minimises ``(1/n) sum_i CE(y_i, z_i) + ||theta||^2 / (2 C n)``, intercept unpenalised.

    References
    ----------
    Vapnik (1991). Principles of Risk Minimization for Learning Theory.

    Examples
    --------
    >>> import numpy as np
    >>> ERMClassifier().fit(np.array([[-1.0], [1.0]]), [0, 1]).predict([[0.3]])
    array([1])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> ERMClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        env : array-like of shape (n,), optional
            Environments; used by ``class_weight="group"`` only.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        self._solve(*self._start(X, y, sample_weight, env), None)
        return self


class ERM(ProbeMethod):
    """``erm``: the same say to every row."""

    family: ClassVar[str] = "erm"
    name: ClassVar[str] = "erm"
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
        """Fit every ridge at once."""
        return fit_convex(data, settings, weight=row_weights(data, self.weights), start=start, tol=tol)


class BalancedERM(ERM):
    """``erm-balanced``: the same say to every class."""

    name: ClassVar[str] = "erm-balanced"
    weights: ClassVar[str] = "balanced"


class GroupERM(ERM):
    """``erm-group``: the same say to every label x environment group; uses group labels."""

    name: ClassVar[str] = "erm-group"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    weights: ClassVar[str] = "group"
