"""Every setting of every probe on the same rows, in one batched pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import DEFAULT_RIDGE
from cfpairs.errors import ConfigError, DataError
from cfpairs.probes.base import encode_labels
from cfpairs.probes.solver import LinearFits, decide, fit_logistic, principal_axes
from cfpairs.subspace import Directions, check_rank, difference_directions

__all__ = ["Setting", "Sweep", "fit_sweep", "settings_grid"]

Array = NDArray[np.float64]

LINEAR_METHODS = ("erm", "ncm")


@dataclass(frozen=True, order=True)
class Setting:
    """One fit of a sweep: the probe's name, the rank r (0 for ERM) and the inverse ridge C."""

    method: str
    r: int
    C: float


@dataclass(frozen=True)
class Sweep:
    """Solutions of a sweep.

    Attributes
    ----------
    settings : tuple of Setting
        Fit i has ``settings[i]``.
    fits : LinearFits
        In the coordinates of the rows that were given.
    classes : ndarray of shape (n_classes,)
    directions : Directions or None
        Of the pair differences.
    """

    settings: tuple[Setting, ...]
    fits: LinearFits
    classes: NDArray[Any]
    directions: Directions | None

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Labels predicted by every fit, shape (n, f)."""
        return self.classes[self.fits.predict(X)]

    def logits(self, X: NDArray[Any]) -> Array:
        """Logits of every fit, shape (n, f, c); c is 1 for two classes."""
        return np.asarray(self.fits.logits(X), np.float64)

    def decide(self, logits: Array) -> NDArray[Any]:
        """Labels that logits stand for, shape (n, f)."""
        return self.classes[decide(logits)]


def settings_grid(methods: Sequence[str], ranks: Sequence[int], C: Sequence[float]) -> tuple[Setting, ...]:
    """Every method crossed with its ranks and the ridge grid; ERM has r = 0 only.

    Raises
    ------
    ConfigError
        If a method is not a linear probe of this sweep.
    """
    grid: list[Setting] = []
    for method in methods:
        if method not in LINEAR_METHODS:
            raise ConfigError(
                "the sweep cannot fit this probe", got=method, expected=", ".join(LINEAR_METHODS)
            )
        own = [0] if method == "erm" else sorted({check_rank(r) for r in ranks})
        grid.extend(Setting(method, r, float(c)) for r in own for c in sorted(C))
    return tuple(grid)


def fit_sweep(
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    differences: NDArray[Any] | None = None,
    methods: Sequence[str] = ("erm", "ncm"),
    r: Sequence[int] = (1, 2, 4, 8, 16),
    C: Sequence[float] = DEFAULT_RIDGE,
    sample_weight: NDArray[Any] | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> Sweep:
    """Fit every method x r x C on the same rows.

    The directions of all r come from one SVD, and a solver step costs two products with X however many
    fits there are.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Preprocessed embeddings.
    y : ndarray of shape (n,)
    differences : ndarray of shape (k, d), optional
        D, one row a pair, a minus b; needed for ``ncm`` with r > 0.
    methods : sequence of {"erm", "ncm"}
    r : sequence of int
        Ranks of ``ncm``.
    C : sequence of float
        Inverse ridge strengths, scikit-learn's convention.
    sample_weight : ndarray of shape (n,), optional
    tol : float
        Gradient norm at which a fit stops.
    max_iter : int

    Raises
    ------
    DataError
        If a rank is over the rank of the differences, there is one class, or shapes do not agree.

    Examples
    --------
    >>> X = np.array([[-1.0, -9.0], [1.0, 9.0]])
    >>> sweep = fit_sweep(X, np.array([0, 1]), differences=np.array([[0.0, 2.0]]), r=[1], C=[1.0])
    >>> [(s.method, int(p)) for s, p in zip(sweep.settings, sweep.predict(np.array([[1.0, -9.0]]))[0])]
    [('erm', 0), ('ncm', 1)]
    """
    rows = np.asarray(X, np.float64)
    labels = np.asarray(y)
    if rows.ndim != 2 or labels.shape != (len(rows),):
        raise DataError(
            "X and y do not agree", got=f"{rows.shape} and {labels.shape}", expected="(n, d) and (n,)"
        )
    if not np.isfinite(rows).all():
        raise DataError("X holds values that are not finite")
    settings = settings_grid(methods, r, C)
    directions = _directions(differences, settings, rows.shape[1])
    axes = principal_axes(rows)
    turned = solve_settings(
        rows @ axes,
        labels,
        settings,
        None if directions is None else axes.T @ directions.vectors,
        sample_weight=sample_weight,
        tol=tol,
        max_iter=max_iter,
    )
    coef = turned.fits.coef @ axes.T
    if directions is not None:
        _reproject(coef, settings, directions.vectors)
    fits = LinearFits(coef, turned.fits.intercept, turned.fits.gradient_norm, turned.fits.iterations)
    return Sweep(settings, fits, turned.classes, directions)


def solve_settings(
    rows: NDArray[Any],
    labels: NDArray[Any],
    settings: Sequence[Setting],
    Q: NDArray[Any] | None,
    *,
    sample_weight: NDArray[Any] | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 2000,
) -> Sweep:
    """Fit settings on rows that already stand in principal axes; float32 rows are solved in float32."""
    classes, index = encode_labels(labels)
    fits = fit_logistic(
        rows,
        index,
        len(classes),
        np.array([s.C for s in settings]),
        ranks=np.array([s.r for s in settings]),
        Q=Q,
        sample_weight=sample_weight,
        start=start,
        tol=tol,
        max_iter=max_iter,
    )
    return Sweep(tuple(settings), fits, classes, None)


def _directions(D: NDArray[Any] | None, settings: Sequence[Setting], d: int) -> Directions | None:
    highest = max(s.r for s in settings)
    if D is None:
        if highest:
            raise DataError("NCM needs pair differences", got="none", remedy="pass differences=D")
        return None
    D = np.asarray(D, np.float64)
    if D.ndim != 2 or D.shape[1] != d:
        raise DataError("differences have another dimension than X", got=D.shape, expected=f"(k, {d})")
    found = difference_directions(D, limit=highest)
    found.top(highest)
    return found


def _reproject(coef: Array, settings: Sequence[Setting], Q: Array) -> None:
    """Make the weights orthogonal to their directions again after a change of axes."""
    for i, setting in enumerate(settings):
        if setting.r:
            top = Q[:, : setting.r]
            coef[i] -= (coef[i] @ top) @ top.T
