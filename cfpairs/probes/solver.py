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

Where the ridge is weak and rows are far from the boundary, the curvature at W = 0 is no guide. Fits that are
not done after `PATIENCE` steps go on one by one, with the inverse of the curvature where they stand, computed
anew every few steps: Newton's method, kept safe by the same line search.

What grows with the number of fits are logits, (n, f, c). A batch whose working memory would be over a limit
is split; its fits do not depend on each other, so that changes nothing but rounding.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.probes.fits import LinearFits
from cfpairs.probes.terms import Binary, LocalMetric, Metric, Penalty, Quadratic, Softmax, product, subtract

__all__ = ["MAX_BYTES", "Penalty", "fit_logistic", "principal_axes"]

Array = NDArray[np.floating[Any]]

MEMORY = 8
LINE_SEARCH_STEPS = 12

PATIENCE = 50
"""Steps after which a fit in float64 goes on alone with the curvature where it stands."""

REFRESH = 10
"""Steps that one such curvature serves: it costs as much as some fifty of them."""

LOCAL_DIM = 4096
"""Above so many columns the curvature, d x d, is not worth its memory."""

MAX_BYTES = 2**30
"""Working memory of the fits that run at once, beside two copies of X."""

ROW_ARRAYS, COLUMN_ARRAYS, PENALTY_ARRAYS = 7, 40, 6
"""Numbers that a fit holds for every row of X, column of X and row of B, times c: logits and what a step
makes of them; weights, gradients and the L-BFGS memory; the penalty. Measured peaks: 6.3 and 36."""


