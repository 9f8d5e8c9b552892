"""Controls for NCM: other directions taken away, found without pairs or found by nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import check_number, fit_convex, one_fit
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Setting
from cfpairs.subspace import check_rank

__all__ = [
    "MeanDifference",
    "MeanDifferenceClassifier",
    "RandomProjection",
    "RandomProjectionClassifier",
    "mean_difference_directions",
    "random_directions",
]

Array = NDArray[np.float64]

NEGLIGIBLE = 1e-10
"""Differences of means under this share of the rows' norm are rounding."""


def mean_difference_directions(data: FitData) -> Array:
    """Orthonormal basis of what the environments' means differ by, shape (d, at most n_env - 1)."""
    rows = np.asarray(data.rows.X, np.float64)
    weight = np.ones(len(rows)) if data.weight is None else np.asarray(data.weight, np.float64)
    mass = np.bincount(data.rows.env, weight, minlength=data.n_env)
    member = np.eye(data.n_env)[data.rows.env] * weight[:, None]
    means = (member.T @ rows)[mass > 0] / mass[mass > 0, None]
    _, values, vectors = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    norm = np.sqrt(np.einsum("ij,ij->", rows, rows) / len(rows))
    return np.ascontiguousarray(vectors[values > NEGLIGIBLE * norm].T)


def random_directions(d: int, r: int, seed: int) -> Array:
    """The first `r` of a seed's random orthonormal directions in d dimensions, shape (d, r)."""
    drawn = np.random.default_rng([seed, d]).normal(size=(r, d)).T
    basis, _ = np.linalg.qr(drawn)
    return np.asarray(basis, np.float64)


class MeanDifferenceClassifier(LinearProbe):
    """Logistic regression that cannot see by what the environments' means differ.

    Parameters
    ----------
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    tol : float, default=1e-10
        Gradient norm within the constraint at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    directions_ : ndarray of shape (d, at most n_env - 1)
        Orthonormal.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_ @ directions_`` is zero to 1e-10.

    See Also
    --------
    LEACEClassifier : removes the same information and changes the embeddings least.

    Notes
    -----
    ``min_theta (1/n) sum_i CE(y_i, z_i) + ||theta||^2 / (2 C n)  s.t.  theta^T (mu_e - mu) = 0`` for every
    environment e, mu the mean of the means. Looks at training labels and environments.

    References
    ----------
    Haghighatkhah, Fokkens, Sommerauer, Speckmann, Verbeek (2022). Better Hit the Nail on the Head than Beat
    around the Bush: Removing Protected Attributes with a Single Projection. EMNLP.

    Examples
    --------
    >>> X = [[-1.0, 0.0], [1.0, 0.0], [-1.0, 9.0], [1.0, 9.0]]
    >>> probe = MeanDifferenceClassifier().fit(X, [0, 1, 0, 1], env=[0, 0, 1, 1])
    >>> abs(probe.directions_[:, 0]).round(6).tolist()
    [0.0, 1.0]
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None) -> MeanDifferenceClassifier:
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
        Q = mean_difference_directions(data)
        self.directions_ = axes @ Q
        fits = fit_projected(
            data, [Setting("mean-difference", 0, float(self.C))], Q, tol=self.tol, max_iter=self.max_iter
        )
        self._take(fits, axes, self.directions_)
        return self


class RandomProjectionClassifier(LinearProbe):
    """Logistic regression orthogonal to r random directions: what removing r directions costs by itself.

    Parameters
    ----------
    r : int, default=0
        How many directions; 0 is ERM.
    C : float, default=1.0
        Inverse ridge strength, scikit-learn's convention.
    class_weight : {None, "balanced", "group"} or mapping, default=None
        As in `ERMClassifier`.
    random_state : int, default=0
        Seed of the directions.
    tol : float, default=1e-10
        Gradient norm within the constraint at which the fit stops.
    max_iter : int, default=2000

    Attributes
    ----------
    directions_ : ndarray of shape (d, r)
        Orthonormal.
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`; ``coef_ @ directions_`` is zero to 1e-10.

    Notes
    -----
    ``min_theta (1/n) sum_i CE(y_i, z_i) + ||theta||^2 / (2 C n)  s.t.  R^T theta = 0``, R uniform among
    orthonormal (d, r). The control of Bai et al. (2025)'s projection; looks at training labels only.

    Examples
    --------
    >>> RandomProjectionClassifier(r=1).fit([[-1.0, 0.0], [1.0, 0.0]], [0, 1]).directions_.shape
    (2, 1)
    """

    def __init__(
        self,
        r: int = 0,
        C: float = 1.0,
        *,
        class_weight: ClassWeight = None,
        random_state: int = 0,
        tol: float = 1e-10,
        max_iter: int = 2000,
    ) -> None:
        self.r = r
        self.C = C
        self.class_weight = class_weight
        self.random_state = random_state
        self.tol = tol
        self.max_iter = max_iter

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, env: Any = None
    ) -> RandomProjectionClassifier:
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
            If r is negative or over d, there is one class only, or a value cannot be used.
        """
        rows, index, weight = self._start(X, y, sample_weight, env)
        r, d = check_rank(self.r), rows.shape[1]
        if r > d:
            raise DataError("r is over the dimension of X", got=f"r = {r}", expected=f"at most {d}")
        seed = int(check_number(self.random_state, "random_state"))
        data, axes = one_fit(rows, index, len(self.classes_), weight=weight)
        self.directions_ = random_directions(d, r, seed)
        Q = axes.T @ self.directions_
        fits = fit_projected(
            data, [Setting("random-projection", r, float(self.C))], Q, tol=self.tol, max_iter=self.max_iter
        )
        self._take(fits, axes, self.directions_)
        return self


def fit_projected(
    data: FitData,
    settings: Sequence[Setting],
    Q: Array,
    *,
    ranks: Sequence[int] | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> LinearFits:
    """Fit every setting orthogonal to the first columns of `Q`, to all of them by default."""
    most = Q.shape[1]
    own = np.full(len(settings), most) if ranks is None else np.minimum(ranks, most)
    return fit_convex(
        data, settings, Q=Q, ranks=own, weight=data.weight, start=start, tol=tol, max_iter=max_iter
    )


class MeanDifference(ProbeMethod):
    """``mean-difference``: orthogonal to the differences of environment means; uses environments."""

    family: ClassVar[str] = "erm"
    name: ClassVar[str] = "mean-difference"
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
        return fit_projected(data, settings, mean_difference_directions(data), start=start, tol=tol)


class RandomProjection(ProbeMethod):
    """``random-projection``: orthogonal to r random directions; takes from the pairs only their ranks."""

    name: ClassVar[str] = "random-projection"
    needs: ClassVar[frozenset[Need]] = frozenset({"pairs"})
    ranks: ClassVar[bool] = True
    stochastic: ClassVar[bool] = True

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every rank and ridge of a seed at once."""
        d = data.rows.X.shape[1]
        most = d if data.directions is None else data.directions.rank
        ranks = np.minimum([s.r for s in settings], most)
        each = np.asarray(seeds, np.int64)
        order: list[int] = []
        parts: list[LinearFits] = []
        for seed in np.unique(each):
            of = np.flatnonzero(each == seed)
            Q = random_directions(d, int(ranks[of].max()), int(seed))
            Q = Q if data.axes is None else data.axes.T @ Q
            near = None if start is None else start.take(of)
            own = [settings[i] for i in of.tolist()]
            parts.append(fit_projected(data, own, Q, ranks=ranks[of].tolist(), start=near, tol=tol))
            order += of.tolist()
        return LinearFits.join(parts).take(np.argsort(order))
