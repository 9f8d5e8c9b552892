"""Many logistic regressions that share their rows, fitted at once.

Every fit f minimises, over weights W (d, c) and an intercept b (c),

    (1/n) sum_i s_i CE(y_i, x_i^T W + b) + ||W||^2 / (2 C_f n)    subject to Q_f^T W = 0,

where Q_f are the first r_f columns of one orthonormal Q. This is scikit-learn's objective divided by
``C n``. Two classes share one logit; more have one each.

The method is L-BFGS on all fits together, so that a step costs two products with X for any number of
fits. Its first metric is the inverse of the curvature at W = 0 restricted to the constraint: a diagonal
(exact when the columns of X are principal axes) and a correction of rank r. Because leading blocks of a
Cholesky factor are factors of leading blocks, one factorisation serves every r with the same C.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, log_softmax, softmax

__all__ = ["LinearFits", "fit_logistic", "principal_axes"]

Array = NDArray[np.floating[Any]]

MEMORY = 8
LINE_SEARCH_STEPS = 12


@dataclass(frozen=True)
class LinearFits:
    """Solutions, one row a fit.

    Attributes
    ----------
    coef : ndarray of shape (f, c, d)
        c is 1 for two classes.
    intercept : ndarray of shape (f, c)
    gradient_norm : ndarray of shape (f,)
        Euclidean norm of the gradient within the constraint, intercept included.
    iterations : ndarray of shape (f,)
    """

    coef: Array
    intercept: Array
    gradient_norm: Array
    iterations: NDArray[np.int64]

    def take(self, fits: Sequence[int]) -> LinearFits:
        """Some of the fits, in the given order."""
        of = np.asarray(fits, np.int64)
        return LinearFits(self.coef[of], self.intercept[of], self.gradient_norm[of], self.iterations[of])

    @classmethod
    def join(cls, parts: Sequence[LinearFits]) -> LinearFits:
        """The fits of several batches, one after the other."""
        return cls(
            np.concatenate([part.coef for part in parts]),
            np.concatenate([part.intercept for part in parts]),
            np.concatenate([part.gradient_norm for part in parts]),
            np.concatenate([part.iterations for part in parts]),
        )

    def logits(self, X: NDArray[Any]) -> Array:
        """Logits of every fit, shape (n, f, c)."""
        f, c, d = self.coef.shape
        z: Array = X @ self.coef.reshape(f * c, d).T
        return z.reshape(len(X), f, c) + self.intercept

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """Class index predicted by every fit, shape (n, f)."""
        return decide(self.logits(X))


def decide(logits: Array) -> NDArray[np.int64]:
    """Class index of logits whose last axis is the class; one logit means class 1 when positive."""
    if logits.shape[-1] == 1:
        return np.asarray(logits[..., 0] > 0, np.int64)
    return np.asarray(logits.argmax(axis=-1), np.int64)


def principal_axes(X: NDArray[Any]) -> NDArray[np.float64]:
    """Orthogonal (d, d) matrix whose columns are the principal axes of the rows of X."""
    centred = np.asarray(X - X.mean(axis=0), np.float64)
    _, vectors = scipy.linalg.eigh(centred.T @ centred, driver="evd")
    return np.ascontiguousarray(vectors[:, ::-1])


class _Binary:
    """Cross-entropy on one logit; classes 0 and 1."""

    curvature = 0.25

    def __init__(self, y: NDArray[np.int64], weight: Array) -> None:
        self.y = y[:, None, None].astype(weight.dtype)
        self.sign = 1.0 - 2.0 * self.y
        self.weight = weight[:, None, None]

    def value(self, z: Array) -> Array:
        return np.asarray((self.weight * np.logaddexp(0.0, self.sign * z)).sum(axis=(0, 2)))

    def residual(self, z: Array) -> Array:
        return np.asarray(self.weight * (expit(z) - self.y))

    def bend(self, z: Array, p: Array) -> Array:
        share = expit(z)
        return np.asarray((self.weight * share * (1.0 - share) * p * p).sum(axis=(0, 2)))


class _Softmax:
    """Cross-entropy on one logit a class."""

    curvature = 0.5

    def __init__(self, y: NDArray[np.int64], weight: Array, n_classes: int) -> None:
        self.target = np.eye(n_classes, dtype=weight.dtype)[y][:, None, :]
        self.weight = weight[:, None, None]

    def value(self, z: Array) -> Array:
        return np.asarray(-(self.weight * self.target * log_softmax(z, axis=2)).sum(axis=(0, 2)))

    def residual(self, z: Array) -> Array:
        return np.asarray(self.weight * (softmax(z, axis=2) - self.target))

    def bend(self, z: Array, p: Array) -> Array:
        share = softmax(z, axis=2)
        mean = (share * p).sum(axis=2, keepdims=True)
        return np.asarray((self.weight * share * (p - mean) ** 2).sum(axis=(0, 2)))


class _Metric:
    """Inverse curvature at W = 0 within the constraint, for fits that share X and Q."""

    def __init__(
        self, diagonal: Array, ridge: Array, ranks: NDArray[np.int64], Q: Array, dtype: np.dtype[Any]
    ) -> None:
        self.ridge, self.ranks = ridge, ranks
        self.inverse = (1.0 / (diagonal[:, None] + ridge[None, :])).astype(dtype)
        self.factor: dict[float, Array] = {}
        if Q.shape[1]:
            for value in np.unique(ridge):
                scaled = Q / (diagonal + value)[:, None]
                lower = scipy.linalg.cholesky(Q.T @ scaled, lower=True)
                rows = scipy.linalg.solve_triangular(lower, scaled.T, lower=True)
                self.factor[float(value)] = rows.astype(dtype)

    def take(self, keep: NDArray[np.bool_]) -> None:
        self.inverse, self.ridge, self.ranks = self.inverse[:, keep], self.ridge[keep], self.ranks[keep]

    def apply(self, g: Array) -> Array:
        """`g` of shape (d, f, c), multiplied by the metric."""
        step: Array = g * self.inverse[:, :, None]
        for value, factor in self.factor.items():
            of = np.flatnonzero((self.ridge == value) & (self.ranks > 0))
            if len(of):
                _subtract(step, g, of, self.ranks[of], factor)
        return step


def _subtract(out: Array, g: Array, of: NDArray[np.int64], ranks: NDArray[np.int64], rows: Array) -> None:
    """out[:, f] -= rows[:r_f]^T rows[:r_f] g[:, f] for the fits `of`; `rows` is (m, d)."""
    d, _, c = g.shape
    top = int(ranks.max())
    part = rows[:top]
    along = (part @ g[:, of].reshape(d, -1)).reshape(top, len(of), c)
    along[np.arange(top)[:, None] >= ranks[None, :]] = 0.0
    out[:, of] -= (part.T @ along.reshape(top, -1)).reshape(d, len(of), c)


def fit_logistic(
    X: NDArray[Any],
    y: NDArray[np.int64],
    n_classes: int,
    C: NDArray[Any],
    *,
    ranks: NDArray[Any] | None = None,
    Q: NDArray[Any] | None = None,
    sample_weight: NDArray[Any] | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 500,
) -> LinearFits:
    """Fit one logistic regression for every entry of `C`.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Any basis gives the same solutions; principal axes (see `principal_axes`) give the fewest steps.
        float32 is worked in as it is, for speed where a `tol` of 1e-3 will do; all else in float64.
    y : ndarray of shape (n,)
        Class indices 0..n_classes-1.
    C : ndarray of shape (f,)
        Inverse ridge strength of every fit, scikit-learn's convention.
    ranks : ndarray of shape (f,), optional
        How many leading columns of `Q` every fit is orthogonal to; default 0.
    Q : ndarray of shape (d, m), optional
        Orthonormal columns.
    sample_weight : ndarray of shape (n,), optional
    start : LinearFits, optional
        Where to begin, such as the solutions for nearby rows; made orthogonal to Q first.
    tol : float
        A fit is done when its gradient norm is at most this.
    max_iter : int
        A fit that needs more is returned as it is; see ``gradient_norm``.
    """
    n, d = X.shape
    f = len(C)
    dtype = np.dtype(np.float32 if X.dtype == np.float32 else np.float64)
    share = np.full(n, 1.0 / n) if sample_weight is None else np.asarray(sample_weight, np.float64) / n
    weight = share.astype(dtype)
    loss = _Binary(y, weight) if n_classes == 2 else _Softmax(y, weight, n_classes)
    c = 1 if n_classes == 2 else n_classes
    # Centring decouples the intercept from the weights and leaves ridge and constraint as they are.
    mean = weight @ X / weight.sum()
    rows = np.asarray(X - mean, dtype)
    diagonal = loss.curvature * np.einsum("i,ij,ij->j", weight, rows, rows).astype(np.float64)
    ridge = 1.0 / (np.asarray(C, np.float64) * n)
    basis = np.zeros((d, 0)) if Q is None else np.asarray(Q, np.float64)
    r = np.zeros(f, np.int64) if ranks is None else np.asarray(ranks, np.int64)
    state = _State(rows, loss, diagonal, ridge, r, basis, c, weight.sum())
    if start is not None:
        state.begin(start.coef.transpose(2, 0, 1), start.intercept + start.coef @ mean)
    W, b, norms, steps = state.solve(tol, max_iter)
    coef = np.ascontiguousarray(W.transpose(1, 2, 0), np.float64)
    return LinearFits(coef, b - coef @ mean, norms, steps)


class _State:
    """The running batch: weights (d, f, c), intercepts (f, c), logits (n, f, c) of the active fits."""

    def __init__(
        self,
        rows: Array,
        loss: _Binary | _Softmax,
        diagonal: Array,
        ridge: Array,
        ranks: NDArray[np.int64],
        Q: Array,
        c: int,
        total: float,
    ) -> None:
        n, d = rows.shape
        f = len(ridge)
        self.dtype = rows.dtype
        self.rows, self.loss, self.Q_rows = rows, loss, np.ascontiguousarray(Q.T, self.dtype)
        self.metric = _Metric(diagonal, ridge, ranks, Q, self.dtype)
        self.ridge, self.ranks = ridge.astype(self.dtype), ranks
        self.intercept_scale = 1.0 / (loss.curvature * float(total))
        self.W = np.zeros((d, f, c), self.dtype)
        self.b = np.zeros((f, c), self.dtype)
        self.z = np.zeros((n, f, c), self.dtype)
        self.memory: list[tuple[Array, Array, Array, Array, Array]] = []

    def begin(self, W: Array, b: Array) -> None:
        self.W = self._project(np.array(W, self.dtype))
        self.b = np.array(b, self.dtype)
        self.z = self._logits(self.W) + self.b

    def solve(self, tol: float, max_iter: int) -> tuple[Array, Array, Array, NDArray[np.int64]]:
        f = len(self.ridge)
        done_W, done_b = np.zeros_like(self.W), np.zeros_like(self.b)
        norms, steps = np.zeros(f), np.zeros(f, np.int64)
        active = np.arange(f)
        g, gb = self._gradient()
        for step in range(max_iter + 1):
            norm = np.sqrt((g**2).sum(axis=(0, 2)) + (gb**2).sum(axis=1))
            over = (norm <= tol) | (step == max_iter)
            if over.any():
                ids = active[over]
                done_W[:, ids], done_b[ids] = self.W[:, over], self.b[over]
                norms[ids], steps[ids] = norm[over], step
                active = active[~over]
                if not len(active):
                    break
                g, gb = g[:, ~over], gb[~over]
                self._take(~over)
            g, gb, moved = self._step(g, gb)
            if not moved.all():
                ids = active[~moved]
                done_W[:, ids], done_b[ids] = self.W[:, ~moved], self.b[~moved]
                norms[ids] = np.sqrt((g[:, ~moved] ** 2).sum(axis=(0, 2)) + (gb[~moved] ** 2).sum(axis=1))
                steps[ids] = step + 1
                active = active[moved]
                if not len(active):
                    break
                g, gb = g[:, moved], gb[moved]
                self._take(moved)
        return done_W, done_b, norms, steps

    def _take(self, keep: NDArray[np.bool_]) -> None:
        self.W, self.b, self.z = self.W[:, keep], self.b[keep], self.z[:, keep]
        self.ridge, self.ranks = self.ridge[keep], self.ranks[keep]
        self.metric.take(keep)
        self.memory = [
            (s[:, keep], sb[keep], v[:, keep], vb[keep], rho[keep]) for s, sb, v, vb, rho in self.memory
        ]

    def _logits(self, W: Array) -> Array:
        d, f, c = W.shape
        z: Array = self.rows @ W.reshape(d, f * c)
        return z.reshape(len(self.rows), f, c)

    def _project(self, g: Array) -> Array:
        of = np.flatnonzero(self.ranks > 0)
        if len(of):
            _subtract(g, g, of, self.ranks[of], self.Q_rows)
        return g

    def _gradient(self) -> tuple[Array, Array]:
        residual = self.loss.residual(self.z)
        n, f, c = residual.shape
        g = (self.rows.T @ residual.reshape(n, f * c)).reshape(-1, f, c)
        g += self.ridge[None, :, None] * self.W
        return self._project(g), residual.sum(axis=0)

    def _direction(self, g: Array, gb: Array) -> tuple[Array, Array]:
        q, qb = g.copy(), gb.copy()
        kept = []
        for s, sb, v, vb, rho in reversed(self.memory):
            a = rho * (np.einsum("dfc,dfc->f", s, q) + (sb * qb).sum(axis=1))
            q -= a[None, :, None] * v
            qb -= a[:, None] * vb
            kept.append(a)
        p, pb = self.metric.apply(q), qb * self.intercept_scale
        for (s, sb, v, vb, rho), a in zip(self.memory, reversed(kept), strict=True):
            e = a - rho * (np.einsum("dfc,dfc->f", v, p) + (vb * pb).sum(axis=1))
            p += e[None, :, None] * s
            pb += e[:, None] * sb
        return -p, -pb

    def _step(self, g: Array, gb: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """One step of every active fit; the last result tells which could still go down."""
        p, pb = self._direction(g, gb)
        slope = np.einsum("dfc,dfc->f", g, p) + (gb * pb).sum(axis=1)
        along = self._logits(p) + pb
        t = self._line_search(p, along, slope)
        moved = t > 0
        s, sb = t[None, :, None] * p, t[:, None] * pb
        self.W = self.W + s
        self.b = self.b + sb
        self.z = self.z + t[None, :, None] * along
        new, new_b = self._gradient()
        v, vb = new - g, new_b - gb
        curvature = np.einsum("dfc,dfc->f", s, v) + (sb * vb).sum(axis=1)
        rho = np.divide(
            1.0, curvature, out=np.zeros_like(curvature), where=curvature > np.finfo(self.dtype).tiny
        )
        self.memory = [*self.memory[-(MEMORY - 1) :], (s, sb, v, vb, rho)]
        return new, new_b, moved

    def _line_search(self, p: Array, along: Array, slope: Array) -> Array:
        """Step lengths by Newton's method on the line; logits along it need no product with X."""
        square = np.einsum("dfc,dfc->f", p, p)
        cross = np.einsum("dfc,dfc->f", self.W, p)
        t = np.ones(len(slope), self.dtype)
        t[slope >= 0] = 0.0
        low, high = np.zeros_like(t), np.full_like(t, np.inf)
        for _ in range(LINE_SEARCH_STEPS):
            z = self.z + t[None, :, None] * along
            first = (self.loss.residual(z) * along).sum(axis=(0, 2)) + self.ridge * (cross + t * square)
            good = (np.abs(first) <= 0.3 * np.abs(slope)) | (slope >= 0)
            if good.all():
                break
            # The line is convex: the sign of its slope tells on which side the minimum lies.
            low, high = np.where(first < 0, t, low), np.where(first >= 0, t, high)
            second = self.loss.bend(z, along) + self.ridge * square
            newton = t - first / np.maximum(second, np.finfo(self.dtype).tiny)
            middle = np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * np.maximum(t, low))
            newton = np.where(
                (newton > low) & (newton < np.minimum(high, 10 * np.maximum(t, 1e-12))), newton, middle
            )
            t = np.where(good, t, newton)
        return t
