"""Noisy Counterfactual Matching: a probe that cannot see the top directions of pair differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import check_differences, check_number, fit_convex, one_fit, row_weights
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Setting, Value
from cfpairs.probes.solver import Penalty
from cfpairs.subspace import Directions, check_rank, difference_directions

__all__ = ["NCM", "GroupNCM", "NCMClassifier", "SoftNCM", "WhitenedNCM", "whitened_directions"]

Array = NDArray[np.floating[Any]]

SHRINK = 0.01
"""Share of the mean within-class variance that is added to every direction before whitening."""


class NCMClassifier(LinearProbe):
    """Logistic regression whose weights are orthogonal to the top-r pair difference directions.

    Parameters
    ----------
    r : int, default=0
        How many directions are removed; 0 is ERM and needs no pairs.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    penalty : {"hard", "soft"}, default="hard"
        Whether the directions are forbidden, or cost something.
    strength : float, default=1.0
        What they cost; unused by ``hard``.
    whiten : bool, default=False
        Whether the directions are the largest in the metric of the pooled within-class covariance of X.
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
        All singular values of the differences (with `whiten`, of the whitened ones); empty when none were
        given.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_ @ directions_`` is zero to 1e-10 where the penalty is hard.

    See Also
    --------
    CounterfactualProjection : the projection alone.
    ERMClassifier : r = 0.

    Notes
    -----
    ``min_theta (1/n) sum_i CE(y_i, theta^T x_i + b) + ||theta||^2 / (2 C n)  s.t.  Q_r^T theta = 0``
    (equation 3 and algorithm 1 of the reference). The constraint holds in the weights themselves, so that
    predicting needs no projection. D is never centred.

    The soft form has the term ``strength * sum_{i<=r} (s_i^2 / k) (q_i^T theta)^2`` instead, s the singular
    values of the k differences: the mean square over the pairs of the change of the logit along the top r
    directions. At full rank it is `MatchDGClassifier`; as the strength grows it becomes the hard form.

    With `whiten`, W = (S_w + .01 (tr S_w / d) I)^{-1/2}, S_w the pooled within-class covariance;
    ``Q_r = orth(W^-1 Q~_r)`` with Q~_r the top right singular vectors of D W: what is large in the pairs next
    to how much the embeddings vary there anyway.

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
        penalty: str = "hard",
        strength: float = 1.0,
        whiten: bool = False,
        class_weight: ClassWeight = None,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.r = r
        self.C = C
        self.penalty = penalty
        self.strength = strength
        self.whiten = whiten
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
        r, strength = check_rank(self.r), check_number(self.strength, "strength")
        if self.penalty not in ("hard", "soft"):
            raise DataError("penalty is unknown", got=repr(self.penalty), expected="'hard' or 'soft'")
        if differences is None and r:
            raise DataError(
                "NCM needs pair differences", got=f"r = {r} and none", remedy="pass differences=D to fit"
            )
        d = rows.shape[1]
        D = np.zeros((0, d)) if differences is None else check_differences(differences, d)
        data, axes = one_fit(rows, index, len(self.classes_), differences=D, weight=weight)
        if self.whiten:
            turned = whitened_directions(data)
            found = turned.turned(axes.T)
        else:
            found = difference_directions(D)
            turned = found.turned(axes)
        self.singular_values_, self.directions_ = found.singular_values, found.top(r).copy()
        hard = self.penalty == "hard"
        soft = None if hard else soft_penalty(turned, [r], [strength])
        fits = fit_convex(
            data,
            [Setting("ncm", r, float(self.C))],
            Q=turned.top(r) if hard else None,
            penalty=soft,
            weight=weight,
            tol=self.tol,
            max_iter=self.max_iter,
        )
        self._take(fits, axes, self.directions_ if hard else None)
        return self


def soft_penalty(found: Directions, ranks: Sequence[int], strength: Sequence[float]) -> Penalty:
    """The penalty of soft NCM; a rank over that of the directions stands for all of them."""
    most = found.vectors.shape[1]
    scale = found.singular_values[:most] / np.sqrt(max(found.n_pairs, 1))
    return Penalty(
        scale[:, None] * found.vectors.T, np.asarray(strength, np.float64), np.minimum(ranks, most)
    )


def whitened_directions(data: FitData) -> Directions:
    """Directions of the pair differences in the metric of the within-class covariance of the rows.

    Parameters
    ----------
    data : FitData
        With differences; where it has directions, no more are kept than it has.

    Returns
    -------
    Directions
        Orthonormal; the first r span the first r whitened directions mapped back. The singular values are
        those of the whitened differences.

    Notes
    -----
    Any factor of the covariance whitens as its square root does: they differ by a rotation, which mapping
    back undoes. So this takes the Cholesky factor L: Q~ from the SVD of D L^-T, and back by L Q~.
    """
    known = data.cache.get("ncm-whitened")
    if isinstance(known, Directions):
        return known
    rows, D = np.asarray(data.rows.X, np.float64), np.asarray(data.differences, np.float64)
    d = rows.shape[1]
    weight = np.ones(len(rows)) if data.weight is None else np.asarray(data.weight, np.float64)
    mass = np.bincount(data.rows.y, weight, minlength=data.n_classes)
    member = np.eye(data.n_classes)[data.rows.y] * weight[:, None]
    means = member.T @ rows / np.maximum(mass, np.finfo(np.float64).tiny)[:, None]
    centred = (rows - means[data.rows.y]) * np.sqrt(weight / weight.sum())[:, None]
    within = centred.T @ centred
    spread = np.trace(within) / d
    within[np.diag_indices(d)] += SHRINK * spread if spread > 0 else 1.0
    lower = np.linalg.cholesky(within)
    limit = None if data.directions is None else data.directions.vectors.shape[1]
    whitened = scipy.linalg.solve_triangular(lower, D.T, lower=True).T
    found = difference_directions(whitened, limit=limit)
    back, upper = np.linalg.qr(lower @ found.vectors)
    signs = np.where(np.diag(upper) < 0, -1.0, 1.0)
    directions = Directions(back * signs, found.singular_values, found.rank, found.n_pairs)
    data.cache["ncm-whitened"] = directions
    return directions


class NCM(ProbeMethod):
    """``ncm``: logistic regression orthogonal to the top-r directions of the pair differences."""

    family: ClassVar[str] = "ncm"
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


class SoftNCM(ProbeMethod):
    """``ncm-soft``: the top-r directions cost something instead of being forbidden.

    The strengths surround those that Mahajan et al. (2021) try for the penalty on all directions.
    """

    family: ClassVar[str] = "ncm"
    name: ClassVar[str] = "ncm-soft"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    ranks: ClassVar[bool] = True
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
        """Fit every rank and strength at once; all share one basis."""
        if data.directions is None:
            raise DataError("ncm-soft needs pair differences", got="none", remedy="pass differences=D")
        strength = [s.number("strength") for s in settings]
        penalty = soft_penalty(data.directions, [s.r for s in settings], strength)
        return fit_convex(data, settings, penalty=penalty, weight=data.weight, start=start, tol=tol)


class WhitenedNCM(ProbeMethod):
    """``ncm-whitened``: orthogonal to the directions that are largest in the within-class metric."""

    name: ClassVar[str] = "ncm-whitened"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    ranks: ClassVar[bool] = True

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
        if data.differences is None:
            raise DataError("ncm-whitened needs pair differences", got="none", remedy="pass differences=D")
        Q = whitened_directions(data).vectors
        return fit_convex(data, settings, Q=Q, weight=data.weight, start=start, tol=tol)
