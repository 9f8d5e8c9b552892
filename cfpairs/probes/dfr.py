"""Deep feature reweighting: L1 logistic regression on group-balanced subsets, averaged."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import DataError
from cfpairs.probes.base import ClassWeight, LinearProbe
from cfpairs.probes.convex import check_number
from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Need, ProbeMethod, Rows, Setting, Value
from cfpairs.probes.sparse import fit_sparse

__all__ = ["DFRClassifier", "TrainDFR", "ValidationDFR", "balanced_subset"]

Array = NDArray[np.floating[Any]]

SUBSETS = 10
"""Subsets that are drawn and averaged, as many as the paper for most data sets."""

ROUGH_SUBSETS = 2
"""As many in fits to parts of the training rows that a rule chooses by; what is chosen has all of them."""

STRENGTHS = (0.01, 0.03, 0.07, 0.1, 0.3, 0.7, 1.0)
"""Inverse strengths C of the L1 penalty that the paper tries."""

MAX_ITER = 5000

ROUGH_TOL = 1e-3
"""Norm of the proximal gradient of a chosen setting, reached in single precision.

As near to the minimum as liblinear, which the paper fits with, comes by its default tolerance.
"""


class DFRClassifier(LinearProbe):
    """L1 logistic regression on group-balanced subsets of the rows, averaged.

    Parameters
    ----------
    C : float, default=1.0
        Inverse strength of the L1 penalty, scikit-learn's convention.
    class_one_weight : float, default=1.0
        What a row of class 1 counts next to one of another class, within a subset.
    n_subsets : int, default=10
    random_state : int, default=0
        Seed of the subsets.
    tol : float, default=1e-6
        Norm of the proximal gradient at which a fit stops.
    max_iter : int, default=5000

    Attributes
    ----------
    classes_, coef_, intercept_, n_iter_, n_features_in_
        As in `ERMClassifier`, for rows that are not standardised.

    Notes
    -----
    On each subset, which has as many rows of every label x environment group as the smallest group has,
    ``min (1/m) sum_i s_i CE(y_i, theta^T x~_i + b) + ||theta||_1 / (C m)``, x~ standardised; then the mean
    over the subsets. The intercept is not penalised. Meant for rows of a validation split
    (``dfr-val``), or for training rows (``dfr-train``). Looks at labels and environments of those rows.

    References
    ----------
    Kirichenko, Izmailov, Wilson (2023). Last Layer Re-Training is Sufficient for Robustness to Spurious
    Correlations. ICLR.

    Examples
    --------
    >>> X = [[-1.0, -9.0], [1.0, 9.0], [-1.1, 9.0], [1.1, -9.0], [1.0, 9.1]]
    >>> DFRClassifier().fit(X, [0, 1, 0, 1, 1], env=[0, 1, 1, 0, 1]).predict([[1.0, -9.0], [-1.0, 9.0]])
    array([1, 0])
    """

    class_weight: ClassWeight = None

    def __init__(
        self,
        C: float = 1.0,
        *,
        class_one_weight: float = 1.0,
        n_subsets: int = SUBSETS,
        random_state: int = 0,
        tol: float = 1e-6,
        max_iter: int = MAX_ITER,
    ) -> None:
        self.C = C
        self.class_one_weight = class_one_weight
        self.n_subsets = n_subsets
        self.random_state = random_state
        self.tol = tol
        self.max_iter = max_iter

    def fit(self, X: Any, y: Any, *, env: Any = None) -> DFRClassifier:
        """Fit the probe.

        Parameters
        ----------
        X : array-like of shape (n, d)
        y : array-like of shape (n,)
        env : array-like of shape (n,), optional
            Environments. Without them, the groups are the classes.

        Raises
        ------
        DataError
            If there is one class only, or a value cannot be used.
        """
        rows, index, _ = self._start(X, y, None, env)
        count = int(check_number(self.n_subsets, "n_subsets", above=1))
        seed = int(check_number(self.random_state, "random_state"))
        ratio = check_number(self.class_one_weight, "class_one_weight", strictly=True)
        names, e = np.unique(np.zeros(len(rows)) if env is None else np.asarray(env), return_inverse=True)
        given = Rows(rows, index, np.asarray(e, np.int64).reshape(-1))
        setting = Setting("dfr-train", 0, float(self.C), (("class_weight", ratio),))
        fits = fit_dfr(
            given, given.X, len(self.classes_), len(names), [setting], [seed],
            subsets=count, tol=self.tol, max_iter=self.max_iter,
        )  # fmt: skip
        self._take(fits, np.eye(rows.shape[1]), None)
        return self


def balanced_subset(groups: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a subset with as many of every group that has any as the smallest has, ascending."""
    counts = np.bincount(groups)
    least = int(counts[counts > 0].min())
    drawn = [rng.permutation(np.flatnonzero(groups == g))[:least] for g in np.flatnonzero(counts)]
    return np.sort(np.concatenate(drawn))


