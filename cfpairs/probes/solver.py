"""Many logistic regressions that share their rows, fitted at once.

Every fit f minimises, over weights W (d, c) and an intercept b (c),

    (1/n) sum_i s_i CE(y_i, x_i^T W + b) + ||W||^2 / (2 C_f n) + l_f ||B_f W||^2    subject to Q_f^T W = 0,

where Q_f are the first r_f columns of one orthonormal Q, and B_f the first rows of one B. This is
scikit-learn's objective divided by ``C n``, and what methods add. Two classes share one logit; more have
one each.

The method is L-BFGS on all fits together, so that a step costs two products with X for any number of
fits. Its first metric is the inverse of the curvature at W = 0 restricted to the constraint: a diagonal
(exact when the columns of X are principal axes) and, by Woodbury's identity, a correction of rank r. Because
leading blocks of a Cholesky factor are factors of leading blocks, one factorisation serves every r with the
same C. A constraint is a penalty of infinite strength, and has the same formula.

What grows with the number of fits are logits, (n, f, c). A batch whose working memory would be over a limit
is split; its fits do not depend on each other, so that changes nothing but rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, softmax

__all__ = ["MAX_BYTES", "LinearFits", "Penalty", "decide", "fit_logistic", "principal_axes"]

Array = NDArray[np.floating[Any]]

MEMORY = 8
LINE_SEARCH_STEPS = 12

MAX_BYTES = 2**30
"""Working memory of the fits that run at once, beside two copies of X."""

ROW_ARRAYS, COLUMN_ARRAYS = 9, 40
"""Numbers that a fit holds for every row and every column of X, times c: logits and what a step makes of
them; weights, gradients and the L-BFGS memory. Measured at the peak."""


@dataclass(frozen=True)
class Penalty:
    """The term ``strength_f * ||B[:ranks_f] W||^2`` of a batch of fits.

    Attributes
    ----------
    B : ndarray of shape (m, d)
        The same for all; methods of rank r order its rows by importance.
    strength : ndarray of shape (f,)
        0 or more.
    ranks : ndarray of shape (f,)
        How many rows of `B` a fit takes.
    """

    B: Array
    strength: Array
    ranks: NDArray[np.int64]

    def take(self, fits: NDArray[Any]) -> Penalty:
        """The same for some of the fits."""
        return Penalty(self.B, self.strength[fits], self.ranks[fits])


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

    def take(self, fits: Sequence[int] | NDArray[np.int64]) -> LinearFits:
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
        self.weight = weight[:, None, None]

    def residual(self, z: Array) -> Array:
        share: Array = expit(z)
        share -= self.y
        share *= self.weight
        return share

    def line(self, z: Array, p: Array) -> tuple[Array, Array]:
        """Slope and curvature of every fit's loss at `z`, along `p`; both of shape (n, f, c)."""
        share: Array = expit(z)
        first = np.einsum("ifc,ifc->f", share - self.y, p * self.weight)
        share *= 1.0 - share
        share *= p
        share *= self.weight
        return first, np.einsum("ifc,ifc->f", share, p)


class _Softmax:
    """Cross-entropy on one logit a class."""

    curvature = 0.5

    def __init__(self, y: NDArray[np.int64], weight: Array, n_classes: int) -> None:
        self.target = np.eye(n_classes, dtype=weight.dtype)[y][:, None, :]
        self.weight = weight[:, None, None]

    def residual(self, z: Array) -> Array:
        share: Array = softmax(z, axis=2)
        share -= self.target
        share *= self.weight
        return share

    def line(self, z: Array, p: Array) -> tuple[Array, Array]:
        """Slope and curvature of every fit's loss at `z`, along `p`; both of shape (n, f, c)."""
        share: Array = softmax(z, axis=2)
        mean = np.einsum("ifc,ifc->if", share, p)[:, :, None]
        along = p * self.weight
        first = np.einsum("ifc,ifc->f", share - self.target, along)
        along *= share
        return first, np.einsum("ifc,ifc->f", along, p - mean)


