"""A linear causal model with a spurious block: the source of truth for the theorem tests.

y = sign(theta . z_inv); the spurious block is y / s + sigma_env * u; x = A [z_inv, z_spu], A orthonormal. A
pair shares y, z_inv and u and takes two noise scales, so its difference lies in the spurious block alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Model:
    d: int
    s: int
    seed: int = 0

    def __post_init__(self):
        rng = np.random.default_rng([self.seed, 0])
        self.A, _ = np.linalg.qr(rng.normal(size=(self.d, self.d)))
        self.theta = rng.normal(size=self.d - self.s)

    @property
    def spurious(self):
        """Orthonormal basis of the spurious block, (d, s)."""
        return self.A[:, self.d - self.s :]

    def sample(self, n, variance, stream):
        rng = np.random.default_rng([self.seed, 1, stream])
        inv = rng.normal(size=(n, self.d - self.s))
        y = np.sign(inv @ self.theta)
        spu = y[:, None] / self.s + np.sqrt(variance) * rng.normal(size=(n, self.s))
        return np.hstack([inv, spu]) @ self.A.T, (y > 0).astype(int)

    def train(self, n):
        a, ya = self.sample(n // 2, 0.001, 0)
        b, yb = self.sample(n // 2, 0.01, 1)
        return np.vstack([a, b]), np.concatenate([ya, yb]), np.repeat([0, 1], n // 2)

    def differences(self, k, noise=0.0):
        """Pairs whose two noise scales have variances near 0 and 10; noise ~ N(0, noise^2 / d I)."""
        rng = np.random.default_rng([self.seed, 2])
        u = rng.normal(size=(k, self.s)) * np.sqrt(10)
        return u @ self.spurious.T + noise / np.sqrt(self.d) * rng.normal(size=(k, self.d))
