"""Small networks of one shape side by side, one a weight of the distance, trained on the same batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

MOMENTUM = 0.1
"""Part of a batch's mean and variance in the running averages."""


class Stack:
    """Networks of linear layers with ReLU between them; `fits` of them, which start alike.

    Parameters
    ----------
    sizes : sequence of int
        Units of the input, of every hidden layer and of the output.
    fits : int
    rng : numpy Generator
        Draws the first weights.
    norm : bool
        Whether hidden layers are normalised by their batch before the ReLU.
    """

    def __init__(
        self, sizes: Sequence[int], fits: int, rng: np.random.Generator, *, norm: bool = False
    ) -> None:
        import torch

        def drawn(rows: int, *shape: int) -> Tensor:
            bound = rows**-0.5
            values = np.repeat(rng.uniform(-bound, bound, (1, *shape)), fits, axis=0)
            return torch.tensor(values, dtype=torch.float32, requires_grad=True)

        self.layers = [
            (drawn(rows, rows, columns), drawn(rows, 1, columns)) for rows, columns in pairwise(sizes)
        ]
        hidden = sizes[1:-1] if norm else ()
        self.norms = [
            (
                torch.ones(fits, 1, size, requires_grad=True),
                torch.zeros(fits, 1, size, requires_grad=True),
            )
            for size in hidden
        ]
        self.running = [(torch.zeros(fits, 1, size), torch.ones(fits, 1, size)) for size in hidden]

    def parameters(self) -> Iterator[Tensor]:
        """All that is learned."""
        for pair in (*self.layers, *self.norms):
            yield from pair

    def __call__(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Outputs (fits, n, sizes[-1]) of rows (n, sizes[0]), or (fits, n, sizes[0]) if each has its own.

        `training` normalises by the batch, else by the running averages.
        """
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                x = x.relu()
            x = x @ weight + bias
            if number < len(self.norms):
                x = self._normal(x, number, training)
        return x

    def _normal(self, hidden: Tensor, number: int, training: bool) -> Tensor:
        mean, variance = self.running[number]
        if training:
            variance, mean = hidden.var(1, keepdim=True, correction=0), hidden.mean(1, keepdim=True)
            for kept, new in zip(self.running[number], (mean, variance), strict=True):
                kept.lerp_(new.detach(), MOMENTUM)
        scale, shift = self.norms[number]
        return (hidden - mean) * (variance + 1e-5).rsqrt() * scale + shift


@dataclass(frozen=True)
class Training:
    """How an encoder is trained: Adam with L2 decay."""

    epochs: int
    batch: int
    rate: float
    decay: float


def train_causal(
    sizes: Sequence[int],
    weights: Sequence[float],
    rows: tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]],
    how: Training,
    seed: int,
) -> Stack:
    """Encoders that minimise cross-entropy + weight * MMD between two mixtures of the environments.

    Parameters
    ----------
    sizes : sequence of int
        Of the encoder; a linear classifier of the target follows it.
    weights : sequence of float
        One encoder each.
    rows : (X, target, environment)
        Shapes (n, sizes[0]), (n,) with 0 and 1, (n,) with 0, 1, ...
    how : Training
    seed : int

    Notes
    -----
    Algorithm 1 of Chevalley, Bunne, Krause, Bauer (2022), Invariant Causal Mechanisms through Distribution
    Matching.
    """
    import torch

    from cfpairs.probes.distances import causal_cuts, mmd, pair_weights

    draws, rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])
    encoder, head = Stack(sizes, len(weights), draws, norm=True), Stack((sizes[-1], 1), len(weights), draws)
    parts = [*encoder.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(parts, lr=how.rate, weight_decay=how.decay)
    X, y = (torch.tensor(part, dtype=torch.float32) for part in rows[:2])
    env, n_env = rows[2], int(rows[2].max()) + 1
    strength = torch.tensor(weights)[:, None, None]
    for _ in range(how.epochs):
        order = rng.permutation(len(X))
        for some in np.array_split(order, max(1, len(X) // how.batch)):
            z = encoder(X[some], training=True)
            sets = torch.from_numpy(causal_cuts(env[some], n_env, rng))
            _, slope = mmd(z.detach(), pair_weights(sets, z.dtype))
            target = y[some].expand(len(z), -1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                head(z)[:, :, 0], target, reduction="none"
            ).mean(1)
            optimizer.zero_grad(set_to_none=True)
            # The slope of the distance is known, so that it need not be followed back.
            (loss.sum() + (strength * slope * z).sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return encoder
