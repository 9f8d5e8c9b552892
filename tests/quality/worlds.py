"""Differences and items whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def frame(d: int, s: int, rng: np.random.Generator) -> Floats:
    """s random orthonormal directions, (d, s)."""
    return np.linalg.qr(rng.normal(size=(d, s)))[0]


def planted(
    k: int, d: int, strengths: Floats, rng: np.random.Generator, noise: Floats | float = 1.0
) -> tuple[Floats, Floats]:
    """Differences with directions of signal-to-noise ratio x^2 = `strengths` in noise of scale `noise`."""
    truth = frame(d, len(strengths), rng)
    signal = (rng.normal(size=(k, len(strengths))) * np.sqrt(strengths)) @ truth.T
    return signal + noise * rng.normal(size=(k, d)), truth


def strengths(low: float, high: float, s: int, k: int, d: int) -> Floats:
    """s strengths between `low` and `high` times the smallest that can be detected, sqrt(d / k)."""
    return np.linspace(low, high, s) * np.sqrt(d / k)


def off(found: Floats, truth: Floats) -> float:
    """Root mean squared sine between two subspaces of one dimension."""
    cosines = np.linalg.svd(found.T @ truth, compute_uv=False)
    return float(np.sqrt(max(0.0, 1.0 - np.mean(cosines**2))))


@dataclass(frozen=True)
class World:
    """Items whose label goes with their environment, and what a pair builder would make of them."""

    X: Floats
    y: NDArray[np.int64]
    env: NDArray[np.int64]
    subject: Floats
    label_axis: Floats
    env_axis: Floats

    def edits(self, k: int, rng: np.random.Generator, noise: float = 0.3) -> dict[str, object]:
        """Pairs whose b side is the same subject in the other environment."""
        i = rng.permutation(len(self.X))[:k]
        b = self.X[i] - 2.0 * np.outer(2.0 * self.env[i] - 1.0, self.env_axis)
        b += noise * rng.normal(size=b.shape)
        return self._pairs(self.X[i], b, i, 1 - self.env[i])

    def between(self, k: int, rng: np.random.Generator, *, same_label: bool) -> dict[str, object]:
        """Pairs of items of two environments."""
        i = rng.permutation(len(self.X))[:k]
        j = np.array(
            [
                rng.choice(np.flatnonzero(((self.y == self.y[a]) == same_label) & (self.env != self.env[a])))
                for a in i
            ]
        )
        return self._pairs(self.X[i], self.X[j], i, self.env[j])

    def _pairs(
        self, a: Floats, b: Floats, i: NDArray[np.int64], env_b: NDArray[np.int64]
    ) -> dict[str, object]:
        return {
            "D": a - b,
            "X": self.X,
            "y": self.y,
            "env": self.env,
            "a": a,
            "pair_labels": self.y[i],
            "pair_envs": (self.env[i], env_b),
        }


def world(
    n: int = 600, d: int = 60, *, agree: float = 0.85, label: float = 1.5, seed: int = 0, tilt: float = 0.0
) -> World:
    """Two labels and two environments that go together in a share `agree` of the items.

    `tilt` turns the environment's axis towards the label's.
    """
    rng = np.random.default_rng([7, seed])
    y = rng.integers(0, 2, n)
    env = np.where(rng.random(n) < agree, y, 1 - y)
    axes = frame(d, 2, rng)
    label_axis = label * axes[:, 0]
    env_axis = 4.0 * (np.sqrt(1.0 - tilt**2) * axes[:, 1] + tilt * axes[:, 0])
    subject = rng.normal(size=(n, d))
    X = subject + np.outer(2.0 * y - 1.0, label_axis) + np.outer(2.0 * env - 1.0, env_axis)
    return World(X, y, env, subject, label_axis, env_axis)
