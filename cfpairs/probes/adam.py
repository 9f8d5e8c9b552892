"""Batched Adam: all fits, whatever their hyperparameters, in one product with the rows a step.

All methods that are not convex, or that draw as they go, begin at the logistic regression of the same ridge:
the phase without penalty by which their papers begin, brought to its end. From there Adam moves the weights
of the leading principal axes, in coordinates where every axis has the same curvature; the other axes, if
there are many, hold a twentieth of the variance and keep the weights of the start. So sixty steps do the work
of the thousands that the plain coordinates need.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfpairs.probes.fits import LinearFits
from cfpairs.probes.method import FitData, Setting
from cfpairs.probes.solver import fit_logistic

__all__ = ["Batch", "Field", "Objective", "cross_entropy", "descend", "residual"]

Array = NDArray[np.floating[Any]]

FULL_ROWS = 8192
"""Up to so many rows every step sees all of them, which takes the noise away; above, so many at random."""

LEADING = 0.95
FEWEST_AXES = 256
"""The weights of so many principal axes move, or of more where these hold less than 95 % of the variance."""

EPS = 2e-3
"""Adam's floor under the gradient's size. Where every axis has curvature 1 this keeps steps near an optimum
below the size at which they would grow; with the usual 1e-8 a fit that starts at its optimum would be driven
away from it by rounding errors."""

BETA_1, BETA_2 = 0.9, 0.999

START_TOL = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-10}


def cross_entropy(z: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every row and fit, and its slope in the logits.

    Parameters
    ----------
    z : Tensor of shape (n, f, c)
    target : Tensor of shape (n, 1 or f, c)
        Probabilities of the classes; of class 1 where c is 1.

    Returns
    -------
    loss : Tensor of shape (n, f)
    slope : Tensor of shape (n, f, c)
    """
    if z.shape[2] == 1:
        loss = torch.nn.functional.softplus(z) - target * z
        return loss[..., 0], residual(z, target)
    log_p = torch.log_softmax(z, dim=2)
    return -(target * log_p).sum(dim=2), log_p.exp() - target


def residual(z: Tensor, target: Tensor) -> Tensor:
    """Slope of `cross_entropy` alone, where nobody asks for the loss."""
    return (torch.sigmoid(z) if z.shape[2] == 1 else torch.softmax(z, dim=2)).sub_(target)


def spin(z: Tensor, slope: Tensor) -> Tensor:
    """Slope in the logits of ``sum_c (p_c - y_c) z_c``, the slope of the loss in a scale on the logits."""
    if z.shape[2] == 1:
        p = torch.sigmoid(z)
        return slope + p * (1 - p) * z
    p = torch.softmax(z, dim=2)
    return slope + p * (z - (p * z).sum(dim=2, keepdim=True))


@dataclass(frozen=True)
class Batch:
    """The rows of one step.

    Attributes
    ----------
    X : Tensor of shape (b, m)
        Centred, in the axes that move.
    offset : Tensor of shape (b, f, c)
        What the other axes add to the logits.
    target : Tensor of shape (b, 1, c)
    weight : Tensor of shape (b,)
        Their sum is 1.
    y, env : Tensor of int, shape (b,)
    """

    X: Tensor
    offset: Tensor
    target: Tensor
    weight: Tensor
    y: Tensor
    env: Tensor

    def __len__(self) -> int:
        return len(self.y)

    def logits(self, W: Tensor, b: Tensor) -> Tensor:
        """Logits of every fit, shape (b, f, c), from weights (m, f, c) and intercepts (f, c)."""
        return (self.X @ W.flatten(1)).view(len(self), *b.shape) + b + self.offset

    def pull(self, slope: Tensor) -> Tensor:
        """Slope in the weights, shape (m, f, c), of a slope in the logits, (b, f, c)."""
        return (self.X.T @ slope.flatten(1)).view(-1, *slope.shape[1:])

    def means(self, codes: Tensor) -> Tensor:
        """Matrix (codes that occur, b) that takes the weighted mean over the rows of every code."""
        _, place = torch.unique(codes, return_inverse=True)
        return group_means(place, self.weight, int(place.max()) + 1)

    @functools.cached_property
    def env_means(self) -> Tensor:
        """`means` of the environments."""
        return self.means(self.env)

    def take(self, rows: Tensor) -> Batch:
        """Some of the rows; weights are scaled to a sum of 1."""
        weight = self.weight[rows]
        return Batch(
            self.X[rows],
            self.offset[rows],
            self.target[rows],
            weight / weight.sum(),
            self.y[rows],
            self.env[rows],
        )


def by_stream(
    rngs: Sequence[np.random.Generator],
) -> list[tuple[np.random.Generator, NDArray[np.int64]]]:
    """Every generator once, and the fits that draw from it."""
    distinct = {id(rng): rng for rng in rngs}
    owner = np.array([id(rng) for rng in rngs])
    return [(rng, np.flatnonzero(owner == key)) for key, rng in distinct.items()]