def fit_dfr(
    rows: Rows,
    scale_rows: Array,
    n_classes: int,
    n_env: int,
    settings: Sequence[Setting],
    seeds: Sequence[int],
    *,
    weight: Array | None = None,
    subsets: int = SUBSETS,
    tol: float = 1e-4,
    max_iter: int = MAX_ITER,
) -> LinearFits:
    """Fit every setting of a seed on the same subsets, and average.

    Parameters
    ----------
    rows : Rows
        What the subsets are drawn from, in the embedding's own coordinates.
    scale_rows : ndarray of shape (m, d)
        Whose mean and scale standardise; constant columns are centred only.
    n_classes, n_env : int
    settings : sequence of Setting, length f
        With the hyperparameter ``class_weight``.
    seeds : sequence of int, length f
    weight : ndarray of shape (n,), optional
        Weights of the rows.
    subsets : int
    tol : float
    max_iter : int
    """
    dtype = np.float32 if rows.X.dtype == np.float32 else np.float64
    mean, scale = _standard(scale_rows)
    X: Array = ((rows.X - mean) / scale).astype(dtype)
    groups = rows.groups(n_env)
    ratio = np.array([s.number("class_weight") for s in settings])
    C, each = np.array([s.C for s in settings]), np.asarray(seeds, np.int64)
    d, c = X.shape[1], 1 if n_classes == 2 else n_classes
    coef, intercept = np.zeros((len(C), c, d)), np.zeros((len(C), c))
    norms, steps = np.zeros(len(C)), np.zeros(len(C), np.int64)
    for seed in np.unique(each):
        of = np.flatnonzero(each == seed)
        for number in range(subsets):
            drawn = balanced_subset(groups, np.random.default_rng([int(seed), number]))
            own = np.where(rows.y[drawn, None] == 1, ratio[None, of], 1.0)
            if weight is not None:
                own = own * np.asarray(weight)[drawn, None]
            fits = fit_sparse(
                X[drawn], rows.y[drawn], n_classes, C[of], weight=own, tol=tol, max_iter=max_iter
            )
            coef[of] += fits.coef / subsets
            intercept[of] += fits.intercept / subsets
            norms[of], steps[of] = np.maximum(norms[of], fits.gradient_norm), steps[of] + fits.iterations
    coef /= scale
    return LinearFits(coef, intercept - coef @ mean, norms, steps)


