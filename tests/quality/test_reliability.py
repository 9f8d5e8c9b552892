"""Cosines, split halves and forecasts against directions that are known."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality.forecast import (
    expected_misalignment,
    forecast_rows,
    pairs_needed,
    unspread,
)
from cfpairs.quality.reliability import (
    HalfSplitter,
    cosines,
    distance,
    signal_strengths,
    squared_cosines,
)
from cfpairs.quality.spectrum import spectrum
from tests.quality.worlds import frame, off, planted, strengths


def test_the_formula_for_cosines_is_right_on_average() -> None:
    k, d = 150, 500
    x2 = np.array([8.0, 5.0, 3.0]) * np.sqrt(d / k)
    found = np.zeros(3)
    for seed in range(10):
        differences, truth = planted(k, d, x2, np.random.default_rng([seed, 2]))
        found += np.sum((truth.T @ spectrum(differences).top(3)) ** 2, axis=0) / 10
    assert squared_cosines(x2, d / k) == pytest.approx(found, abs=0.04)


def test_strengths_are_read_off_the_singular_values() -> None:
    k, d = 200, 300
    x2 = np.array([60.0, 30.0])
    read = np.mean(
        [
            signal_strengths(
                spectrum(planted(k, d, x2, np.random.default_rng([s, 3]), 2.0)[0]).values[:2] * 1.0,
                2.0,
                k,
                d,
            )
            for s in range(6)
        ],
        axis=0,
    )
    # `planted` gives the signal's variance, and noise of scale 2 has variance 4.
    assert read == pytest.approx(x2 / 4.0, rel=0.15)


def test_too_weak_a_direction_is_not_claimed() -> None:
    below = 0.9 * np.sqrt(500 / 100)
    assert squared_cosines(np.array([below]), 5.0)[0] == 0.0
    values = spectrum(np.random.default_rng(0).normal(size=(100, 500))).values[:3] * 0.98
    assert cosines(values, 1.0, 100, 500).tolist() == [0.0, 0.0, 0.0]
    assert cosines(values, 0.0, 100, 500).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(("k", "d", "s"), [(200, 500, 5), (100, 500, 12), (500, 160, 10)])
def test_split_halves_tell_how_far_off_the_directions_are(k: int, d: int, s: int) -> None:
    true, halves, each, model = [], [], [], []
    for seed in range(4):
        rng = np.random.default_rng([seed, k])
        differences, truth = planted(k, d, strengths(2.0, 6.0, s, k, d), rng)
        found = spectrum(differences)
        true.append(off(found.top(s), truth))
        splitter = HalfSplitter(differences, rng)
        at, alignment = splitter.at(s), splitter.alignment(s)
        assert at is not None and alignment is not None
        halves.append(at.misalignment)
        each.append(distance(alignment))
        model.append(distance(cosines(found.values[:s], 1.0, k, d)))
    assert np.mean(halves) == pytest.approx(np.mean(true), abs=0.05)
    assert np.mean(each) == pytest.approx(np.mean(true), abs=0.06)
    assert np.mean(model) == pytest.approx(np.mean(true), abs=0.06)


def test_halves_of_pure_noise_do_not_agree() -> None:
    splitter = HalfSplitter(np.random.default_rng(1).normal(size=(80, 400)), np.random.default_rng(0))
    for r in (1, 4):
        found = splitter.at(r)
        assert found is not None
        assert found.misalignment == 1.0
        assert found.cosine < 2.0 * np.sqrt(r / 400)


def test_pairs_of_one_source_stay_together() -> None:
    rng = np.random.default_rng(2)
    source = np.repeat(np.arange(8), [40, 28, 20, 4, 4, 4, 4, 4])
    copies = rng.normal(size=(8, 200))[source] + 0.1 * rng.normal(size=(len(source), 200))
    fooled = HalfSplitter(copies, np.random.default_rng(0)).at(3)
    told = HalfSplitter(copies, np.random.default_rng(0), clusters=source).at(3)
    assert fooled is not None and told is not None
    assert fooled.cosine > 0.6  # copies on both sides agree with each other
    assert told.cosine < 0.25


def test_many_pairs_take_the_other_route_to_the_same_answer() -> None:
    rng = np.random.default_rng(3)
    differences, truth = planted(300, 40, np.array([4.0, 3.0]), rng)
    found = HalfSplitter(differences, np.random.default_rng(0)).at(2)  # k > 4 d: through the directions
    wide = HalfSplitter(np.pad(differences, ((0, 0), (0, 60))), np.random.default_rng(0)).at(
        2
    )  # Gram of pairs
    assert found is not None and wide is not None
    assert found.cosine == pytest.approx(wide.cosine, abs=1e-9)
    assert found.misalignment == pytest.approx(off(spectrum(differences).top(2), truth), abs=0.05)


@pytest.mark.parametrize(("k", "d", "s", "margin"), [(100, 400, 5, 0.06), (60, 300, 12, 0.1)])
def test_forecasts_hold_when_the_pairs_are_made(k: int, d: int, s: int, margin: float) -> None:
    told: dict[int, list[float]] = {2: [], 4: []}
    made: dict[int, list[float]] = {2: [], 4: []}
    for seed in range(4):
        rng = np.random.default_rng([seed, 4, k])
        truth = frame(d, s, rng)
        x2 = strengths(2.5, 6.0, s, k, d)

        def pairs(n: int, rng=rng, x2=x2, truth=truth) -> np.ndarray:
            return (rng.normal(size=(n, s)) * np.sqrt(x2)) @ truth.T + rng.normal(size=(n, d))

        rows = forecast_rows(HalfSplitter(pairs(k), rng).at(s), k, d)
        by_count = {row.n_pairs: row.misalignment for row in rows}
        for factor in (2, 4):
            told[factor].append(by_count[factor * k])
            made[factor].append(off(spectrum(pairs(factor * k)).top(s), truth))
    for factor in (2, 4):
        assert np.mean(told[factor]) == pytest.approx(np.mean(made[factor]), abs=margin)
    assert np.mean(made[4]) < np.mean(made[2]) - 0.05


def test_the_number_of_pairs_asked_for_is_enough() -> None:
    for x2 in (0.5, 2.0, 9.0):
        k = pairs_needed(x2, 400, 0.3)
        assert expected_misalignment(np.array([x2]), round(k), 400) == pytest.approx(0.3, abs=0.01)
    assert pairs_needed(0.0, 400, 0.3) == float("inf")


def test_estimated_strengths_spread_more_than_true_ones() -> None:
    k, d = 150, 300
    x2 = np.full(10, 12.0)
    read, narrowed = [], []
    for seed in range(5):
        values = spectrum(planted(k, d, x2, np.random.default_rng([seed, 5]))[0]).values[:10]
        found = signal_strengths(values, 1.0, k, d)
        read.append(np.std(found))
        narrowed.append(np.std(unspread(found, k)))
    assert np.mean(read) > 2.0  # the truth has no spread at all
    assert np.mean(narrowed) < 0.7 * np.mean(read)


def test_an_artefact_of_every_pair_is_reproducible_and_so_not_seen() -> None:
    rng = np.random.default_rng(7)
    artefact = frame(300, 1, rng)[:, 0]
    differences = rng.normal(size=(150, 300)) + 8.0 * artefact
    control = rng.normal(size=(150, 300)) + 8.0 * artefact
    found = HalfSplitter(differences, rng).at(1)
    assert found is not None and found.cosine > 0.85
    assert abs(spectrum(control).top(1)[:, 0] @ spectrum(differences).top(1)[:, 0]) > 0.85
