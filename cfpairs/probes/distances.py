"""Distances between sets of rows, and their slopes, for many fits at once: CORAL and MMD."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GAMMAS", "causal_cuts", "coral", "mmd", "pair_weights"]

GAMMAS = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
"""Widths of the Gaussian kernels that are summed."""


def coral(F: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """Squared differences of means and covariances, averaged over pairs of sets.

    Parameters
    ----------
    F : Tensor of shape (f, b, p)
        Rows of every fit.
    sets : Tensor of int, shape (b,)
        Set of every row, 0..s-1; sets of one row have no covariance and are left out.

    Returns
    -------
    distance : Tensor of shape (f,)
    slope : Tensor of shape (f, b, p)

    Notes
    -----
    ``mean_p (mu_a - mu_b)^2 + mean_{p x p} (Cov_a - Cov_b)^2``, covariances over n - 1 (Sun and Saenko 2016).
    The sum over pairs is ``s * sum_a |v_a|^2 - |sum_a v_a|^2``, which costs no more for many sets.
    """
    f, _, p = F.shape
    slope = torch.zeros_like(F)
    counts = torch.bincount(sets)
    rows = [torch.nonzero(sets == k)[:, 0] for k in torch.nonzero(counts > 1)[:, 0].tolist()]
    n_pairs = len(rows) * (len(rows) - 1) / 2
    if not n_pairs:
        return torch.zeros(f, dtype=F.dtype, device=F.device), slope
    means, centred = [], []
    covariance = F.new_zeros((f, len(rows), p, p))
    for k, of in enumerate(rows):
        part = F[:, of]
        means.append(part.mean(dim=1, keepdim=True))
        centred.append(part - means[-1])
        torch.matmul(centred[-1].transpose(1, 2), centred[-1] / (len(of) - 1), out=covariance[:, k])
    mean = torch.cat(means, dim=1)
    mean_pull = (len(rows) * mean - mean.sum(dim=1, keepdim=True)) / (n_pairs * p)
    covariance_pull = (len(rows) * covariance - covariance.sum(dim=1, keepdim=True)) / (n_pairs * p * p)
    distance = (mean * mean_pull).sum(dim=(1, 2)) + (covariance * covariance_pull).sum(dim=(1, 2, 3))
    for k, of in enumerate(rows):
        turned = centred[k] @ (4.0 / (len(of) - 1) * covariance_pull[:, k])
        slope[:, of] = turned + 2.0 / len(of) * mean_pull[:, k : k + 1]
    return distance, slope


def mmd(F: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``sum_ij weights_ij k(F_i, F_j)`` with the sum of Gaussian kernels (Gretton et al. 2006).

    Parameters
    ----------
    F : Tensor of shape (f, b, p)
    weights : Tensor of shape (b, b)
        Symmetric; from `pair_weights` it makes the squared maximum mean discrepancy, with biased means.

    Returns
    -------
    distance : Tensor of shape (f,)
    slope : Tensor of shape (f, b, p)
    """
    square = F.square().sum(dim=2)
    apart = (square[:, :, None] + square[:, None, :]).baddbmm_(F, F.transpose(1, 2), alpha=-2.0).clamp_(min=0)
    kernel, bend = torch.zeros_like(apart), torch.zeros_like(apart)
    for gamma in GAMMAS:
        # Below exp(-30) a kernel is nothing, and numbers too small for their precision are slow.
        one = (apart * -gamma).clamp_(min=-30.0).exp_()
        kernel += one
        bend.add_(one, alpha=-gamma)
    distance = (weights * kernel).sum(dim=(1, 2))
    pull = bend.mul_(weights)
    return distance, 4.0 * (pull.sum(dim=2, keepdim=True) * F - pull @ F)


def pair_weights(sets: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights of the kernel matrix that give the mean over pairs of sets, shape (b, b).

    Parameters
    ----------
    sets : Tensor of int, shape (b,)
        Set of every row; 0 everywhere where there is one set.
    dtype : torch.dtype

    Notes
    -----
    With h_a the indicator of a set over its size, ``sum_{a<b} (h_a - h_b)(h_a - h_b)^T`` is ``s * sum_a h_a
    h_a^T - (sum_a h_a)(sum_a h_a)^T``.
    """
    _, place, counts = torch.unique(sets, return_inverse=True, return_counts=True)
    s = len(counts)
    if s < 2:
        return torch.zeros((len(sets), len(sets)), dtype=dtype, device=sets.device)
    size = 1.0 / counts[place].to(dtype)
    same = (place[:, None] == place[None, :]).to(dtype)
    weights: Tensor = (s * same - 1.0) * (size[:, None] * size[None, :]) / (s * (s - 1) / 2)
    return weights


def causal_cuts(env: NDArray[np.int64], n_env: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Two sets: of every environment the rows before a cut, drawn uniformly, and the rest.

    Parameters
    ----------
    env : ndarray of int, shape (b,)
        Environment of every row; the rows in random order.
    n_env : int
    rng : numpy Generator

    Returns
    -------
    ndarray of int, shape (b,)
        0 or 1 (algorithm 1 of the paper on causal independence).
    """
    counts = np.bincount(env, minlength=n_env)
    order = np.argsort(env, kind="stable")
    rank = np.empty(len(env), np.int64)
    rank[order] = np.arange(len(env)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.asarray(rank >= rng.integers(0, counts + 1)[env], np.int64)
