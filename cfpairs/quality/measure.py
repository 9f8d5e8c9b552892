"""The spectrum of the differences in the metric that suits their noise, and what stands above it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from cfpairs.quality.interval import rank_interval
from cfpairs.quality.metric import SPECTRUM_SHRINKAGE, Metric, spread_of_control
from cfpairs.quality.moments import PairMoments
from cfpairs.quality.noise import NoiseFit, bulk_misfit, edge, f_edge, fit_noise, sigma_tail
from cfpairs.quality.rank import FlipRank, flip_rank, winsorize
from cfpairs.quality.reliability import cosines, signal_strengths
from cfpairs.quality.result import MetricFit, RankChecks
from cfpairs.quality.spectral_checks import (
    bi_cross_validation_rank,
    bulk_squared_cosines,
    eigenvalue_ratio_rank,
    gavish_donoho_rank,
    screenot_rank,
)
from cfpairs.quality.spectrum import Spectrum, spectrum, spectrum_of_moment
from cfpairs.quality.streaming import many_flips_rank
from cfpairs.quality.unevenness import uneven_moments, uneven_pairs

__all__ = [
    "Measured",
    "Yardstick",
    "measure",
    "measure_moments",
    "metric_of_control",
    "whitened",
    "yardsticks",
]

Floats = NDArray[np.float64]

CONTROL_PAIRS = 20  # fewer control pairs say nothing about the shape of the noise
_BEYOND = 10  # directions that bi-cross-validation may add to twice the rank
_MANY_CONTROL = 2  # times d: from there on the metric needs no shrinking
_ENOUGH_CONTROL = 50  # times d: from there on the metric is as good as known


class Yardstick(NamedTuple):
    """A metric for the differences, and what is known of noise in it.

    Attributes
    ----------
    metric : Metric or None
        None for coordinates as embedded.
    widening : float
        Factor by which noise passes its edge, as the metric was learned from samples.
    sigma : float or None
        Noise per dimension that control pairs show in it.
    """

    metric: Metric | None
    widening: float = 1.0
    sigma: float | None = None


@dataclass(frozen=True)
class Measured:
    """Spectrum, noise and rank of the sound pairs in one metric; see `PairQuality` for the fields.

    Attributes
    ----------
    found : Spectrum
        In that metric.
    yardstick : Yardstick
    edge_rank : int
        Singular values over the edge of isotropic noise.
    by_model, by_bulk : ndarray of shape (rank,) or None
        Cosine of each direction by isotropic noise, and by noise as the rest of the spectrum has it.
    uneven : bool
        Whether noise is uneven and there is no metric but the identity: then directions of long axes of the
        noise count as signal.
    """

    metric: str
    metrics: tuple[MetricFit, ...]
    found: Spectrum
    yardstick: Yardstick
    sigma: float | None
    edge: float | None
    noise_share: float | None
    rank: int
    interval: tuple[int, int]
    confident: bool
    edge_rank: int
    strengths: Floats
    checks: RankChecks
    by_model: Floats
    by_bulk: Floats | None
    uneven: bool = False

    @property
    def values(self) -> Floats:
        """Singular values, largest first."""
        return self.found.values

    @property
    def n_pairs(self) -> int:
        """Number of pairs measured."""
        return self.found.n_pairs

    @property
    def dim(self) -> int:
        """Number of dimensions."""
        return self.found.dim

    def held(self, directions: Floats) -> Floats:
        """Length of each of the directions (d, r), as embedded, within those above the noise, (r,).

        Directions of the pairs as embedded turn to the long axes of uneven noise, and more pairs do not turn
        them back; those that were found in a metric do not. 1 where the pairs are measured as embedded.
        """
        r, metric = directions.shape[1], self.yardstick.metric
        if metric is None or r == 0:
            return np.ones(r)
        found = metric.factor @ self.found.top(min(max(r, self.rank), self.found.numerical_rank))
        return np.asarray(np.linalg.norm(np.linalg.qr(found)[0].T @ directions, axis=0))

    def turn(self, directions: Floats) -> float:
        """Root mean squared sine of the directions (d, r) to those that stand above the noise."""
        if directions.shape[1] == 0:
            return 0.0
        return float(np.sqrt(max(0.0, 1.0 - float((self.held(directions) ** 2).mean()))))


def yardsticks(
    groups: Metric | None, control: Floats | None, k: int, d: int, widening: float = 1.0
) -> dict[str, Yardstick]:
    """Metrics that k pairs may be measured in; `widening` is that of `groups`."""
    sigma = None if control is None or not len(control) else float(np.sqrt((control**2).mean()))
    found = {"identity": Yardstick(None, 1.0, sigma)}
    if k > 2 and groups is not None:
        found["within-group"] = Yardstick(
            groups, widening, None if control is None or not len(control) else _rms(groups.whiten(control.T))
        )
    if k > 2 and control is not None and len(control) >= CONTROL_PAIRS and sigma:
        many = len(control) >= _MANY_CONTROL * d
        found["control"] = Yardstick(
            metric_of_control(control),
            _f_widening(k, d, len(control)) if many else 1.0,
            1.0 if many else None,
        )
    return found


def metric_of_control(control: Floats) -> Metric:
    """The units of the differences of control pairs, (c, d), not all zero."""
    scatter = spread_of_control(control)
    many = len(control) >= _MANY_CONTROL * control.shape[1]
    return scatter.ridged(0.01) if many else scatter.metric(SPECTRUM_SHRINKAGE)


def _rms(matrix: Floats) -> float:
    return float(np.sqrt((matrix**2).mean()))


def measure(
    D: Floats, choices: dict[str, Yardstick], seed: int, *, draws: int | None = None, flips: int | None = None
) -> Measured:
    """Measure the differences as they are or in units of ordinary variation, whichever fits better.

    Embeddings of images vary along some axes ten times more than along others. Pairs of such embeddings
    have dozens of singular values over the edge of isotropic noise, the more the more pairs there are.
    Measured in units of how items of one group differ anyway (or control pairs, where there are any), the
    bulk is even. The metric is the one in which the bulk is nearest to the Marchenko-Pastur law.

    Parameters
    ----------
    D : ndarray of shape (k, d)
        Sound pairs in canonical order.
    choices : dict of str to Yardstick
        From `yardsticks`.
    seed : int
    draws, flips : int, optional
        Simulations behind the interval (0 leaves it out), and sign flips for each level.
    """
    matrices = {name: D if c.metric is None else c.metric.whiten(D.T).T for name, c in choices.items()}
    spectra = {name: spectrum(matrix) for name, matrix in matrices.items()}
    name, fits, misfits = _choose(spectra, choices)
    rng = np.random.default_rng([seed, 1])

    def count(fit: NoiseFit) -> FlipRank:
        own = winsorize(matrices[name])
        return flip_rank(own, rng, above_edge=fit.rank, flips=flips, widening=choices[name].widening)

    found = _in_metric(name, misfits, spectra[name], choices[name], fits[name], count, rng, draws)
    if draws != 0:
        foretold = bi_cross_validation_rank(matrices[name], 2 * found.rank + _BEYOND, rng)
        found = replace(found, checks=replace(found.checks, bi_cross_validation=foretold))
    return _blind(found) if len(choices) == 1 and found.rank and uneven_pairs(winsorize(D)) else found


def _blind(found: Measured) -> Measured:
    """What is left to say where noise is uneven and no metric evens it: the rank may be far lower."""
    low = found.interval[0] if found.checks.screenot is None else found.checks.screenot
    return replace(found, uneven=True, interval=(min(low, found.interval[0]), found.interval[1]))


def measure_moments(
    moments: PairMoments,
    plain: Spectrum,
    robust: Spectrum,
    choices: dict[str, Yardstick],
    seed: int,
    *,
    draws: int | None = None,
) -> Measured:
    """The same from sums over the pairs; sign flips are replaced by their limit for many pairs.

    `plain` and `robust` are the spectra of all pairs as embedded, and with long ones shortened.
    """
    spectra = {
        name: plain
        if choice.metric is None
        else spectrum_of_moment(whitened(moments.gram(), choice.metric), moments.n_pairs)
        for name, choice in choices.items()
    }
    name, fits, misfits = _choose(spectra, choices)
    metric = choices[name].metric

    def count(fit: NoiseFit) -> FlipRank:
        own = moments.robust_gram() if metric is None else whitened(moments.robust_gram(), metric)
        shortened = robust if metric is None else spectrum_of_moment(own, moments.n_pairs)
        widening = choices[name].widening
        return many_flips_rank(shortened, own, moments.even_pairs, above_edge=fit.rank, widening=widening)

    rng = np.random.default_rng([seed, 1])
    found = _in_metric(name, misfits, spectra[name], choices[name], fits[name], count, rng, draws)
    blind = len(choices) == 1 and found.rank and uneven_moments(robust, moments.even_pairs)
    return _blind(found) if blind else found


def whitened(gram: Floats, metric: Metric) -> Floats:
    """``L^-1 G L^-T``: sums of outer products (d, d) in the units of the metric."""
    once = metric.whiten(gram)
    return np.asarray(solve_triangular(metric.factor, once.T, lower=True, check_finite=False))


def _choose(
    spectra: dict[str, Spectrum], choices: dict[str, Yardstick]
) -> tuple[str, dict[str, NoiseFit], tuple[MetricFit, ...]]:
    fits = {name: fit_noise(found, choices[name].widening) for name, found in spectra.items()}
    # As much is taken for signal in every metric: whatever is left of uneven noise looks even in the end.
    signal = min((fit.rank for fit in fits.values() if fit.sigma > 0.0), default=0)
    misfits = {name: _misfit(spectra[name], fits[name], signal) for name in spectra}
    name = min(misfits, key=lambda n: misfits[n])
    return name, fits, tuple(MetricFit(n, float(misfit)) for n, misfit in misfits.items())


def _f_widening(k: int, d: int, samples: int) -> float:
    """How far a metric learned from samples of noise spreads other noise beyond the edge of even noise."""
    if samples >= _ENOUGH_CONTROL * d or k == 0:
        return 1.0
    c = d / samples
    # Sigma is fitted to the energy of the noise, which the metric raises by 1 / (1 - c).
    return float(np.sqrt(f_edge(d / k, c) * (1.0 - c) / f_edge(d / k, 0.0)))


def _misfit(found: Spectrum, fit: NoiseFit, signal: int) -> float:
    """How far the bulk is from that of even noise; at most a quarter of the values may be signal here."""
    k, d = found.n_pairs, found.dim
    if fit.sigma == 0.0:
        return 0.0
    return bulk_misfit(found.values, k, d, min(signal, min(k, d) // 4))


def _in_metric(
    name: str,
    metrics: tuple[MetricFit, ...],
    found: Spectrum,
    choice: Yardstick,
    fit: NoiseFit,
    count: Callable[[NoiseFit], FlipRank],
    rng: np.random.Generator,
    draws: int | None,
) -> Measured:
    k, d = found.n_pairs, found.dim
    values, full = found.values, found.numerical_rank
    confident = fit.confident
    interval: tuple[int, int] | None = None
    plain = full
    if full == 0:
        rank, sigma, level, share, interval, confident = 0, None, None, None, (0, 0), False
    elif fit.sigma == 0.0:  # no noise: every direction is signal
        rank, sigma, level, share, interval = full, 0.0, fit.edge, 0.0, (full, full)
    else:
        counted = count(fit)
        rank, level, plain = counted.rank, counted.edge, counted.plain
        confident = min(k, d) >= 2 * rank + 2 and min(k, d) > 4
        sigma = sigma_tail(values, k, d, rank)
        if not confident and choice.sigma:  # too few pairs to see the noise, but control pairs show it
            sigma = choice.sigma
            level = sigma * edge(k, d) * choice.widening
            rank = int((values[:full] > level).sum())
            confident = True
        share = min(1.0, sigma**2 * k * d / float((values**2).sum()))
        interval = rank_interval(values, sigma, k, d, rank, rng, draws=draws)
    known = sigma if sigma else 0.0
    bulk = bulk_squared_cosines(values, rank, k, d) if known else None
    return Measured(
        metric=name,
        metrics=metrics,
        found=found,
        yardstick=choice,
        sigma=sigma,
        edge=level,
        noise_share=share,
        rank=rank,
        interval=interval,
        confident=confident,
        edge_rank=fit.rank if full else 0,
        strengths=signal_strengths(values[:rank], known, k, d) if known else np.full(rank, np.inf),
        checks=RankChecks(
            sign_flips=rank,
            tracy_widom=fit.rank if full else 0,
            gavish_donoho=gavish_donoho_rank(values, k, d) if known else full,
            screenot=screenot_rank(values, k, d, max(1, min(2 * rank + 2, (min(k, d) - 2) // 2)))
            if known
            else None,
            numerical=full,
            flip_pa=plain,
            eigenvalue_ratio=eigenvalue_ratio_rank(values),
            bi_cross_validation=None,
        ),
        by_model=cosines(values[:rank], known, k, d),
        by_bulk=None if bulk is None else np.sqrt(bulk),
    )