def group_means(place: Tensor, weight: Tensor, n: int) -> Tensor:
    """Matrix (n, b) that takes the weighted mean over the rows of every place 0..n-1; 0 where it has none."""
    matrix = torch.zeros((n, len(place)), dtype=weight.dtype, device=weight.device)
    matrix[place, torch.arange(len(place), device=weight.device)] = weight
    total = matrix.sum(dim=1, keepdim=True)
    return matrix / torch.where(total > 0, total, torch.ones_like(total))


class Objective(Protocol):
    """What a method minimises beside the ridge, seen from the logits. It may keep a state over the steps."""

    share: Tensor
    """What the ridge of every fit is multiplied by, shape (f,)."""

    def slope(self, z: Tensor, batch: Batch) -> Tensor:
        """Slope of the objective in the logits of the batch, shape (b, f, c)."""
        ...


class Field:
    """What all fits of a batch share: the rows in the axes that move, their curvature, and the start.

    Parameters
    ----------
    data : FitData
    settings : sequence of Setting, length f
    device : str
    leading : float
        Share of the variance in the axes that move.
    """

    def __init__(
        self, data: FitData, settings: Sequence[Setting], device: str = "cpu", leading: float = LEADING
    ) -> None:
        X = data.rows.X if data.rows.X.dtype == np.float32 else np.asarray(data.rows.X, np.float64)
        n = len(data.rows)
        total = n if data.weight is None else float(np.sum(data.weight))
        self.device, self.dtype = torch.device(device), torch.from_numpy(X[:1]).dtype
        self.start = _logistic_start(data, X, settings)
        key = f"adam.rows {device} {leading}"
        if key not in data.cache:
            data.cache[key] = self._rows(data, X, leading)
        self.mean, variance, self.moving, still, rows = data.cache[key]
        self.all = replace(rows, offset=self.tensor(self._offset(still, settings)))
        c = self.start.coef.shape[1]
        # The objective is per unit of weight; the ridge is against the sum over all rows.
        ridge = 1.0 / (np.array([s.C for s in settings]) * total)
        curvature = (0.25 if c == 1 else 0.5) * variance[self.moving]
        scale = 1.0 / np.sqrt(curvature[:, None] + ridge[None, :])
        self.ridge, self.scale = self.tensor(ridge), self.tensor(scale)
        self.intercept_scale = 2.0 if c == 1 else float(np.sqrt(2.0))
        self.W0 = self.tensor(self.start.coef[:, :, self.moving].transpose(2, 0, 1))
        self.b0 = self.tensor(self.start.intercept + self.start.coef @ self.mean)

    def _rows(self, data: FitData, X: Array, leading: float) -> tuple[Any, ...]:
        """What all methods share: mean, variances, which axes move, rows in the others, the batch."""
        n = len(X)
        weight = np.full(n, 1.0 / n) if data.weight is None else np.asarray(data.weight, np.float64)
        share = (weight / weight.sum()).astype(X.dtype)
        mean = np.asarray(share @ X, np.float64)
        centred = X - mean.astype(X.dtype)
        variance = np.asarray(share @ np.square(centred), np.float64)
        moving = _leading_axes(variance, leading)
        y = data.rows.y
        two = data.n_classes == 2
        target = y[:, None].astype(X.dtype) if two else np.eye(data.n_classes, dtype=X.dtype)[y]
        batch = Batch(
            self.tensor(centred[:, moving]),
            torch.empty((n, 0, 0), dtype=self.dtype, device=self.device),
            self.tensor(target[:, None, :]),
            self.tensor(share),
            torch.as_tensor(y, device=self.device),
            torch.as_tensor(data.rows.env, device=self.device),
        )
        return mean, variance, moving, centred[:, ~moving], batch

    def _offset(self, still: Array, settings: Sequence[Setting]) -> Array:
        """Logits from the axes that stay, shape (n, f, c); one product a ridge."""
        f, c, _ = self.start.coef.shape
        if self.moving.all():
            return np.zeros((len(still), f, c), still.dtype)
        _, first, place = np.unique([s.C for s in settings], return_index=True, return_inverse=True)
        coef = self.start.coef[first][:, :, ~self.moving].reshape(len(first) * c, -1)
        z = still @ coef.T.astype(still.dtype)
        return np.asarray(z.reshape(len(still), len(first), c)[:, place.reshape(-1)])

    def tensor(self, values: NDArray[Any]) -> Tensor:
        """Numbers in the field's precision and on its device."""
        return torch.as_tensor(np.ascontiguousarray(values), dtype=self.dtype, device=self.device)

    def per_fit(self, values: Sequence[float]) -> Tensor:
        """One number a fit."""
        return self.tensor(np.asarray(values, np.float64))

    def batches(self, steps: int, rng: np.random.Generator, size: int | None = None) -> Iterator[Batch]:
        """The rows of every step: all, or `size` of them (8,192) without replacement."""
        n, size = len(self.all), FULL_ROWS if size is None else size
        for _ in range(steps):
            if n <= size:
                yield self.all
            else:
                rows = rng.choice(n, size, replace=False, shuffle=False)
                yield self.all.take(torch.as_tensor(rows, device=self.device))

    def restart(self, W: Tensor, b: Tensor) -> None:
        """Begin at other weights, with a fresh optimiser."""
        self.W0, self.b0 = W, b

    def finish(self, W: Tensor, b: Tensor, norm: Tensor, steps: int) -> LinearFits:
        """Fits in the coordinates of the given rows, from weights (m, f, c) of the axes that move."""
        coef = np.array(self.start.coef, np.float64)
        coef[:, :, self.moving] = W.cpu().numpy().transpose(1, 2, 0)
        intercept = b.cpu().numpy().astype(np.float64) - coef @ self.mean
        return LinearFits(
            coef, intercept, norm.cpu().numpy().astype(np.float64), np.full(len(coef), steps, np.int64)
        )