def principal_axes(X: NDArray[Any]) -> NDArray[np.float64]:
    """Orthogonal (d, d) matrix whose columns are the principal axes of the rows of X."""
    centred = np.asarray(X - X.mean(axis=0), np.float64)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.ascontiguousarray(vectors[:, ::-1])


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
        float32 is worked in as it is, for speed where a `tol` of 1e-3 will do, unless there is a penalty
        whose rows are not orthogonal. All else, float16 too, is worked on in float64.
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
        A fit is done when its gradient norm is at most this. In float32, the gradient along a row of a
        penalty counts less by the root of how much stiffer the penalty is than the rows of X at their
        stiffest: rounding of the weights, multiplied by a strong penalty, would be over any `tol`.
    max_iter : int
        A fit that needs more is returned as it is; see ``gradient_norm``.
    max_bytes : int
        Working memory of the fits that run at once; more fits than that run in several batches. Beside it
        stand X and one centred copy.
    """
    n, d = X.shape
    f = len(C)
    rough = X.dtype == np.float32 and (penalty is None or penalty.orthogonal)
    dtype = np.dtype(np.float32 if rough else np.float64)
    X = np.asarray(X, dtype)
    share = np.full(n, 1.0 / n) if sample_weight is None else np.asarray(sample_weight, np.float64) / n
    weight = share.astype(dtype)
    loss = Binary(y, weight) if n_classes == 2 else Softmax(y, weight, n_classes)
    c = 1 if n_classes == 2 else n_classes
    # Centring decouples the intercept from the weights and leaves ridge and constraint as they are.
    mean = np.asarray(weight @ X / weight.sum(), np.float64)
    rows = np.subtract(X, mean, dtype=dtype, casting="same_kind")
    diagonal = loss.curvature * np.einsum("i,ij,ij->j", weight, rows, rows).astype(np.float64)
    ridge = 1.0 / (np.asarray(C, np.float64) * n)
    basis = np.zeros((d, 0)) if Q is None else np.asarray(Q, np.float64)
    r = np.zeros(f, np.int64) if ranks is None else np.asarray(ranks, np.int64)
    numbers = ROW_ARRAYS * n + COLUMN_ARRAYS * d
    numbers += 0 if penalty is None else PENALTY_ARRAYS * len(penalty.B)
    room = max(1, max_bytes // (dtype.itemsize * c * numbers))
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
        loss: Binary | Softmax,
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
        self.quadratic = None if penalty is None else Quadratic(penalty, c, self.dtype)
        if self.quadratic is not None and self.dtype == np.float32:
            self.quadratic.damp_beyond(float(diagonal.max()))
        # Where there are both, the metric knows the constraint only: slower, not less right.
        if penalty is None or ranks.any():
            rows_of, of_rank, strength = Q.T, ranks, np.full(f, np.inf)
        else:
            rows_of, of_rank, strength = np.asarray(penalty.B, np.float64), penalty.ranks, penalty.strength
        level = 1.0 / (loss.curvature * total)
        self.metric: Metric | LocalMetric = Metric(
            diagonal, ridge, rows_of, of_rank, strength, level, self.dtype
        )
        self.ridge, self.ranks = ridge.astype(self.dtype), ranks
        self.Q, self.penalty, self.local = Q, penalty, False
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
        """Weights, intercepts, gradient norms and numbers of steps of all fits."""
        f = len(self.ridge)
        done_W, done_b = np.zeros_like(self.W), np.zeros_like(self.b)
        norms, steps = np.zeros(f), np.zeros(f, np.int64)
        active = np.arange(f)
        g, gb = self._gradient()
        for step in range(max_iter + 1):
            norm = self._norm(g, gb)
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
            if step == PATIENCE and self._may_go_alone():
                for i, fit in enumerate(active):
                    W, b, norm, more = self._alone(i).solve(tol, max_iter - step)
                    done_W[:, fit], done_b[fit] = W[:, 0], b[0]
                    norms[fit], steps[fit] = norm[0], step + more[0]
                break
            if self.local and step % REFRESH == 0:
                self._look_around()
            g, gb, moved = self._step(g, gb)
            if not moved.all():
                ids = active[~moved]
                done_W[:, ids], done_b[ids] = self.W[:, ~moved], self.b[~moved]
                norms[ids] = self._norm(g, gb)[~moved]
                steps[ids] = step + 1
                active = active[moved]
                if not len(active):
                    break
                g, gb = g[:, moved], gb[moved]
                self._take(moved)
        return done_W, done_b, norms, steps

    def _may_go_alone(self) -> bool:
        return not self.local and self.dtype == np.float64 and len(self.W) <= LOCAL_DIM

    def _alone(self, fit: int) -> _State:
        """One of the active fits, from where it stands, with the curvature that it has there."""
        one = copy.copy(self)
        one._take(np.arange(len(self.ridge)) == fit)
        one.memory, one.local = [], True
        return one

    def _look_around(self) -> None:
        """Take the curvature where the only fit of this batch stands, if it can be inverted."""
        share = self.loss.bend(self.z)[:, 0]
        B, strength = None, 0.0
        if self.penalty is not None:
            B, strength = self.penalty.B[: self.penalty.ranks[0]], float(self.penalty.strength[0])
        rank = int(self.ranks[0])
        try:
            self.metric = LocalMetric(self.rows, share, float(self.ridge[0]), self.Q[:, :rank], B, strength)
        except np.linalg.LinAlgError:
            return
        self.memory = []

    def _norm(self, g: Array, gb: Array) -> Array:
        squares = np.einsum("dfc,dfc->f", g, g)
        if self.quadratic is not None:
            squares = np.maximum(squares - self.quadratic.excess(g), 0.0)
        norm: Array = np.sqrt(squares + (gb**2).sum(axis=1))
        return norm

    def _take(self, keep: NDArray[np.bool_]) -> None:
        self.W, self.b, self.z = self.W[:, keep], self.b[keep], self.z[:, keep]
        self.ridge, self.ranks = self.ridge[keep], self.ranks[keep]
        self.metric = self.metric.take(keep)
        if self.penalty is not None:
            self.penalty = self.penalty.take(np.flatnonzero(keep))
        if self.quadratic is not None:
            self.quadratic = self.quadratic.take(keep)
        self.memory = [
            (s[:, keep], sb[keep], v[:, keep], vb[keep], rho[keep]) for s, sb, v, vb, rho in self.memory
        ]

    def _logits(self, W: Array) -> Array:
        d, f, c = W.shape
        z = product(self.rows, W.reshape(d, f * c))
        return z.reshape(len(self.rows), f, c)

    def _project(self, g: Array) -> Array:
        of = np.flatnonzero(self.ranks > 0)
        if len(of):
            subtract(g, g, of, self.ranks[of], self.Q_rows)
        return g

    def _gradient(self) -> tuple[Array, Array]:
        residual = self.loss.residual(self.z)
        n, f, c = residual.shape
        g = product(self.rows.T, residual.reshape(n, f * c)).reshape(-1, f, c)
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
        p, pb = self.metric.apply(q, qb)
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
