"""MatchDG's second stage: pairs should get the same logits, in every direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import check_differences, check_number, fit_convex, one_fit
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Setting, Value
from cfpairs.probes.solver import Penalty
from cfpairs.subspace import difference_directions

__all__ = ["MatchDG", "MatchDGClassifier"]


class MatchDGClassifier(LinearProbe):
    """Logistic regression with a penalty on the change of the logits over pairs.

    Parameters
    ----------
    strength : float, default=1.0
        Lambda; 0 is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    tol : float, default=1e-10
        Gradient norm at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`.

    See Also
    --------
    NCMClassifier : forbids the top directions only, so that noise in the pairs costs less of the label.

    Notes
    -----
    ``(1/n) sum_i CE(y_i, z_i) + ||theta||^2 / (2 C n) + (lambda/k) sum_j ||theta^T (a_j - b_j)||^2``, the
    second stage of MatchDG with the logits as the representation that is matched. Looks at training labels
    and at pairs; at no environment.

    References
    ----------
    Mahajan, Tople, Sharma (2021). Domain Generalization using Causal Matching. ICML.

    Examples
    --------
    >>> import numpy as np
    >>> X, D = np.array([[-1.0, -9.0], [1.0, 9.0]]), np.array([[0.0, 2.0]])
    >>> MatchDGClassifier(strength=100.0).fit(X, [0, 1], differences=D).predict([[1.0, -0.1]])
    array([1])
    """

    def __init__(
        self,
        strength: float = 1.0,
        C: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.strength = strength
        self.C = C
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, differences: Any = None, env: Any = None
    ) -> MatchDGClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        sample_weight : array-like of shape (n,), optional
        differences : array-like of shape (k, d), optional
            D: one row a pair, a minus b, in the same preprocessing as X. Without them, this is ERM.
        env : array-like of shape (n,), optional
            Environments; used by ``class_weight="group"`` only.

        Raises
        ------
        DataError
            If the differences have another dimension than X, or the strength is negative.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        strength, d = check_number(self.strength, "strength"), rows.shape[1]
        D = np.zeros((0, d)) if differences is None else check_differences(differences, d)
        data, axes = one_fit(rows, index, len(self.classes_), differences=D, weight=weight)
        penalty = matching_penalty(data, [strength])
        setting = [Setting("matchdg", 0, float(self.C))]
        fits = fit_convex(data, setting, penalty=penalty, weight=weight, tol=self.tol, max_iter=self.max_iter)
        self._take(fits, axes, None)
        return self


def matching_penalty(data: FitData, strength: Sequence[float]) -> Penalty:
    """``(strength / k) ||D theta||^2``, by at most min(k, d) rows: the singular directions of D."""
    known = data.cache.get("matchdg")
    if known is None:
        found = difference_directions(np.asarray(data.differences, np.float64))
        scale = found.singular_values[: found.vectors.shape[1]] / np.sqrt(max(found.n_pairs, 1))
        known = data.cache["matchdg"] = scale[:, None] * found.vectors.T
    return Penalty(known, np.asarray(strength, np.float64), np.full(len(strength), len(known)))


class MatchDG(ProbeMethod):
    """``matchdg``: a penalty on the change of the logits over pairs, in all directions.

    The strengths surround those that the paper tries.
    """

    name: ClassVar[str] = "matchdg"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {"strength": (0.01, 0.1, 1.0, 10.0, 100.0)}

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every strength and ridge at once."""
        if data.differences is None:
            raise DataError("matchdg needs pair differences", got="none", remedy="pass differences=D")
        penalty = matching_penalty(data, [s.number("strength") for s in settings])
        return fit_convex(data, settings, penalty=penalty, weight=data.weight, start=start, tol=tol)
