"""Noise whose long axes repeat as signal does: what a metric mends, and what is said without one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cfpairs.errors import DataError
from cfpairs.quality import assess_pairs
from cfpairs.quality.moments import PairMoments
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.unevenness import uneven_pairs
from tests.quality.worlds import off, planted, strengths

D, K, S = 120, 500, 5
SPREAD = np.arange(1, D + 1) ** -0.4


def drawn(seed: int) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
    """Items, pairs and the true directions; the noise varies as the items do."""
    rng = np.random.default_rng([seed, 60])
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    spread = SPREAD / np.sqrt((SPREAD**2).mean())
    signal, truth = planted(K, D, strengths(5.0, 9.0, S, K, D), rng, noise=0.0)
    y, env = rng.integers(0, 2, 900), rng.integers(0, 2, 900)
    X = (rng.normal(size=(900, D)) * spread) @ turn.T
    return {"X": X, "y": y, "env": env}, signal + (rng.normal(size=(K, D)) * spread) @ turn.T, truth


@pytest.mark.parametrize("many", [False, True])
def test_misalignment_holds_how_far_uneven_noise_turns_the_directions(many: bool) -> None:
    told, true = [], []
    for seed in range(3):
        items, rows, truth = drawn(seed)
        given = PairMoments(D).update(rows) if many else rows
        quality = assess_pairs(given, **items, draws=0)
        assert quality.metric == "within-group"
        assert abs(quality.rank - S) <= 1
        told.append(float(np.sqrt(np.mean(1.0 - np.square(quality.alignment[:S])))))
        true.append(off(spectrum(rows).top(S), truth))
    assert np.mean(true) > 0.35
    assert np.mean(told) == pytest.approx(np.mean(true), abs=0.1)


@pytest.mark.parametrize("many", [False, True])
def test_without_a_metric_uneven_noise_is_named_and_never_good(many: bool) -> None:
    _, rows, _ = drawn(7)
    quality = assess_pairs(PairMoments(D).update(rows) if many else rows, draws=0)
    assert quality.noise_uneven and quality.rank > 2 * S
    assert S <= quality.rank_interval[0] < quality.rank / 2
    assert quality.verdict.level == "needs_pairs"
    assert "control pairs" in quality.verdict.text
    assert quality.misalignment is not None and quality.misalignment > 0.5
    assert any(row.kind == "control" for row in quality.advice)


def test_even_noise_and_pairs_of_different_lengths_are_not_called_uneven() -> None:
    rng = np.random.default_rng(61)
    for k in (100, 400):
        rows, _ = planted(k, 120, strengths(4.0, 8.0, 5, k, 120), rng)
        assert not assess_pairs(rows, draws=0).noise_uneven
        assert not uneven_pairs(rows * np.sqrt(1.0 / rng.gamma(2.5, size=(k, 1))))


def test_the_shift_in_use_multiplies_what_is_left() -> None:
    rows, axes = planted(100, 60, np.array([40.0]), np.random.default_rng(62))
    one, two = (assess_pairs(rows, probe=axes[:, 0], shift=s, draws=0).term_two for s in (1.0, 3.0))
    assert one is not None and two is not None
    assert one.value == two.value > 0.0
    assert one.in_use == one.value
    assert two.in_use == pytest.approx(9.0 * one.value)
    with pytest.raises(DataError, match="shift in use"):
        assess_pairs(rows, shift=0.0)
