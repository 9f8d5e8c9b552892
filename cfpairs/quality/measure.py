"""The spectrum of the differences in the metric that suits their noise, and what stands above it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky

from cfpairs.quality.interval import rank_interval
from cfpairs.quality.metric import Metric
from cfpairs.quality.noise import NoiseFit, bulk_misfit, fit_noise, sigma_tail
from cfpairs.quality.rank import flip_rank, winsorize
from cfpairs.quality.spectrum import Spectrum, spectrum

__all__ = ["Measured", "measure"]

Floats = NDArray[np.float64]

CONTROL_PAIRS = 20  # fewer control pairs say nothing about the shape of the noise


@dataclass(frozen=True)
class Measured:
    """Spectrum, noise and rank of the sound pairs in one metric; see `PairQuality` for the fields.

    `edge_rank` counts singular values over the edge of isotropic noise instead.
    """

    metric: str
    n_pairs: int
    dim: int
    values: Floats
    sigma: float | None
    edge: float | None
    noise_share: float | None
    rank: int
    interval: tuple[int, int]
    confident: bool
    edge_rank: int


def measure(D: Floats, groups: Metric | None, control: Floats | None, seed: int) -> Measured:
    """Measure the differences as they are or in units of ordinary variation, whichever fits better.

    Embeddings of images vary along some axes ten times more than along others. Pairs of such embeddings
    have dozens of singular values over the edge of isotropic noise, the more the more pairs there are.
    Measured in units of how items of one group differ anyway (or control pairs, where there are any), the
    bulk is even. The metric is the one in which the bulk is nearest to the Marchenko-Pastur law.

    Parameters
    ----------
    D : ndarray of shape (k, d)
        Sound pairs in canonical order.
    groups : Metric or None
    control : ndarray of shape (c, d) or None
    seed : int
    """
    candidates = {"identity": D}
    if len(D) > 2 and groups is not None:
        candidates["within-group"] = groups.whiten(D.T).T
    if len(D) > 2 and control is not None and len(control) >= CONTROL_PAIRS:
        candidates["control"] = _whiten_by(control, D)
    spectra = {name: spectrum(matrix) for name, matrix in candidates.items()}
    fits = {name: fit_noise(found) for name, found in spectra.items()}
    name = min(candidates, key=lambda n: _misfit(spectra[n], fits[n]))
    return _in_metric(name, candidates[name], spectra[name], fits[name], seed)


def _misfit(found: Spectrum, fit: NoiseFit) -> float:
    """How far the bulk is from that of even noise; at most a quarter of the values may be signal here."""
    k, d = found.n_pairs, found.dim
    if fit.sigma == 0.0:
        return 0.0
    return bulk_misfit(found.values, k, d, min(fit.rank, min(k, d) // 4))


def _whiten_by(control: Floats, D: Floats) -> Floats:
    """Differences in units of the control pairs' spread, with 1 % of its mean added in every dimension."""
    d = D.shape[1]
    covariance = control.T @ control / len(control)
    level = float(np.trace(covariance)) / d
    if level <= 0.0:
        return D
    covariance.flat[:: d + 1] += 0.01 * level
    return Metric(np.asarray(cholesky(covariance, lower=True)), 0.01, 0.0).whiten(D.T).T


def _in_metric(name: str, D: Floats, found: Spectrum, fit: NoiseFit, seed: int) -> Measured:
    k, d = D.shape
    if found.numerical_rank == 0:
        return Measured(name, k, d, found.values, None, None, None, 0, (0, 0), False, 0)
    if fit.sigma == 0.0:  # no noise: every direction is signal
        rank = found.numerical_rank
        return Measured(name, k, d, found.values, 0.0, fit.edge, 0.0, rank, (rank, rank), fit.confident, rank)
    rng = np.random.default_rng([seed, 1])
    flips = flip_rank(winsorize(D), rng, above_edge=fit.rank)
    sigma = sigma_tail(found.values, k, d, flips.rank)
    share = min(1.0, sigma**2 * k * d / float((found.values**2).sum()))
    return Measured(
        metric=name,
        n_pairs=k,
        dim=d,
        values=found.values,
        sigma=sigma,
        edge=flips.edge,
        noise_share=share,
        rank=flips.rank,
        interval=rank_interval(found.values, sigma, k, d, flips.rank, rng),
        confident=min(k, d) >= 2 * flips.rank + 2 and min(k, d) > 4,
        edge_rank=fit.rank,
    )
