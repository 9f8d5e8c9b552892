"""The variational invariant autoencoder: what an item is, and what its environment makes of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cfpairs.pairs.transfer.moments import UNSEEN, EnvironmentNorm

__all__ = ["UNSEEN", "VIAE", "Codes", "Elbo", "prior_means"]

LOG_VARIANCE = (-8.0, 4.0)
"""Posterior log-variances are kept between these, so that no step can overflow."""


CHUNK = 1000
"""Items that are encoded at once after training."""


@dataclass(frozen=True)
class Codes:
    """What the encoders say of n items: means and log-variances of both latent parts, and a draw of each.

    Attributes
    ----------
    inv_mean, inv_log_variance, inv : Tensor of shape (n, inv_dim)
    env_mean, env_log_variance, env : Tensor of shape (n, env_dim)
    """

    inv_mean: Tensor
    inv_log_variance: Tensor
    inv: Tensor
    env_mean: Tensor
    env_log_variance: Tensor
    env: Tensor


@dataclass(frozen=True)
class Elbo:
    """The parts of the bound, each a mean over items, in nats; the bound is ``likelihood - inv - env``.

    Attributes
    ----------
    likelihood : Tensor
        ``E log p(x | z_inv, z_e)`` by one draw.
    inv, env : Tensor
        Divergence of each posterior from its prior.
    """

    likelihood: Tensor
    inv: Tensor
    env: Tensor

    @property
    def bound(self) -> Tensor:
        """The evidence lower bound."""
        return self.likelihood - self.inv - self.env


def prior_means(n_env: int, env_dim: int, distance: float) -> Tensor:
    """Means of the priors of z_e, shape (n_env, env_dim): orthogonal, each of length `distance`."""
    means = torch.zeros(n_env, env_dim)
    means[torch.arange(n_env), torch.arange(n_env)] = distance
    return means


def _convolutions(shape: tuple[int, ...], width: int) -> nn.Sequential:
    """Two strided convolutions, flattened."""
    return nn.Sequential(
        nn.Conv2d(shape[0], width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip


class _Trunk(nn.Module):
    """From an item to features: two strided convolutions for images, one layer for vectors."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int) -> None:
        super().__init__()
        self.features = hidden
        if len(shape) == 1:
            self.layers = nn.Sequential(nn.Linear(shape[0], self.features), nn.ReLU())
        else:
            flat = 2 * width * math.prod(_quarters(shape))
            self.layers = nn.Sequential(
                _convolutions(shape, width), nn.Linear(flat, self.features), nn.ReLU()
            )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.layers(x)
        return found


