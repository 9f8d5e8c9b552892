"""Logistic regressions with an L1 penalty that share their rows, fitted at once.

Every fit f minimises, over weights W (d, c) and an intercept b (c),

    (1/n) sum_i s_if CE(y_i, x_i^T W + b) + ||W||_1 / (C_f n),

scikit-learn's objective divided by ``C n``. Two classes share one logit; more have one each. The method is
FISTA (Beck and Teboulle 2009) with restarts where the momentum points uphill (O'Donoghue and Candes 2015), on
the columns that can be other than zero: those are found again until no other column violates its condition.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, softmax

from cfpairs.probes.fits import LinearFits

__all__ = ["fit_sparse"]

Array = NDArray[np.floating[Any]]

ROUNDS = 20
"""Most enlargements of the set of columns before all of them are taken."""


def fit_sparse(
    X: Array,
    y: NDArray[np.int64],
    n_classes: int,
    C: NDArray[Any],
    *,
    weight: NDArray[Any] | None = None,
    tol: float = 1e-4,
    max_iter: int = 5000,
) -> LinearFits:
    """Fit one L1 logistic regression for every entry of `C`.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        float32 is worked in as it is; all else in float64.
    y : ndarray of shape (n,)
        Class indices 0..n_classes-1.
    n_classes : int
    C : ndarray of shape (f,)
        Inverse strength of every fit's penalty, scikit-learn's convention.
    weight : ndarray of shape (n, f), optional
        Weights of the rows, for every fit.
    tol : float
        A fit is done when its proximal gradient has at most this norm: what the gradient is without a
        penalty, and zero at the solution alone.
    max_iter : int
        Steps after which a fit is returned as it is; see ``gradient_norm``.
    """
    n, d = X.shape
    dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
    rows = np.asarray(X, dtype)
    shares = np.ones((n, len(C))) if weight is None else np.asarray(weight, np.float64)
    problem = _Problem(rows, y, n_classes, 1.0 / (np.asarray(C) * n), (shares / n).astype(dtype))
    W, b = problem.zeros(d)
    columns = np.zeros(d, np.bool_)
    norms, steps = np.full(len(C), np.inf), np.zeros(len(C), np.int64)
    for number in range(ROUNDS + 1):
        gradient, _ = problem.gradient(rows, rows[:, columns], W[columns], b)
        excess = np.maximum(np.abs(gradient) - problem.threshold[None, :, None], 0.0)
        outside = np.where(columns[:, None, None], 0.0, excess)
        missed = np.sqrt((outside**2).sum(axis=(0, 2)))
        norms = np.hypot(norms, missed)
        if number and (missed <= tol).all():
            break
        added = (outside > 0).any(axis=(1, 2))
        columns |= added if number < ROUNDS else True
        part = np.ascontiguousarray(rows[:, columns])
        W[columns], b, norms, more = problem.solve(part, W[columns], b, tol, max_iter)
        steps += more
    coef = np.ascontiguousarray(W.transpose(1, 2, 0), np.float64)
    return LinearFits(coef, np.asarray(b, np.float64), norms, steps)


class _Problem:
    """The objectives of the batch on some columns of the rows."""

    def __init__(
        self, rows: Array, y: NDArray[np.int64], n_classes: int, threshold: Array, weight: Array
    ) -> None:
        self.dtype, self.binary = rows.dtype, n_classes == 2
        self.curvature = 0.25 if self.binary else 0.5
        target = y[:, None] if self.binary else np.eye(n_classes)[y]
        self.target = target[:, None, :].astype(self.dtype)
        self.weight = weight[:, :, None]
        self.threshold = threshold.astype(self.dtype)

    def zeros(self, d: int) -> tuple[Array, Array]:
        f, c = len(self.threshold), self.target.shape[2]
        return np.zeros((d, f, c), self.dtype), np.zeros((f, c), self.dtype)

    def gradient(self, of: Array, rows: Array, W: Array, b: Array) -> tuple[Array, Array]:
        """Gradient of the loss along the columns of `of` and the intercept; `rows` and W give the logits."""
        m, f, c = W.shape
        z = (rows @ W.reshape(m, f * c)).reshape(-1, f, c) + b
        residual: Array = expit(z) if self.binary else softmax(z, axis=2)
        residual -= self.target
        residual *= self.weight
        return (of.T @ residual.reshape(-1, f * c)).reshape(-1, f, c), residual.sum(axis=0)

    def solve(
        self, rows: Array, W: Array, b: Array, tol: float, max_iter: int
    ) -> tuple[Array, Array, Array, NDArray[np.int64]]:
        """FISTA on these columns, from W and b."""
        f = len(self.threshold)
        length = self.curvature * _largest(rows) * self.weight.max(axis=(0, 2))
        rate = (1.0 / np.maximum(length, np.finfo(self.dtype).tiny)).astype(self.dtype)
        done_W, done_b = np.zeros_like(W), np.zeros_like(b)
        norms, steps, active = np.zeros(f), np.zeros(f, np.int64), np.arange(f)
        part, V, vb, momentum = self, W, b, np.ones(f, self.dtype)
        for step in range(1, max_iter + 1):
            g, gb = part.gradient(rows, rows, V, vb)
            to = V - rate[None, :, None] * g
            new = np.sign(to) * np.maximum(np.abs(to) - (rate * part.threshold)[None, :, None], 0.0)
            new_b = vb - rate[:, None] * gb
            gap, gap_b = V - new, vb - new_b
            size = np.sqrt((gap**2).sum(axis=(0, 2)) + (gap_b**2).sum(axis=1)) / rate
            over = (size <= tol) | (step == max_iter)
            if over.any():
                ids = active[over]
                done_W[:, ids], done_b[ids], norms[ids], steps[ids] = (
                    new[:, over],
                    new_b[over],
                    size[over],
                    step,
                )
                if over.all():
                    break
                on = ~over
                part, active, rate, momentum = part.take(on), active[on], rate[on], momentum[on]
                W, b, new, new_b, gap, gap_b = W[:, on], b[on], new[:, on], new_b[on], gap[:, on], gap_b[on]
            uphill = np.einsum("dfc,dfc->f", gap, new - W) + (gap_b * (new_b - b)).sum(axis=1) > 0
            momentum[uphill] = 1.0
            following = ((1.0 + np.sqrt(1.0 + 4.0 * momentum**2)) / 2.0).astype(self.dtype)
            push = np.where(uphill, 0.0, (momentum - 1.0) / following).astype(self.dtype)
            V, vb = new + push[None, :, None] * (new - W), new_b + push[:, None] * (new_b - b)
            W, b, momentum = new, new_b, following
        return done_W, done_b, norms, steps

    def take(self, fits: NDArray[np.bool_]) -> _Problem:
        """The same for some of the fits."""
        part = copy.copy(self)
        part.threshold = self.threshold[fits]
        part.weight = self.weight[:, fits]
        return part


def _largest(rows: Array) -> float:
    """Largest eigenvalue of the Gram matrix of the rows beside a column of ones."""
    n, d = rows.shape
    full = np.column_stack([rows, np.ones(n, rows.dtype)]).astype(np.float64)
    gram = full @ full.T if n <= d else full.T @ full
    top = len(gram) - 1
    return float(scipy.linalg.eigh(gram, eigvals_only=True, subset_by_index=(top, top))[0])
