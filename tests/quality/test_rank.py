"""The number of directions: flips against the isotropic edge, and its interval."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality.interval import count_above, rank_interval
from cfpairs.quality.measure import measure, yardsticks
from cfpairs.quality.noise import fit_noise
from cfpairs.quality.rank import flip_rank, winsorize
from cfpairs.quality.spectrum import spectrum
from tests.quality.worlds import off, planted, strengths


def ranks(k: int, d: int, x2: np.ndarray, noise: str, seeds: int = 4) -> tuple[float, float]:
    """Mean rank by flips and by the isotropic edge."""
    flips, edges = [], []
    for seed in range(seeds):
        rng = np.random.default_rng([seed, k, d])
        scale: np.ndarray | float = 1.0
        if noise == "pairs":
            scale = rng.choice([0.5, 1.0, 1.6], size=(k, 1))
        elif noise == "heavy":
            scale = np.sqrt(3.0 / rng.chisquare(3, size=(k, 1)))
        elif noise == "axes":
            scale = np.arange(1, d + 1) ** -0.3
            scale = scale / np.sqrt(np.mean(scale**2))
        differences, _ = planted(k, d, x2, rng, scale)
        flips.append(measure(differences, yardsticks(None, None, *differences.shape), seed).rank)
        edges.append(fit_noise(spectrum(differences)).rank)
    return float(np.mean(flips)), float(np.mean(edges))


@pytest.mark.parametrize(("k", "d"), [(32, 256), (100, 256), (300, 100)])
def test_pure_noise_has_no_direction(k: int, d: int) -> None:
    assert ranks(k, d, np.zeros(0), "even")[0] <= 0.5


@pytest.mark.parametrize(("k", "low", "high"), [(100, 3.2, 6.0), (32, 7.0, 13.5)])
def test_even_noise_hides_no_direction(k: int, low: float, high: float) -> None:
    flips, edges = ranks(k, 256, strengths(low, high, 10, k, 256), "even")
    assert flips == pytest.approx(10, abs=1.0)
    assert edges == pytest.approx(10, abs=1.0)


def test_of_weak_directions_those_that_stand_out_are_counted() -> None:
    """Of twenty, 1.2 to 2.3 times what can be seen at all, about thirteen can be told from noise."""
    flips, edges = ranks(1000, 256, strengths(1.2, 2.3, 20, 1000, 256), "even", seeds=2)
    assert flips == pytest.approx(13.0, abs=2.0)
    assert edges == pytest.approx(12.8, abs=2.0)


def test_noise_that_differs_from_pair_to_pair_fools_the_edge_and_not_the_flips() -> None:
    flips, edges = ranks(100, 256, strengths(3.2, 6.0, 10, 100, 256), "pairs")
    assert flips == pytest.approx(10, abs=2.0)
    assert edges > 40


def test_heavy_tailed_pairs_fool_the_edge_and_not_the_flips() -> None:
    flips, edges = ranks(600, 160, strengths(4.0, 8.0, 12, 600, 160), "heavy", seeds=2)
    assert flips == pytest.approx(12, abs=2.0)
    assert edges > 24


def test_noise_that_differs_from_axis_to_axis_is_no_direction() -> None:
    flips, edges = ranks(100, 256, np.zeros(0), "axes")
    assert flips <= 1.0
    assert edges > 8


def test_one_strong_direction_does_not_hide_the_others() -> None:
    x2 = strengths(4.0, 8.0, 8, 100, 256)
    x2[0] = 1000.0
    assert ranks(100, 256, x2, "even")[0] == pytest.approx(8, abs=1.0)


def test_a_direction_along_one_coordinate_counts() -> None:
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(60, 40)) + 8.0 * rng.normal(size=(60, 1)) * np.eye(40)[3]
    assert measure(differences, yardsticks(None, None, *differences.shape), 0).rank == 1
    assert flip_rank(differences, np.random.default_rng(0)).rank == 0  # what flips alone would say


def test_swapping_sides_and_scaling_change_nothing_and_rotation_nearly_nothing() -> None:
    rng = np.random.default_rng(4)
    differences, _ = planted(80, 120, strengths(5.0, 9.0, 6, 80, 120), rng)
    before = measure(differences, yardsticks(None, None, *differences.shape), 0)
    swapped = measure(
        differences * rng.choice([-1.0, 1.0], size=(80, 1)), yardsticks(None, None, *differences.shape), 0
    )
    scaled = measure(1e3 * differences, yardsticks(None, None, *differences.shape), 0)
    rotation = np.linalg.qr(rng.normal(size=(120, 120)))[0]
    rotated = measure(differences @ rotation, yardsticks(None, None, *differences.shape), 0)
    assert before.rank == swapped.rank == scaled.rank == rotated.rank == 6
    assert swapped.edge == pytest.approx(before.edge, rel=1e-5)
    assert scaled.edge == pytest.approx(1e3 * float(before.edge or 0.0), rel=1e-5)
    assert rotated.values == pytest.approx(before.values, rel=1e-8)
    assert rotated.edge == pytest.approx(before.edge, rel=0.03)


def test_the_interval_covers_the_directions_that_can_be_seen() -> None:
    covered, widths = [], []
    for seed in range(6):
        rng = np.random.default_rng([seed, 5])
        differences, _ = planted(100, 256, strengths(1.6, 5.0, 10, 100, 256), rng)
        found = spectrum(differences)
        fit = fit_noise(found)
        low, high = rank_interval(found.values, fit.sigma, 100, 256, fit.rank, rng)
        assert low <= fit.rank <= high
        covered.append(low <= 10 <= high)
        widths.append(high - low)
    assert np.mean(covered) >= 0.5
    assert max(widths) <= 6


def test_counting_from_the_top_of_the_spectrum_agrees_with_the_full_fit() -> None:
    rng = np.random.default_rng(6)
    differences, _ = planted(100, 256, strengths(3.0, 6.0, 7, 100, 256), rng)
    squares = spectrum(differences).values ** 2
    top = np.append(squares[:20], squares.sum())
    assert count_above(top, 100, 256) == fit_noise(spectrum(differences)).rank == 7


def test_winsorising_keeps_the_subspace_when_one_pair_in_ten_is_wrong() -> None:
    clean, plain, robust = [], [], []
    for seed in range(3):
        rng = np.random.default_rng([seed, 8])
        differences, truth = planted(300, 500, np.full(8, 40.0), rng)
        clean.append(off(spectrum(differences).top(8), truth))
        wrong = rng.permutation(300)[:30]
        elsewhere = rng.normal(size=(30, 500))
        length = 3.3 * np.median(np.linalg.norm(differences, axis=1))
        differences[wrong] = length * elsewhere / np.linalg.norm(elsewhere, axis=1, keepdims=True)
        plain.append(off(spectrum(differences).top(8), truth))
        robust.append(off(spectrum(winsorize(differences)).top(8), truth))
    assert np.mean(clean) < np.mean(robust) < 0.3
    assert np.mean(plain) > 0.6
