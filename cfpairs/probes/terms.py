"""Parts of the objective that the convex solver minimises, for many fits at once.

Losses, the quadratic penalty, and the inverse of the curvature that all of them have at zero.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.special import expit, softmax

__all__ = ["Binary", "LocalMetric", "Metric", "Penalty", "Quadratic", "Softmax", "product", "subtract"]

Array = NDArray[np.floating[Any]]

CHUNK = 8192
"""Rows that are weighted at once where a curvature is added up, which bounds what that takes beside X."""

FEW_COLUMNS = 5
"""Up to so many products of a matrix and a vector take half as long as one of two matrices."""


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

    @property
    def orthogonal(self) -> bool:
        """Whether the rows of `B` are orthogonal to each other, up to rounding."""
        gram = np.asarray(self.B, np.float64) @ np.asarray(self.B, np.float64).T
        size = np.sqrt(np.maximum(np.diag(gram), np.finfo(np.float64).tiny))
        angle = np.abs(gram / np.outer(size, size))
        np.fill_diagonal(angle, 0.0)
        return bool(angle.max(initial=0.0) < 1e-6)

    def take(self, fits: NDArray[Any]) -> Penalty:
        """The same for some of the fits."""
        return Penalty(self.B, self.strength[fits], self.ranks[fits])


class Binary:
    """Cross-entropy on one logit; classes 0 and 1."""

    curvature = 0.25

    def __init__(self, y: NDArray[np.int64], weight: Array) -> None:
        self.y = y[:, None, None].astype(weight.dtype)
        self.weight = weight[:, None, None]

    def residual(self, z: Array) -> Array:
        """Derivative of the loss by the logits, shape (n, f, c)."""
        share: Array = expit(z)
        share -= self.y
        share *= self.weight
        return share

    def bend(self, z: Array) -> Array:
        """Second derivative of the loss by the logits, shape (n, f, c)."""
        share: Array = expit(z)
        return np.asarray(share * (1.0 - share) * self.weight)

    def line(self, z: Array, p: Array) -> tuple[Array, Array]:
        """Slope and curvature of every fit's loss at `z`, along `p`; both of shape (n, f, c)."""
        share: Array = expit(z)
        first = np.einsum("ifc,ifc->f", share - self.y, p * self.weight)
        share *= 1.0 - share
        share *= p
        share *= self.weight
        return first, np.einsum("ifc,ifc->f", share, p)


class Softmax:
    """Cross-entropy on one logit a class."""

    curvature = 0.5

    def __init__(self, y: NDArray[np.int64], weight: Array, n_classes: int) -> None:
        self.target = np.eye(n_classes, dtype=weight.dtype)[y][:, None, :]
        self.weight = weight[:, None, None]

    def residual(self, z: Array) -> Array:
        """Derivative of the loss by the logits, shape (n, f, c)."""
        share: Array = softmax(z, axis=2)
        share -= self.target
        share *= self.weight
        return share

    def bend(self, z: Array) -> Array:
        """Second derivative of the loss by every logit alone, shape (n, f, c)."""
        share: Array = softmax(z, axis=2)
        return np.asarray(share * (1.0 - share) * self.weight)

    def line(self, z: Array, p: Array) -> tuple[Array, Array]:
        """Slope and curvature of every fit's loss at `z`, along `p`; both of shape (n, f, c)."""
        share: Array = softmax(z, axis=2)
        mean = np.einsum("ifc,ifc->if", share, p)[:, :, None]
        along = p * self.weight
        first = np.einsum("ifc,ifc->f", share - self.target, along)
        along *= share
        return first, np.einsum("ifc,ifc->f", along, p - mean)


