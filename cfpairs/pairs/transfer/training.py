"""Training of the autoencoder: seeded, and taken up where a killed run left it."""

from __future__ import annotations

import hashlib
import io
import math
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cfpairs.errors import DataError
from cfpairs.pairs.transfer.moments import CovarianceGap
from cfpairs.pairs.transfer.options import ModelOptions
from cfpairs.pairs.transfer.viae import VIAE
from cfpairs.progress import SILENT, Progress
from cfpairs.tables import fingerprint, write_bytes

__all__ = ["FEWEST", "train_viae"]

FEWEST = 20
"""An environment of fewer items teaches its encoder nothing."""

WARM = 0.1
"""Part of the steps in which the learning rate rises; it falls by a cosine in the others."""

SAVED_EVERY = 15.0
"""Seconds between two states on disk, at least."""

LARGEST_GRADIENT = 100.0

RAMP = 0.2
"""Part of the steps in which the weight of the invariance rises."""


def train_viae(
    x: NDArray[np.float32],
    env: NDArray[np.int64],
    options: ModelOptions,
    seed: int,
    *,
    group: NDArray[np.int64] | None = None,
    state: Path | None = None,
    progress: Progress = SILENT,
) -> VIAE:
    """Fit the bound of every item, all environments together.

    Parameters
    ----------
    x : ndarray of shape (n, d) or (n, channels, height, width)
        Vectors whose coordinates are about one, or pixels in 0..1.
    env : ndarray of int, shape (n,)
        0..n_env-1.
    options : ModelOptions
    seed : int
        The same seed, numbers and threads give the same weights.
    group : ndarray of int, shape (n,), optional
        Groups that are to be seen equally often; by default every item is.
    state : Path, optional
        File that keeps weights and the optimiser between epochs. A run with the same inputs and settings goes
        on from there, and one that was complete is not trained again.
    progress : Progress, optional

    Raises
    ------
    DataError
        If there is one environment, or one has fewer than `FEWEST` items, or values are not finite.

    Notes
    -----
    The objective is minus the `Elbo.bound`, the divergence of z_inv times ``options.divergence``, plus
    ``options.invariance`` times the `CovarianceGap` of the means of ``q(z_inv | x, z_e)``. With the moments
    that `EnvironmentNorm` makes equal this is the constraint of the paper's equation 2, that features have
    one distribution in every environment, as far as second moments can tell. At the end those moments are
    made exact on `x`, every group with the same weight where `group` is given.
    """
    n_env = _check(x, env)
    key = fingerprint(
        "viae", 2, options.model_dump(mode="json"), seed, _digest(x), _digest(env), _digest(group)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VIAE(
            x.shape[1:], n_env,
            inv_dim=options.inv_dim, env_dim=options.env_dim, width=options.width, hidden=options.hidden,
            distance=options.distance,
        )  # fmt: skip
    gap = CovarianceGap(n_env, options.inv_dim)
    run = _Run(model, gap, torch.optim.Adam(model.parameters(), lr=options.rate, fused=True))
    done = run.resume(state, key)
    X, E = torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(env)
    saved = time.monotonic()
    with progress.task("training the autoencoder", options.epochs) as advance:
        advance(done)
        for epoch in range(done, options.epochs):
            _epoch(run, X, E, group, options, (seed, epoch))
            advance(1)
            last = epoch == options.epochs - 1
            if last:
                model.settle(X, E, None if group is None else torch.from_numpy(1.0 / _frequency(group)))
            if state is not None and (last or time.monotonic() - saved > SAVED_EVERY):
                run.save(state, key, epoch + 1)
                saved = time.monotonic()
    return model.eval()


@dataclass
class _Run:
    """All that a training changes."""

    model: VIAE
    gap: CovarianceGap
    optimizer: torch.optim.Optimizer

    def save(self, path: Path, key: str, epochs: int) -> None:
        file = io.BytesIO()
        parts = {name: getattr(self, name).state_dict() for name in ("model", "gap", "optimizer")}
        torch.save({"key": key, "epochs": epochs, **parts}, file)
        write_bytes(path, file.getvalue())

    def resume(self, path: Path | None, key: str) -> int:
        """Epochs that are done; a state of other inputs or settings, or a damaged one, counts for nothing."""
        if path is None or not path.is_file():
            return 0
        try:
            held = torch.load(path, weights_only=True)
            if held["key"] != key:
                return 0
            for name in ("model", "gap", "optimizer"):
                getattr(self, name).load_state_dict(held[name])
            return int(held["epochs"])
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError):
            return 0


def _check(x: NDArray[np.float32], env: NDArray[np.int64]) -> int:
    counts = np.bincount(env)
    if len(counts) < 2:
        raise DataError("an autoencoder of environments needs two of them", got=f"{len(counts)}")
    if counts.min() < FEWEST:
        raise DataError(
            "an environment has too few items to learn from",
            got=f"{counts.min()} of {len(x)}",
            expected=f"{FEWEST} or more",
            remedy="use method nearest or edit",
        )
    if not np.isfinite(x).all():
        raise DataError("values that are not finite cannot be learned from")
    return len(counts)


def _epoch(
    run: _Run,
    X: Tensor,
    E: Tensor,
    group: NDArray[np.int64] | None,
    options: ModelOptions,
    seed: tuple[int, int],
) -> None:
    model, optimizer = run.model, run.optimizer
    model.train()
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
    order = _order(len(X), group, np.random.default_rng(seed))
    steps = math.ceil(len(order) / options.batch)
    for step, rows in enumerate(_batches(order, steps)):
        at = (seed[1] + step / steps) / options.epochs
        for part in optimizer.param_groups:
            part["lr"] = options.rate * _rate(at)
        x, env = X[rows], E[rows]
        codes = model.encode(x, env, generator)
        bound = model.elbo(x, env, codes)
        loss = options.divergence * bound.inv + bound.env - bound.likelihood
        if options.invariance:
            loss = loss + options.invariance * min(1.0, at / RAMP) * run.gap(codes.inv_mean, env)
        if not torch.isfinite(loss):
            raise DataError(
                "the autoencoder's training diverged",
                got=f"epoch {seed[1] + 1}",
                remedy="lower option 'rate'",
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT * math.prod(model.shape) ** 0.5)
        optimizer.step()


def _order(n: int, group: NDArray[np.int64] | None, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows of one epoch: every row once, or as many draws of which each group has the same part."""
    if group is None:
        return rng.permutation(n)
    chance = 1.0 / _frequency(group)
    return rng.choice(n, n, p=chance / chance.sum())


def _frequency(group: NDArray[np.int64]) -> NDArray[np.float64]:
    """How many rows have each row's group."""
    _, number, counts = np.unique(group, return_inverse=True, return_counts=True)
    return counts[number].astype(np.float64)


def _batches(order: NDArray[np.int64], steps: int) -> Iterator[Tensor]:
    for rows in np.array_split(order, steps):
        yield torch.from_numpy(rows)


def _rate(at: float) -> float:
    """Share of the largest learning rate when the part `at` of the training is done."""
    return at / WARM + 0.01 if at < WARM else 0.5 * (1 + math.cos(math.pi * (at - WARM) / (1 - WARM)))


def _digest(values: NDArray[np.float32] | NDArray[np.int64] | None) -> str | None:
    return None if values is None else hashlib.sha256(values.tobytes()).hexdigest()