def _leading_axes(variance: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """The axes that hold `share` of the variance, at least `FEWEST_AXES` of them."""
    order = np.argsort(-variance, kind="stable")
    held = np.cumsum(variance[order])
    count = max(int(np.searchsorted(held, share * held[-1])) + 1, FEWEST_AXES)
    found = np.zeros(len(variance), bool)
    found[order[:count]] = True
    return found


def _logistic_start(data: FitData, X: Array, settings: Sequence[Setting]) -> LinearFits:
    """Logistic regression at the ridge of every setting; one solution a ridge, kept for other methods."""
    wanted = sorted({s.C for s in settings})
    missing = [C for C in wanted if f"adam.start {C!r}" not in data.cache]
    if missing:
        found = fit_logistic(
            X,
            data.rows.y,
            data.n_classes,
            np.array(missing),
            sample_weight=data.weight,
            tol=START_TOL[X.dtype],
        )
        data.cache.update({f"adam.start {C!r}": found.take([i]) for i, C in enumerate(missing)})
    return LinearFits.join([data.cache[f"adam.start {s.C!r}"] for s in settings])


def descend(
    field: Field, objective: Objective, steps: int, lr: float, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam from the field's start, with a step size that falls to zero as a cosine.

    Returns
    -------
    W : Tensor of shape (m, f, c)
    b : Tensor of shape (f, c)
    norm : Tensor of shape (f,)
        Of the last step's gradient.
    """
    scale, ridge = field.scale[:, :, None], (field.ridge * objective.share)[None, :, None]
    moved = [torch.zeros_like(field.W0), torch.zeros_like(field.b0)]
    adam = Adam(moved, lr, steps)
    W, b, norm = field.W0, field.b0, torch.zeros_like(field.ridge)
    for batch in field.batches(steps, rng):
        slope = objective.slope(batch.logits(W, b), batch)
        g = batch.pull(slope) + ridge * W
        gb = slope.sum(dim=0)
        norm = (g.square().sum(dim=(0, 2)) + gb.square().sum(dim=1)).sqrt()
        adam.step([scale * g, field.intercept_scale * gb])
        W = field.W0 + scale * moved[0]
        b = field.b0 + field.intercept_scale * moved[1]
    return W, b, norm


def cosine(lr: float, step: int, steps: int) -> float:
    """Step size at a step, falling from `lr` to zero."""
    return 0.5 * lr * (1.0 + math.cos(math.pi * step / max(steps, 1)))


class Adam:
    """Adam (Kingma and Ba 2015) on several tensors at once.

    torch.optim's loads the compiler of torch at its first step, which takes longer than all the fits here.

    Parameters
    ----------
    parameters : list of Tensor
        Changed in place.
    lr : float
        Of the first step; it falls to zero as a cosine.
    steps : int
        How many there will be.
    """

    def __init__(self, parameters: list[Tensor], lr: float, steps: int) -> None:
        self.parameters, self.lr, self.steps, self.count = parameters, lr, steps, 0
        self.first = [torch.zeros_like(p) for p in parameters]
        self.second = [torch.zeros_like(p) for p in parameters]

    def step(self, gradients: list[Tensor]) -> None:
        """One step against the gradients."""
        lr = cosine(self.lr, self.count, self.steps)
        self.count += 1
        rate = lr / (1.0 - BETA_1**self.count)
        correct = 1.0 / math.sqrt(1.0 - BETA_2**self.count)
        for p, m, v, g in zip(self.parameters, self.first, self.second, gradients, strict=True):
            m.lerp_(g, 1.0 - BETA_1)
            v.mul_(BETA_2).addcmul_(g, g, value=1.0 - BETA_2)
            p.addcdiv_(m, v.sqrt().mul_(correct).add_(EPS), value=-rate)