class Quadratic:
    """The penalty of the active fits, and its products with B; `at` is that with the weights."""

    def __init__(self, penalty: Penalty, c: int, dtype: np.dtype[Any]) -> None:
        self.B = np.ascontiguousarray(penalty.B, dtype)
        self.strength, self.ranks = penalty.strength.astype(dtype), penalty.ranks
        self.at = np.zeros((len(self.B), len(self.ranks), c), dtype)
        self.step = self.at
        self.damp: Array | None = None

    def damp_beyond(self, curvature: float) -> None:
        """From now on, `excess` is what penalties stiffer than `curvature` make the gradient too large by."""
        squares = np.einsum("md,md->m", self.B, self.B)[:, None].astype(np.float64)
        stiff = 2.0 * self.strength[None, :] * squares
        share = 1.0 - curvature / (curvature + stiff)
        # B g holds the length of a row once more than the gradient along it.
        self.damp = (share / np.maximum(squares, np.finfo(np.float32).tiny)).astype(self.B.dtype)

    def excess(self, g: Array) -> Array:
        """What not to count of the squared norm of `g`, (d, f, c), for every fit."""
        if self.damp is None:
            return np.zeros(g.shape[1], g.dtype)
        part = self.along(g)
        found: Array = np.einsum("mf,mfc,mfc->f", self.damp, part, part)
        return found

    def take(self, keep: NDArray[np.bool_]) -> Quadratic:
        """The same for some of the fits."""
        some = copy.copy(self)
        some.strength, some.ranks, some.at = self.strength[keep], self.ranks[keep], self.at[:, keep]
        if self.damp is not None:
            some.damp = self.damp[:, keep]
        return some

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
        """Take steps of lengths `t` along the last direction."""
        self.at = self.at + t[None, :, None] * self.step


class Metric:
    """Inverse curvature at W = 0 within the constraint, for fits that share X and the rows B.

    ``(A + 2 l B^T B)^-1 = A^-1 - F^T F`` with ``F = L^-1 B A^-1`` and ``L L^T = I / (2 l) + B A^-1 B^T``; as
    l grows without limit, that is the inverse on the space where B W = 0.

    Where all fits take the same rows of B, the eigenvectors U of ``B A^-1 B^T`` serve every finite strength:
    ``F = (I / (2 l) + Lambda)^-1/2 U^T B A^-1``, of which only the diagonal depends on l.
    """

    def __init__(
        self,
        diagonal: Array,
        ridge: Array,
        B: Array,
        ranks: NDArray[np.int64],
        strength: Array,
        level: float,
        dtype: np.dtype[Any],
    ) -> None:
        self.level = level
        self.ranks = np.where(strength > 0, ranks, 0)
        values, self.of_ridge = np.unique(ridge, return_inverse=True)
        self.inverse = (1.0 / (diagonal[:, None] + values[None, :])).astype(dtype)
        self.factor: dict[int, Array] = {}
        self.shrink: Array | None = None
        penalised = self.ranks[self.ranks > 0]
        if len(penalised) and (penalised == penalised[0]).all() and np.isfinite(strength).all():
            self._share(diagonal, values, B[: penalised[0]], strength, dtype)
            return
        self.pairs, self.kind = np.unique(np.stack([ridge, strength]), axis=1, return_inverse=True)
        self.kind = self.kind.reshape(-1)
        for number in np.unique(self.kind[self.ranks > 0]):
            value, strong = self.pairs[:, number]
            rows = B[: self.ranks[self.kind == number].max()]
            scaled = rows / (diagonal + value)
            inner = scaled @ rows.T
            inner[np.diag_indices(len(inner))] += 0.5 / strong
            self.factor[int(number)] = np.linalg.solve(np.linalg.cholesky(inner), scaled).astype(dtype)

    def _share(self, diagonal: Array, values: Array, B: Array, strength: Array, dtype: np.dtype[Any]) -> None:
        """One factor a ridge, and for every fit what its strength makes of the factor's rows."""
        self.kind = self.of_ridge
        self.shrink = np.zeros((len(B), len(strength)), dtype)
        for number in np.unique(self.kind[self.ranks > 0]):
            scaled = B / (diagonal + values[number])
            eigenvalues, U = np.linalg.eigh(scaled @ B.T)
            of = np.flatnonzero((self.kind == number) & (self.ranks > 0))
            least = np.maximum(eigenvalues, 0.0)[:, None] + 0.5 / strength[of]
            self.shrink[:, of] = 1.0 / least
            self.factor[int(number)] = (U.T @ scaled).astype(dtype)

    def take(self, keep: NDArray[np.bool_]) -> Metric:
        """The same for some of the fits."""
        some = copy.copy(self)
        some.of_ridge, some.kind, some.ranks = self.of_ridge[keep], self.kind[keep], self.ranks[keep]
        if self.shrink is not None:
            some.shrink = self.shrink[:, keep]
        return some

    def apply(self, g: Array, gb: Array) -> tuple[Array, Array]:
        """Gradients in weights, (d, f, c), and intercepts, (f, c), multiplied by the metric."""
        step: Array = g * self.inverse[:, self.of_ridge, None]
        for number, factor in self.factor.items():
            of = np.flatnonzero((self.kind == number) & (self.ranks > 0))
            if len(of):
                shrink = None if self.shrink is None else self.shrink[:, of]
                subtract(step, g, of, self.ranks[of], factor, shrink)
        return step, gb * self.level