class _Quadratic:
    """The penalty of the active fits, and its products with B; `at` is that with the weights."""

    def __init__(self, penalty: Penalty, c: int, dtype: np.dtype[Any]) -> None:
        self.B = np.ascontiguousarray(penalty.B, dtype)
        self.strength, self.ranks = penalty.strength.astype(dtype), penalty.ranks
        self.at = np.zeros((len(self.B), len(self.ranks), c), dtype)
        self.step = self.at

    def take(self, keep: NDArray[np.bool_]) -> None:
        self.strength, self.ranks, self.at = self.strength[keep], self.ranks[keep], self.at[:, keep]

    def along(self, W: Array) -> Array:
        """B_f W, shape (m, f, c)."""
        d, f, c = W.shape
        part: Array = (self.B @ W.reshape(d, f * c)).reshape(-1, f, c)
        part[np.arange(len(self.B))[:, None] >= self.ranks[None, :]] = 0.0
        return part

    def gradient(self) -> Array:
        """Of the penalty at the weights; shape (d, f, c)."""
        m, f, c = self.at.shape
        pulled: Array = self.B.T @ (self.at * (2.0 * self.strength)[None, :, None]).reshape(m, f * c)
        return pulled.reshape(-1, f, c)

    def line(self, p: Array) -> tuple[Array, Array]:
        """Slope at the weights, and curvature, along `p`, which `move` then goes along."""
        self.step = self.along(p)
        first, second = (np.einsum("mfc,mfc->f", side, self.step) for side in (self.at, self.step))
        return 2.0 * self.strength * first, 2.0 * self.strength * second

    def move(self, t: Array) -> None:
        self.at = self.at + t[None, :, None] * self.step


