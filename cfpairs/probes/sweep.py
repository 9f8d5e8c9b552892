"""Every setting of every method on the same rows, each method in one batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.config import DEFAULT_RIDGE
from cfpairs.errors import DataError
from cfpairs.notebook import html_table
from cfpairs.probes.base import encode_labels
from cfpairs.probes.fits import LinearFits, decide
from cfpairs.probes.method import FitData, ProbeMethod, Rows, Setting, Value
from cfpairs.probes.solver import principal_axes
from cfpairs.registry import resolve
from cfpairs.subspace import Directions, check_rank, difference_directions

__all__ = ["Setting", "Sweep", "fit_sweep"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sweep:
    """Solutions of a sweep.

    Attributes
    ----------
    settings : tuple of Setting
        Fit i has ``settings[i]``.
    seeds : tuple of int
        Seed of every fit.
    fits : LinearFits
        In the coordinates of the rows that were given.
    classes : ndarray of shape (n_classes,)
    directions : Directions or None
        Of the pair differences.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    fits: LinearFits
    classes: NDArray[Any]
    directions: Directions | None

    def _repr_html_(self) -> str:
        """How many settings of each method were fitted, for notebooks."""
        methods = list(dict.fromkeys(setting.method for setting in self.settings))
        own = {m: [s for s in self.settings if s.method == m] for m in methods}
        rows = [(m, len(own[m]), ", ".join(map(str, sorted({s.r for s in own[m]})))) for m in methods]
        caption = f"{len(self.settings)} fits, {len(self.classes)} classes"
        return html_table(rows, ("probe", "fits", "r"), caption)

    def predict(self, X: NDArray[Any]) -> NDArray[Any]:
        """Labels predicted by every fit, shape (n, f)."""
        return self.classes[self.fits.predict(X)]

    def logits(self, X: NDArray[Any]) -> Array:
        """Logits of every fit, shape (n, f, c); c is 1 for two classes."""
        return np.asarray(self.fits.logits(X), np.float64)

    def decide(self, logits: Array) -> NDArray[Any]:
        """Labels that logits stand for, shape (n, f)."""
        return self.classes[decide(logits)]


def fit_sweep(
    X: NDArray[Any],
    y: NDArray[Any],
    *,
    differences: NDArray[Any] | None = None,
    env: NDArray[Any] | None = None,
    methods: Sequence[str] = ("erm", "ncm"),
    r: Sequence[int] = (1, 2, 4, 8, 16),
    C: Sequence[float] = DEFAULT_RIDGE,
    grids: Mapping[str, Mapping[str, Sequence[Value]]] | None = None,
    budget: int | None = None,
    seeds: Sequence[int] = (0,),
    sample_weight: NDArray[Any] | None = None,
    tol: float = 1e-6,
) -> Sweep:
    """Fit every setting of every method on the same rows.

    The directions of all r come from one SVD, and a solver step costs two products with X however many
    fits there are.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Preprocessed embeddings.
    y : ndarray of shape (n,)
    differences : ndarray of shape (k, d), optional
        D, one row a pair, a minus b; needed by methods that use pairs.
    env : ndarray of shape (n,), optional
        Environment of every row; needed by methods that use environments.
    methods : sequence of str
        Names of probes (``cfpairs list probes``).
    r : sequence of int
        Ranks of the methods that have one.
    C : sequence of float
        Inverse ridge strengths, scikit-learn's convention.
    grids : mapping of method to mapping of hyperparameter to values, optional
        Replaces the methods' own values.
    budget : int, optional
        Most settings a method.
    seeds : sequence of int
        Every setting of a stochastic method is fitted with each.
    sample_weight : ndarray of shape (n,), optional
        Multiplies the weights that a method gives to rows.
    tol : float
        Gradient norm at which convex fits stop.

    Raises
    ------
    DataError
        If a rank is over the rank of the differences, there is one class, something that a method needs is
        missing, or shapes do not agree.

    Examples
    --------
    >>> X = np.array([[-1.0, -9.0], [1.0, 9.0]])
    >>> sweep = fit_sweep(X, np.array([0, 1]), differences=np.array([[0.0, 2.0]]), r=[1], C=[1.0])
    >>> [(s.method, int(p)) for s, p in zip(sweep.settings, sweep.predict(np.array([[1.0, -9.0]]))[0])]
    [('erm', 0), ('ncm', 1)]
    """
    rows, labels = _checked(X, y)
    ranks = sorted({check_rank(rank) for rank in r})
    chosen = [resolve("probes", name)() for name in methods]
    found = _directions(differences, max(ranks) if any(m.ranks for m in chosen) else 0, rows.shape[1])
    axes = principal_axes(rows)
    classes, index = encode_labels(labels)
    environments, e = np.unique(np.zeros(len(rows)) if env is None else np.asarray(env), return_inverse=True)
    if len(e) != len(rows):
        raise DataError("env has another length than X", got=len(e), expected=len(rows))
    data = FitData(
        Rows(rows @ axes, index, e.reshape(-1)),
        len(classes),
        len(environments),
        None if found is None else found.turned(axes),
        None if differences is None else np.asarray(differences, np.float64) @ axes,
        weight=None if sample_weight is None else np.asarray(sample_weight, np.float64),
        axes=axes,
    )
    settings: list[Setting] = []
    of_seed: list[int] = []
    parts: list[LinearFits] = []
    for method in chosen:
        _check_needs(method, data, env is not None)
        own = method.settings(ranks, C, budget, (grids or {}).get(method.name))
        repeated = tuple(seeds) if method.stochastic else tuple(seeds)[:1]
        each = [seed for seed in repeated for _ in own]
        together = list(own) * len(repeated)
        parts.append(method.fit(data, together, each, tol=tol))
        settings += together
        of_seed += each
    turned = LinearFits.join(parts)
    fits = LinearFits(turned.coef @ axes.T, turned.intercept, turned.gradient_norm, turned.iterations)
    return Sweep(tuple(settings), tuple(of_seed), fits, classes, found)


def _checked(X: NDArray[Any], y: NDArray[Any]) -> tuple[Array, NDArray[Any]]:
    rows, labels = np.asarray(X, np.float64), np.asarray(y)
    if rows.ndim != 2 or labels.shape != (len(rows),):
        raise DataError(
            "X and y do not agree", got=f"{rows.shape} and {labels.shape}", expected="(n, d) and (n,)"
        )
    if not np.isfinite(rows).all():
        raise DataError("X holds values that are not finite")
    return rows, labels


def _check_needs(method: ProbeMethod, data: FitData, has_env: bool) -> None:
    if "pairs" in method.needs and data.differences is None and method.name != "ncm":
        raise DataError(f"{method.name} needs pair differences", got="none", remedy="pass differences=D")
    if "env" in method.needs and (not has_env or data.n_env < 2):
        got = f"{data.n_env} environment" if has_env else "none"
        raise DataError(f"{method.name} needs environments", got=got, remedy="pass env=..., two or more")
    for need in ("validation", "test"):
        if need in method.needs:
            raise DataError(
                f"{method.name} looks at the {need} split, which a sweep does not have",
                remedy="fit its own estimator, or use 'cfpairs probe'",
            )


def _directions(D: NDArray[Any] | None, highest: int, d: int) -> Directions | None:
    if D is None:
        if highest:
            raise DataError("NCM needs pair differences", got="none", remedy="pass differences=D")
        return None
    D = np.asarray(D, np.float64)
    if D.ndim != 2 or D.shape[1] != d:
        raise DataError("differences have another dimension than X", got=D.shape, expected=f"(k, {d})")
    found = difference_directions(D)
    found.top(highest)
    return found