def _standard(X: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    rows = np.asarray(X, np.float64)
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    constant = scale <= 10 * np.finfo(X.dtype).eps * np.maximum(np.abs(mean), np.finfo(np.float64).tiny)
    return mean, np.where(constant, 1.0, scale)


def _own(X: Array, data: FitData) -> Array:
    """Rows in the embedding's own coordinates, on which what an L1 penalty makes zero depends."""
    return X if data.axes is None else (X @ data.axes.T.astype(X.dtype))


def _turned(fits: LinearFits, data: FitData) -> LinearFits:
    if data.axes is None:
        return fits
    return LinearFits(fits.coef @ data.axes, fits.intercept, fits.gradient_norm, fits.iterations)


class TrainDFR(ProbeMethod):
    """``dfr-train``: group-balanced subsets of the training rows; uses environments.

    ``C`` is the inverse strength of the L1 penalty here, over the paper's range. ``class_weight`` is what a
    row of class 1 counts next to others: balanced subsets need no other value than 1, which is what the
    paper uses for them; ``grids`` can name more.
    """

    family: ClassVar[str] = "dfr"
    name: ClassVar[str] = "dfr-train"
    needs: ClassVar[frozenset[Need]] = frozenset({"env"})
    stochastic: ClassVar[bool] = True
    ridge: ClassVar[tuple[float, ...] | None] = STRENGTHS
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {"class_weight": (1.0,)}
    final_tol: ClassVar[float] = ROUGH_TOL

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every setting of a seed on the same subsets; float32 rows on fewer of them.

        Single precision is enough for tolerances down to `ROUGH_TOL`, whatever the rows are in.
        """
        subsets = ROUGH_SUBSETS if data.rows.X.dtype == np.float32 else SUBSETS
        X: Array = np.asarray(_own(data.rows.X, data), np.float32 if tol >= ROUGH_TOL else np.float64)
        fits = fit_dfr(
            Rows(X, data.rows.y, data.rows.env), X, data.n_classes, data.n_env, settings, seeds,
            weight=data.weight, tol=tol, subsets=subsets,
        )  # fmt: skip
        return _turned(fits, data)


class ValidationDFR(ProbeMethod):
    """``dfr-val``: group-balanced subsets of validation rows; uses their labels and environments.

    Its fits are to one half of the validation split, and the rules ``validation`` and ``worst-group`` choose
    the strength on the other half, as the paper does; the paper then fits to both. Rows are standardised by
    that half. Grid as of ``dfr-train``. Nothing depends on training rows, so that fits for every fold of them
    are made once; float32 rows and float64 rows of the same values are the same to it.
    """

    family: ClassVar[str] = "dfr"
    name: ClassVar[str] = "dfr-val"
    needs: ClassVar[frozenset[Need]] = frozenset({"env", "validation"})
    stochastic: ClassVar[bool] = True
    ridge: ClassVar[tuple[float, ...] | None] = STRENGTHS
    grid: ClassVar[Mapping[str, tuple[Value, ...]]] = {"class_weight": (1.0,)}
    final_tol: ClassVar[float] = ROUGH_TOL

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, int, tuple[Setting, ...]], LinearFits] = {}
        self._lock = threading.Lock()

    def fit(
        self,
        data: FitData,
        settings: Sequence[Setting],
        seeds: Sequence[int],
        *,
        start: LinearFits | None = None,
        tol: float = 1e-6,
    ) -> LinearFits:
        """Fit every setting of a seed on the same subsets."""
        given = data.validation
        if given is None or not len(given):
            raise DataError("dfr-val needs validation rows", got="none", remedy="use dfr-train")
        X = np.asarray(given.X, np.float32)
        # Every seed is fitted by itself, and rough fits are the same as those of the whole: rules that fit
        # folds of training rows, one seed at a time, then find all of it done.
        stop = min(tol, ROUGH_TOL)
        common = hashlib.sha256(repr((stop, data.n_classes)).encode())
        for part in (X, given.y, given.env):
            common.update(np.ascontiguousarray(part).tobytes())
        each = np.asarray(seeds, np.int64)
        order: list[int] = []
        parts: list[LinearFits] = []
        for seed in np.unique(each):
            of = np.flatnonzero(each == seed).tolist()
            own = [settings[i] for i in of]
            key = (common.digest(), int(seed), tuple(own))
            # Folds run side by side; the first to come fits, the others wait for it.
            with self._lock:
                if key not in self._known:
                    Z = _own(X if stop >= ROUGH_TOL else X.astype(np.float64), data)
                    rows = Rows(Z, given.y, given.env)
                    environments = int(given.env.max()) + 1
                    seeded = [int(seed)] * len(of)
                    fits = fit_dfr(rows, Z, data.n_classes, environments, own, seeded, tol=stop)
                    self._known[key] = _turned(fits, data)
            parts.append(self._known[key])
            order += of
        return parts[0] if len(parts) == 1 else LinearFits.join(parts).take(np.argsort(order))