class _Metric:
    """Inverse curvature at W = 0 within the constraint, for fits that share X and the rows B.

    ``(A + 2 l B^T B)^-1 = A^-1 - F^T F`` with ``F = L^-1 B A^-1`` and ``L L^T = I / (2 l) + B A^-1 B^T``; as
    l grows without limit, that is the inverse on the space where B W = 0.
    """

    def __init__(
        self,
        diagonal: Array,
        ridge: Array,
        B: Array,
        ranks: NDArray[np.int64],
        strength: Array,
        dtype: np.dtype[Any],
    ) -> None:
        self.ranks = np.where(strength > 0, ranks, 0)
        values, self.of_ridge = np.unique(ridge, return_inverse=True)
        self.inverse = (1.0 / (diagonal[:, None] + values[None, :])).astype(dtype)
        self.pairs, self.kind = np.unique(np.stack([ridge, strength]), axis=1, return_inverse=True)
        self.kind = self.kind.reshape(-1)
        self.factor: dict[int, Array] = {}
        for number in np.unique(self.kind[self.ranks > 0]):
            value, strong = self.pairs[:, number]
            rows = B[: self.ranks[self.kind == number].max()]
            scaled = rows / (diagonal + value)
            inner = scaled @ rows.T
            inner[np.diag_indices(len(inner))] += 0.5 / strong
            lower = scipy.linalg.cholesky(inner, lower=True)
            self.factor[int(number)] = scipy.linalg.solve_triangular(lower, scaled, lower=True).astype(dtype)

    def take(self, keep: NDArray[np.bool_]) -> None:
        self.of_ridge, self.kind, self.ranks = self.of_ridge[keep], self.kind[keep], self.ranks[keep]

    def apply(self, g: Array) -> Array:
        """`g` of shape (d, f, c), multiplied by the metric."""
        step: Array = g * self.inverse[:, self.of_ridge, None]
        for number, factor in self.factor.items():
            of = np.flatnonzero((self.kind == number) & (self.ranks > 0))
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
    penalty: Penalty | None = None,
    sample_weight: NDArray[Any] | None = None,
    start: LinearFits | None = None,
    tol: float = 1e-6,
    max_iter: int = 500,
    max_bytes: int = MAX_BYTES,
) -> LinearFits:
    """Fit one logistic regression for every entry of `C`.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Any basis gives the same solutions; principal axes (see `principal_axes`) give the fewest steps.
        float32 is worked in as it is, for speed where a `tol` of 1e-3 will do, unless there is a penalty: a
        strong one multiplies the rounding of the weights. All else, float16 too, is worked on in float64.
    y : ndarray of shape (n,)
        Class indices 0..n_classes-1.
    C : ndarray of shape (f,)
        Inverse ridge strength of every fit, scikit-learn's convention.
    ranks : ndarray of shape (f,), optional
        How many leading columns of `Q` every fit is orthogonal to; default 0.
    Q : ndarray of shape (d, m), optional
        Orthonormal columns.
    penalty : Penalty, optional
        Beside the ridge.
    sample_weight : ndarray of shape (n,), optional
    start : LinearFits, optional
        Where to begin, such as the solutions for nearby rows; made orthogonal to Q first.
    tol : float
        A fit is done when its gradient norm is at most this.
    max_iter : int
        A fit that needs more is returned as it is; see ``gradient_norm``.
    max_bytes : int
        Working memory of the fits that run at once; more fits than that run in several batches. Beside it
        stand X and one centred copy.
    """
    n, d = X.shape
    f = len(C)
    dtype = np.dtype(np.float32 if X.dtype == np.float32 and penalty is None else np.float64)
    X = np.asarray(X, dtype)
    share = np.full(n, 1.0 / n) if sample_weight is None else np.asarray(sample_weight, np.float64) / n
    weight = share.astype(dtype)
    loss = _Binary(y, weight) if n_classes == 2 else _Softmax(y, weight, n_classes)
    c = 1 if n_classes == 2 else n_classes
    # Centring decouples the intercept from the weights and leaves ridge and constraint as they are.
    mean = np.asarray(weight @ X / weight.sum(), np.float64)
    rows = np.subtract(X, mean, dtype=dtype, casting="same_kind")
    diagonal = loss.curvature * np.einsum("i,ij,ij->j", weight, rows, rows).astype(np.float64)
    ridge = 1.0 / (np.asarray(C, np.float64) * n)
    basis = np.zeros((d, 0)) if Q is None else np.asarray(Q, np.float64)
    r = np.zeros(f, np.int64) if ranks is None else np.asarray(ranks, np.int64)
    room = max(1, max_bytes // (dtype.itemsize * c * (ROW_ARRAYS * n + COLUMN_ARRAYS * d)))
    parts = []
    for of in np.array_split(np.arange(f), max(1, -(-f // room))):
        own = None if penalty is None else penalty.take(of)
        state = _State(rows, loss, diagonal, ridge[of], r[of], basis, own, c, float(share.sum()))
        if start is not None:
            near = start.take(of)
            state.begin(near.coef.transpose(2, 0, 1), near.intercept + near.coef @ mean)
        W, b, norms, steps = state.solve(tol, max_iter)
        coef = np.ascontiguousarray(W.transpose(1, 2, 0), np.float64)
        parts.append(LinearFits(coef, b - coef @ mean, norms, steps))
    return LinearFits.join(parts)


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
        penalty: Penalty | None,
        c: int,
        total: float,
    ) -> None:
        n, d = rows.shape
        f = len(ridge)
        self.dtype = rows.dtype
        self.rows, self.loss, self.Q_rows = rows, loss, np.ascontiguousarray(Q.T, self.dtype)
        self.quadratic = None if penalty is None else _Quadratic(penalty, c, self.dtype)
        # Where there are both, the metric knows the constraint only: slower, not less right.
        if penalty is None or ranks.any():
            self.metric = _Metric(diagonal, ridge, Q.T, ranks, np.full(f, np.inf), self.dtype)
        else:
            B = np.asarray(penalty.B, np.float64)
            self.metric = _Metric(diagonal, ridge, B, penalty.ranks, penalty.strength, self.dtype)
        self.ridge, self.ranks = ridge.astype(self.dtype), ranks
        self.intercept_scale = 1.0 / (loss.curvature * total)
        self.W = np.zeros((d, f, c), self.dtype)
        self.b = np.zeros((f, c), self.dtype)
        self.z = np.zeros((n, f, c), self.dtype)
        self.memory: list[tuple[Array, Array, Array, Array, Array]] = []

    def begin(self, W: Array, b: Array) -> None:
        self.W = self._project(np.array(W, self.dtype))
        self.b = np.array(b, self.dtype)
        self.z = self._logits(self.W) + self.b
        if self.quadratic is not None:
            self.quadratic.at = self.quadratic.along(self.W)

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
        if self.quadratic is not None:
            self.quadratic.take(keep)
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
        if self.quadratic is not None:
            g += self.quadratic.gradient()
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
        if self.quadratic is not None:
            self.quadratic.move(t)
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
        flat, bend = self._quadratics(p)
        t = np.ones(len(slope), self.dtype)
        t[slope >= 0] = 0.0
        low, high = np.zeros_like(t), np.full_like(t, np.inf)
        for _ in range(LINE_SEARCH_STEPS):
            z = t[None, :, None] * along
            z += self.z
            first, second = self.loss.line(z, along)
            first += flat + t * bend
            good = (np.abs(first) <= 0.3 * np.abs(slope)) | (slope >= 0)
            if good.all():
                break
            # The line is convex: the sign of its slope tells on which side the minimum lies.
            low, high = np.where(first < 0, t, low), np.where(first >= 0, t, high)
            second += bend
            newton = t - first / np.maximum(second, np.finfo(self.dtype).tiny)
            middle = np.where(np.isfinite(high), 0.5 * (low + high), 2.0 * np.maximum(t, low))
            newton = np.where(
                (newton > low) & (newton < np.minimum(high, 10 * np.maximum(t, 1e-12))), newton, middle
            )
            t = np.where(good, t, newton)
        return t

    def _quadratics(self, p: Array) -> tuple[Array, Array]:
        """Slope at W, and curvature, of ridge and penalty along `p`."""
        flat = self.ridge * np.einsum("dfc,dfc->f", self.W, p)
        bend = self.ridge * np.einsum("dfc,dfc->f", p, p)
        if self.quadratic is not None:
            first, second = self.quadratic.line(p)
            flat, bend = flat + first, bend + second
        return flat, bend