class LocalMetric:
    """Inverse curvature of one fit where it stands, within its constraint.

    The intercept goes by elimination: with row curvatures s that add up to S and ``h = X^T s``, the weights
    have ``A = X^T diag(s) X - h h^T / S`` and the ridge and penalty. More classes than two have one such
    matrix each, which leaves out how their logits depend on each other.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
    share : ndarray of shape (n, c)
        Curvature of the loss in every logit, at least 0.
    ridge : float
    Q : ndarray of shape (d, r)
        Orthonormal columns; the metric lies in the space orthogonal to them.
    B : ndarray of shape (m, d), optional
        Rows of a penalty ``strength * ||B W||^2``.
    strength : float

    Raises
    ------
    numpy.linalg.LinAlgError
        If a matrix is not positive definite in floating point.
    """

    def __init__(
        self, rows: Array, share: Array, ridge: float, Q: Array, B: Array | None, strength: float
    ) -> None:
        # NumPy's LAPACK lets other threads run, SciPy's does not: hence not its Cholesky factors.
        tiny = np.finfo(np.float64).tiny
        self.total = np.maximum(share.sum(axis=0), tiny)
        self.mean = rows.T @ share / self.total
        self.lower, self.barred = [], []
        for level, mean, total in zip(share.T, self.mean.T, self.total, strict=True):
            bend = -total * np.outer(mean, mean)
            for part in range(0, len(rows), CHUNK):
                scaled = rows[part : part + CHUNK] * np.sqrt(level[part : part + CHUNK, None])
                bend += scaled.T @ scaled
            if B is not None and strength > 0:
                bend += (2.0 * strength) * (B.T @ B)
            bend[np.diag_indices(len(bend))] += ridge
            lower = np.linalg.cholesky(bend)
            self.lower.append(lower)
            across = scipy.linalg.cho_solve((lower, True), Q, check_finite=False)
            inner = np.linalg.cholesky(Q.T @ across) if Q.shape[1] else np.zeros((0, 0))
            self.barred.append(np.linalg.solve(inner, across.T))

    def take(self, keep: NDArray[np.bool_]) -> LocalMetric:
        """The same: a batch of one fit goes on whole or not at all."""
        return self

    def apply(self, g: Array, gb: Array) -> tuple[Array, Array]:
        """Gradients in weights, (d, 1, c), and intercepts, (1, c), multiplied by the metric."""
        step, level = np.empty_like(g), np.empty_like(gb)
        for j, (lower, barred) in enumerate(zip(self.lower, self.barred, strict=True)):
            along = g[:, 0, j] - self.mean[:, j] * gb[0, j]
            p = scipy.linalg.cho_solve((lower, True), along, check_finite=False)
            p -= barred.T @ (barred @ along)
            step[:, 0, j] = p
            level[0, j] = gb[0, j] / self.total[j] - self.mean[:, j] @ p
        if len(self.lower) > 1:
            # A number added to all intercepts changes no probability: keep it as it is.
            level -= level.mean()
        return step, level


def product(A: Array, B: Array) -> Array:
    """``A @ B``; column by column where those are few, as libraries copy all of A to multiply matrices."""
    columns = B.shape[1]
    if not 1 < columns <= FEW_COLUMNS:
        return np.asarray(A @ B)
    found = np.empty((len(A), columns), np.result_type(A, B))
    for j in range(columns):
        found[:, j] = A @ np.ascontiguousarray(B[:, j])
    return found


def subtract(
    out: Array,
    g: Array,
    of: NDArray[np.int64],
    ranks: NDArray[np.int64],
    rows: Array,
    shrink: Array | None = None,
) -> None:
    """out[:, f] -= rows[:r_f]^T S_f rows[:r_f] g[:, f] for the fits `of`; `rows` is (m, d).

    S_f is the identity, or the diagonal of column f of `shrink`, (m, fits).
    """
    d, _, c = g.shape
    top = int(ranks.max())
    part = rows[:top]
    along = (part @ g[:, of].reshape(d, -1)).reshape(top, len(of), c)
    along[np.arange(top)[:, None] >= ranks[None, :]] = 0.0
    if shrink is not None:
        along *= shrink[:, :, None]
    out[:, of] -= (part.T @ along.reshape(top, -1)).reshape(d, len(of), c)