class _EnvEncoder(nn.Module):
    """``q_e(z_e | x)`` of one environment."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int, env_dim: int) -> None:
        super().__init__()
        self.trunk = _Trunk(shape, width, hidden)
        self.head = nn.Linear(self.trunk.features, 2 * env_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return _split(self.head(self.trunk(x)))


class _InvEncoder(nn.Module):
    """``q(z_inv | x, z_e)``, the same for every environment but for the moments that are taken out of it.

    Those of images are rectified first: from such codes a linear reader gets more than from linear ones.
    """

    def __init__(
        self, shape: tuple[int, ...], n_env: int, width: int, hidden: int, inv_dim: int, env_dim: int
    ) -> None:
        super().__init__()
        if len(shape) == 1:
            features = hidden
            self.trunk = nn.Sequential(
                nn.Linear(shape[0], hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
            )
        else:
            features = 2 * width * math.prod(_quarters(shape))
            self.trunk = _convolutions(shape, width)
        self.common = EnvironmentNorm(1, features)
        self.head = nn.Linear(features + env_dim, 2 * inv_dim)
        self.norm = EnvironmentNorm(n_env, inv_dim)

    def forward(self, x: Tensor, env: Tensor, z_env: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.raw(x, z_env)
        return self.norm(mean, env), log_variance

    def raw(self, x: Tensor, z_env: Tensor) -> tuple[Tensor, Tensor]:
        """Means before the moments of their environments are taken out, and log-variances."""
        features = self.common(self.trunk(x), torch.zeros(len(x), dtype=torch.int64, device=x.device))
        mean, log_variance = _split(self.head(torch.cat([features, z_env], 1)))
        return (torch.relu(mean) if x.ndim > 2 else mean), log_variance

    def settle(self, parts: Callable[[], Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]]) -> None:
        """Settle both norms on items: parts of x, z_e, environments and weights, gone through twice."""
        self.common.settle((self.trunk(x), torch.zeros_like(env), weights) for x, _, env, weights in parts())
        self.norm.settle((self.raw(x, z_env)[0], env, weights) for x, z_env, env, weights in parts())


class _Decoder(nn.Module):
    """Mean of ``p(x | z_inv, z_e)``; it is not told the environment."""

    def __init__(self, shape: tuple[int, ...], width: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.shape = shape
        if len(shape) == 1:
            self.layers = nn.Sequential(
                nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
                nn.Linear(hidden, shape[0]),
            )  # fmt: skip
            return
        high, wide = _quarters(shape)
        self.layers = nn.Sequential(
            nn.Linear(latent, hidden), nn.ReLU(), nn.Linear(hidden, 2 * width * high * wide), nn.ReLU(),
            nn.Unflatten(1, (2 * width, high, wide)),
            nn.ConvTranspose2d(2 * width, width, 4, stride=2, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(width, shape[0], 4, stride=2, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.layers(z)
        # Sides that four does not divide come out up to three pixels too large.
        return found if len(self.shape) == 1 else found[:, :, : self.shape[1], : self.shape[2]]


class VIAE(nn.Module):
    """A variational autoencoder whose latent space has an invariant and an environmental part.

    Parameters
    ----------
    shape : tuple of int
        Of an item: ``(d,)`` for vectors, ``(channels, height, width)`` for images with values in 0..1.
    n_env : int
        Environments, two or more.
    inv_dim, env_dim : int
        Dimensions of z_inv and z_e; z_e gets at least one an environment.
    width : int
        Channels of the first convolution, half those of the second.
    hidden : int
        Units of each layer that is not convolutional.
    distance : float
        Length of the prior means of z_e.

    Notes
    -----
    ``z_inv ~ N(0, I)``, ``z_e ~ N(mu_e, I)`` with orthogonal mu_e, ``x ~ N(f(z_inv, z_e), s^2 I)``; f, s and
    the encoder ``q(z_inv | x, z_e)`` are shared, ``q_e(z_e | x)`` is each environment's own. The bound is

        E log p(x | z_inv, z_e) - KL(q_e(z_e | x) || N(mu_e, I)) - E KL(q(z_inv | x, z_e) || N(0, I)),

    expectations by one draw. s^2 is learned with everything else. The encoder of z_inv is conditioned on the
    environment, by z_e as in the paper and by the environment's moments: its means have mean 0 and variance 1
    in every environment.

    References
    ----------
    Norman, Meir (2025). Unsupervised Invariant Risk Minimization, section 4 and appendix B.1.
    """

    means: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        n_env: int,
        *,
        inv_dim: int = 64,
        env_dim: int = 2,
        width: int = 32,
        hidden: int = 256,
        distance: float = 8.0,
    ) -> None:
        super().__init__()
        self.shape, self.n_env, self.inv_dim = shape, n_env, inv_dim
        self.env_dim = max(env_dim, n_env)
        self.environments = nn.ModuleList(
            _EnvEncoder(shape, width, hidden, self.env_dim) for _ in range(n_env)
        )
        self.invariant = _InvEncoder(shape, n_env, width, hidden, inv_dim, self.env_dim)
        self.decoder = _Decoder(shape, width, hidden, inv_dim + self.env_dim)
        self.log_variance = nn.Parameter(torch.tensor(-2.0))
        self.register_buffer("means", prior_means(n_env, self.env_dim, distance))

    def environmental(self, x: Tensor, env: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of z_e, each (n, env_dim).

        Parameters
        ----------
        x : Tensor of shape (n, *shape)
        env : Tensor of int64, shape (n,)
            0..n_env-1; the average of all encoders is taken for `UNSEEN`.
        """
        mean = x.new_zeros(len(x), self.env_dim)
        log_variance = x.new_zeros(len(x), self.env_dim)
        for number, encoder in enumerate(self.environments):
            own, every = env == number, env == UNSEEN
            for rows, share in ((own, 1.0), (every, 1.0 / self.n_env)):
                if rows.any():
                    found = encoder(x[rows])
                    mean = mean.index_add(0, rows.nonzero()[:, 0], share * found[0])
                    log_variance = log_variance.index_add(0, rows.nonzero()[:, 0], share * found[1])
        return mean, log_variance

    def encode(self, x: Tensor, env: Tensor, generator: torch.Generator | None = None) -> Codes:
        """Both posteriors, and a draw of each; without a generator the draws are the means."""
        env_mean, env_log_variance = self.environmental(x, env)
        z_env = _draw(env_mean, env_log_variance, generator)
        inv_mean, inv_log_variance = self.invariant(x, env, z_env)
        z_inv = _draw(inv_mean, inv_log_variance, generator)
        return Codes(inv_mean, inv_log_variance, z_inv, env_mean, env_log_variance, z_env)

    @torch.no_grad()
    def settle(self, x: Tensor, env: Tensor, weights: Tensor | None = None) -> VIAE:
        """Go over to evaluation, with the exact moments of these items in place of running averages.

        Parameters
        ----------
        x : Tensor of shape (n, *shape)
        env : Tensor of int64, shape (n,)
            0..n_env-1, each of them there.
        weights : Tensor of shape (n,), optional
            How much each item counts.
        """
        self.eval()
        given = torch.ones(len(x), device=x.device) if weights is None else weights

        def parts() -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
            for start in range(0, len(x), CHUNK):
                some = slice(start, start + CHUNK)
                yield x[some], self.environmental(x[some], env[some])[0], env[some], given[some]

        self.invariant.settle(parts)
        return self

    def decode(self, z_inv: Tensor, z_env: Tensor) -> Tensor:
        """Mean of ``p(x | z_inv, z_e)``, shape (n, *shape)."""
        found: Tensor = self.decoder(torch.cat([z_inv, z_env], 1))
        return found

    def elbo(self, x: Tensor, env: Tensor, codes: Codes) -> Elbo:
        """The bound of appendix B.1, given what `encode` drew."""
        error = (x - self.decode(codes.inv, codes.env)).flatten(1).square().sum(1)
        dim = math.prod(self.shape)
        constant = dim * (math.log(2 * math.pi) + self.log_variance)
        return Elbo(
            -0.5 * (constant + error * torch.exp(-self.log_variance)).mean(),
            divergence(codes.inv_mean, codes.inv_log_variance, torch.zeros_like(codes.inv_mean)).mean(),
            divergence(codes.env_mean, codes.env_log_variance, self.means[env]).mean(),
        )

    def prior(self, env: Tensor, noise: Tensor | None = None) -> Tensor:
        """Points of the priors of `env`, shape (n, env_dim): their means, or as far from them as `noise`.

        Standard normal `noise` of that shape makes them draws.
        """
        means = self.means[env]
        return means if noise is None else means + noise

    def transfer(
        self, x: Tensor, env: Tensor, target: Tensor, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Items as the environments `target` would show them, and as their own does.

        Parameters
        ----------
        x : Tensor of shape (n, *shape)
        env : Tensor of int64, shape (n,)
            Where each comes from; `UNSEEN` for an environment without an encoder of its own.
        target : Tensor of int64, shape (n,)
        noise : Tensor of shape (n, env_dim), optional
            As for `prior`. The source's codes are their means.

        Returns
        -------
        moved, kept : Tensor of shape (n, *shape)
        """
        codes = self.encode(x, env)
        moved = self.decode(codes.inv, self.prior(target, noise))
        return moved, self.decode(codes.inv, codes.env)

    def sample(self, z_inv: Tensor, env: Tensor, noise: Tensor | None = None) -> Tensor:
        """Items with the given invariant part in environments `env`; `noise` as for `prior`."""
        return self.decode(z_inv, self.prior(env, noise))


def divergence(mean: Tensor, log_variance: Tensor, prior_mean: Tensor) -> Tensor:
    """``KL(N(mean, diag exp(log_variance)) || N(prior_mean, I))`` of each row, shape (n,)."""
    terms = log_variance.exp() + (mean - prior_mean).square() - 1 - log_variance
    return 0.5 * terms.sum(1)


def _quarters(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width after two strides of two, rounded up."""
    return (shape[1] + 3) // 4, (shape[2] + 3) // 4


def _draw(mean: Tensor, log_variance: Tensor, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return mean
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + torch.exp(0.5 * log_variance) * noise


def _split(both: Tensor) -> tuple[Tensor, Tensor]:
    mean, log_variance = both.chunk(2, 1)
    return mean, log_variance.clamp(*LOG_VARIANCE)
