"""Constants of random matrix theory, and the noise level found in planted differences."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality.noise import (
    bulk_misfit,
    edge,
    fit_noise,
    hard_threshold,
    median_marchenko_pastur,
    sigma_median,
)
from cfpairs.quality.spectrum import spectrum
from tests.quality.worlds import planted, strengths


@pytest.mark.parametrize(
    ("beta", "median", "threshold", "ratio"),
    [(1.0, 0.6528, 2.3094, 2.8584), (0.5, 0.8305, 1.9786, 2.1712), (0.1, 0.9666, 1.5816, 1.6088)],
)
def test_gavish_and_donohos_constants(beta: float, median: float, threshold: float, ratio: float) -> None:
    assert median_marchenko_pastur(beta) == pytest.approx(median, abs=1e-4)
    assert hard_threshold(beta) == pytest.approx(threshold, abs=1e-4)
    assert hard_threshold(beta) / np.sqrt(median_marchenko_pastur(beta)) == pytest.approx(ratio, abs=1e-3)


@pytest.mark.parametrize(("k", "d", "s"), [(64, 512, 10), (100, 256, 10), (600, 128, 8)])
def test_sigma_is_within_three_per_cent_where_the_median_is_not(k: int, d: int, s: int) -> None:
    found, medians = [], []
    for seed in range(4):
        rng = np.random.default_rng([seed, k])
        differences, _ = planted(k, d, strengths(4.0, 12.0, s, k, d), rng, noise=2.0)
        spectral = spectrum(differences)
        found.append(fit_noise(spectral).sigma)
        medians.append(sigma_median(spectral.values, k, d))
    assert np.mean(found) == pytest.approx(2.0, rel=0.03)
    assert np.mean(medians) > np.mean(found)


def test_pure_noise_rarely_passes_the_edge() -> None:
    tops = [
        spectrum(np.random.default_rng([seed, 1]).normal(size=(60, 90))).values[0] / edge(60, 90)
        for seed in range(60)
    ]
    passed = np.mean(np.array(tops) > 1.0)
    assert passed <= 0.15
    assert max(tops) > 0.97  # the edge is tight: the strongest of sixty comes near it


def test_the_bulk_of_even_noise_fits_and_that_of_uneven_noise_does_not() -> None:
    rng = np.random.default_rng(3)
    even = rng.normal(size=(150, 300))
    uneven = even * np.arange(1, 301) ** -0.8
    assert bulk_misfit(spectrum(even).values, 150, 300, 0) < 0.03
    assert bulk_misfit(spectrum(uneven).values, 150, 300, 0) > 0.15


def test_differences_without_noise_have_sigma_zero_and_their_exact_rank() -> None:
    rng = np.random.default_rng(0)
    exact = rng.normal(size=(40, 5)) @ rng.normal(size=(5, 30))
    fit = fit_noise(spectrum(exact))
    assert (fit.sigma, fit.rank, fit.share) == (0.0, 5, 0.0)
    noisy = fit_noise(spectrum(exact + 1e-3 * rng.normal(size=exact.shape)))
    assert noisy.sigma == pytest.approx(1e-3, rel=0.1)


@pytest.mark.parametrize("shape", [(30, 80), (80, 30), (1, 5), (5, 1), (12, 12)])
def test_the_spectrum_rebuilds_the_matrix(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(1).normal(size=shape)
    found = spectrum(matrix)
    assert np.linalg.norm(matrix @ found.directions, axis=0) == pytest.approx(found.values)
    assert found.directions.T @ found.directions == pytest.approx(np.eye(min(shape)), abs=1e-10)
    assert found.values == pytest.approx(np.linalg.svd(matrix, compute_uv=False))
