"""The moments of z_inv in each environment: the first two made equal, the covariances drawn together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["UNSEEN", "CovarianceGap", "EnvironmentNorm"]

UNSEEN = -1
"""Environment of items that come from none of those that the model was trained on."""

FEW = 8
"""Items of an environment in a batch below which the running averages say more of it than the batch does."""

MEMORY = 1000.0
"""Items of an environment that a running average goes back, about."""

EPSILON = 1e-3
"""Added to variances, so that what never changes is not blown up."""


class EnvironmentNorm(nn.Module):
    """Take its own mean and standard deviation in its environment out of every coordinate.

    Parameters
    ----------
    n_env, dim : int

    Notes
    -----
    With class means that are equal the best linear classifier of the environment is the constant one (the
    gradient of its loss at zero is the difference of the means, and the loss is convex), while the label,
    where it is as frequent in every environment, loses nothing.

    In training the moments are those of the batch, as in batch normalisation, and for environments of fewer
    than `FEW` items in it the running averages; in evaluation the running averages, which `settle` replaces
    by the moments of given items. An item of an `UNSEEN` environment gets the average over the environments
    of what it would be in each.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, n_env: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_env, dim))
        self.register_buffer("variance", torch.ones(n_env, dim))

    def forward(self, z: Tensor, env: Tensor) -> Tensor:
        """`z` of shape (n, dim) and environments of shape (n,); the same shape as `z`."""
        mean, variance = self._batch(z, env) if self.training else (self.mean, self.variance)
        scale = (variance + EPSILON).rsqrt()
        shift = mean * scale
        every = env == UNSEEN
        if not every.any():
            return z * scale[env] - shift[env]
        own = env.clamp(min=0)
        factor = torch.where(every[:, None], scale.mean(0), scale[own])
        return z * factor - torch.where(every[:, None], shift.mean(0), shift[own])

    def _batch(self, z: Tensor, env: Tensor) -> tuple[Tensor, Tensor]:
        """Moments of this batch, shape (n_env, dim) each; the running ones follow."""
        means, variances = list(self.mean.clone()), list(self.variance.clone())
        for number in range(len(means)):
            own = z[env == number]
            if len(own) >= FEW:
                means[number], variances[number] = own.mean(0), own.var(0, correction=0)
            if len(own):
                with torch.no_grad():
                    share = len(own) / (len(own) + MEMORY)
                    self.variance[number].lerp_((own - self.mean[number]).square().mean(0), share)
                    self.mean[number].lerp_(own.mean(0), share)
        return torch.stack(means), torch.stack(variances)

    @torch.no_grad()
    def settle(self, parts: Iterable[tuple[Tensor, Tensor, Tensor]]) -> None:
        """Take the moments of these rows for those of evaluation.

        Parameters
        ----------
        parts : iterable of (z, env, weights)
            Rows (n, dim), their environments and their weights, both of shape (n,).
        """
        shape = self.mean.shape
        total = torch.zeros(len(self.mean), 1, dtype=torch.float64)
        first, second = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
        for z, env, weights in parts:
            share = torch.nn.functional.one_hot(env, len(self.mean)).T * weights.double()
            total += share.sum(1, keepdim=True)
            first += share @ z.double()
            second += share @ z.double().square()
        self.mean.copy_(first / total)
        self.variance.copy_((second / total - (first / total).square()).clamp(min=0))


class CovarianceGap(nn.Module):
    """How far the environments' covariances of z_inv lie apart, over the last batches.

    Parameters
    ----------
    n_env, dim : int

    Notes
    -----
    ``sum_e ||C_e - C||_F^2``, C_e the second moments of z_inv in environment e (z is centred in each by
    `EnvironmentNorm`) and C their average: the distance of CORAL. A batch says little of so many numbers, so
    that one factor is a running average and the gradient goes through the other, the batch's own.

    References
    ----------
    Sun, Saenko (2016). Deep CORAL: Correlation Alignment for Deep Domain Adaptation.
    """

    gap: Tensor

    def __init__(self, n_env: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("gap", torch.zeros(n_env, dim, dim))

    def forward(self, z: Tensor, env: Tensor) -> Tensor:
        """The distance, whose gradient the encoder is to follow; `z` of shape (n, dim)."""
        there = [number for number in range(len(self.gap)) if bool((env == number).any())]
        if len(there) < 2:
            return z.new_zeros(())
        own = torch.stack([_second_moments(z[env == number]) for number in there])
        gaps = own - own.mean(0)
        with torch.no_grad():
            for number, gap in zip(there, gaps, strict=True):
                count = int((env == number).sum())
                self.gap[number].lerp_(gap, count / (count + MEMORY))
        found: Tensor = (self.gap[there] * gaps).sum()
        return found


def _second_moments(z: Tensor) -> Tensor:
    return z.T @ z / len(z)
