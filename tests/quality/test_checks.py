"""Other rules for the rank, other noise, marks of origin, what a removal leaves, and sets side by side."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import cholesky, solve_triangular

from cfpairs.errors import DataError
from cfpairs.quality import assess_pairs, compare_sets
from cfpairs.quality.interval import direction_frequency
from cfpairs.quality.measure import measure, yardsticks
from cfpairs.quality.more import TARGET, more_pairs
from cfpairs.quality.noise import f_edge
from cfpairs.quality.reliability import wedin
from cfpairs.quality.result import CellRow, SplitHalf, Systematics
from cfpairs.quality.spectral_checks import (
    _foretold,
    bi_cross_validation_rank,
    bulk_squared_cosines,
    gavish_donoho_rank,
    screenot_rank,
)
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.systematics import mean_test
from tests.quality.worlds import frame, planted, strengths, world


def test_screenot_and_gavish_donoho_drop_weak_directions_and_count_strong_ones() -> None:
    rng = np.random.default_rng(0)
    strong = spectrum(planted(120, 200, strengths(20.0, 40.0, 5, 120, 200), rng)[0]).values
    assert screenot_rank(strong, 120, 200, 12) == gavish_donoho_rank(strong, 120, 200) == 5
    weak = spectrum(planted(1000, 256, strengths(1.2, 2.0, 10, 1000, 256), rng)[0]).values
    assert screenot_rank(weak, 1000, 256, 20) == gavish_donoho_rank(weak, 1000, 256) == 0
    assert screenot_rank(strong[:9], 9, 200, 4) is None  # 2 r + 1 values tell no noise


def test_one_strong_direction_hides_others_from_plain_flips_and_the_largest_gap() -> None:
    rng = np.random.default_rng(40)
    x2 = strengths(4.0, 8.0, 8, 100, 256)
    even = assess_pairs(planted(100, 256, 20.0 * x2, rng)[0]).rank_checks
    assert even.flip_pa == even.eigenvalue_ratio == even.bi_cross_validation == even.sign_flips == 8
    x2[0] = 3000.0
    one = assess_pairs(planted(100, 256, x2, rng)[0]).rank_checks
    assert one.flip_pa == one.eigenvalue_ratio == 1
    assert abs(one.sign_flips - 8) <= 1 and one.bi_cross_validation is not None


def test_bi_cross_validation_foretells_as_the_plain_formula_does() -> None:
    rng = np.random.default_rng(41)
    A, B, C, E = (rng.normal(size=shape) for shape in ((5, 4), (5, 6), (7, 4), (7, 6)))
    found = _foretold(A, B, C, E, 4)
    left, values, right = np.linalg.svd(E, full_matrices=False)
    for r in range(5):
        inverse = (right[:r].T / values[:r]) @ left[:, :r].T
        assert found[r] == pytest.approx(((A - B @ inverse @ C) ** 2).sum() - (A**2).sum())
    assert bi_cross_validation_rank(rng.normal(size=(7, 40)), 3, rng) is None


def test_noise_of_any_shape_gives_the_cosines() -> None:
    k, d, s = 400, 200, 3
    spread = np.repeat([0.5, 1.5], d // 2)
    found, truth = np.zeros(s), np.zeros(s)
    for seed in range(6):
        rng = np.random.default_rng([seed, 30])
        axes = frame(d, s, rng)
        rows = rng.normal(size=(k, s)) * np.array([2.6, 2.2, 1.9]) @ axes.T + rng.normal(size=(k, d)) * spread
        seen = spectrum(rows)
        squared = bulk_squared_cosines(seen.values, s, k, d)
        assert squared is not None
        found += squared / 6
        truth += ((axes.T @ seen.top(s)) ** 2).sum(axis=0) / 6
    assert found == pytest.approx(truth, abs=0.06)
    for shape in ((k, d), (d, k)):  # both sides of the matrix, by the even-noise formula
        rng = np.random.default_rng(31)
        rows, axes = planted(*shape, strengths(5.0, 6.0, 1, *shape), rng)
        seen = spectrum(rows)
        squared = bulk_squared_cosines(seen.values, 1, *shape)
        assert squared is not None
        assert squared[0] == pytest.approx(float((axes[:, 0] @ seen.top(1)[:, 0]) ** 2), abs=0.08)
    assert bulk_squared_cosines(np.ones(5), 2, 5, 100) is None


def test_whitening_from_few_samples_moves_the_edge_as_the_formula_says() -> None:
    k, d, n = 400, 120, 480
    tops = []
    for seed in range(4):
        rng = np.random.default_rng([seed, 32])
        control, noise = rng.normal(size=(n, d)), rng.normal(size=(k, d))
        factor = cholesky(control.T @ control / n, lower=True)
        white = solve_triangular(factor, noise.T, lower=True)
        tops.append(np.linalg.eigvalsh(white @ white.T / k)[-1])
    assert np.mean(tops) == pytest.approx(f_edge(d / k, d / n), rel=0.04)
    control, noise = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    assert yardsticks(None, control, k, d)["control"].widening > 1.1
    assert measure(noise, {"control": yardsticks(None, control, k, d)["control"]}, 0).rank == 0


def test_with_too_few_pairs_to_see_noise_control_pairs_tell_it() -> None:
    rng = np.random.default_rng(33)
    rows, _ = planted(10, 300, np.full(6, 400.0), rng)
    control = rng.normal(size=(60, 300))
    found = assess_pairs(rows, control=control)
    assert found.rank == 6
    assert found.sigma == pytest.approx(1.0, rel=0.05)
    assert not any("uncertain" in row.text for row in found.advice)


def test_a_shared_artefact_looks_perfect_and_control_pairs_and_the_forecast_say_so() -> None:
    rng = np.random.default_rng(34)
    mark = frame(768, 1, rng)[:, 0]
    rows = rng.normal(size=(200, 768)) + 8.0 * mark
    found = assess_pairs(rows, control=rng.normal(size=(200, 768)) + 8.0 * mark)
    assert found.split_half is not None and found.split_half.cosine > 0.85
    assert found.systematics.control_overlap is not None and found.systematics.control_overlap > 0.85
    assert any("making a pair" in reason for reason in found.more_pairs.cannot_help)
    assert found.verdict.level == "fix_pairs"


def test_a_mean_that_pairs_share_is_told_from_chance() -> None:
    rng = np.random.default_rng(35)
    rows = rng.normal(size=(80, 40))
    assert mean_test(rows + 0.5, rng)[1] == pytest.approx(0.01)
    ps = [mean_test(np.random.default_rng(seed).normal(size=(60, 20)), rng)[1] for seed in range(40)]
    assert np.mean(np.array(ps, dtype=float) <= 0.1) < 0.3  # uniform under chance
    assert mean_test(rows[:3], rng) == (None, None)


def test_two_editors_with_marks_of_their_own_are_told_apart() -> None:
    rng = np.random.default_rng(36)
    axes = frame(60, 3, rng)
    makers = np.repeat(["one", "two"], 60)
    common = 6.0 * rng.normal(size=(120, 1)) * axes[:, 0]
    own = 9.0 * rng.normal(size=(120, 1)) * np.where((makers == "one")[:, None], axes[:, 1], axes[:, 2])
    rows = common + own + rng.normal(size=(120, 60))
    split = next(s for s in assess_pairs(rows, makers=makers).systematics.splits if s.by == "maker")
    assert split.p <= 0.02 and split.distance > split.chance + 0.1
    mixed = next(s for s in assess_pairs(rows, makers=rng.permutation(makers)).systematics.splits)
    assert mixed.p > 0.02


def test_what_a_removal_leaves_is_measured_on_held_out_pairs() -> None:
    d, k = 100, 400
    values, truths, errors = [], [], []
    for seed in range(5):
        rng = np.random.default_rng([seed, 37])
        x2 = np.array([30.0, 20.0, 4.0])
        rows, axes = planted(k, d, x2, rng)
        theta = axes @ np.array([1.0, 1.0, 1.0]) + 0.3 * rng.normal(size=d)
        found = assess_pairs(rows, probe=lambda Q, theta=theta: theta - Q @ (Q.T @ theta))
        assert found.term_two is not None and found.term_two.held_out
        left = theta - spectrum(rows).top(found.recommended_r) @ (
            spectrum(rows).top(found.recommended_r).T @ theta
        )
        values.append(found.term_two.value)
        errors.append(found.term_two.error)
        truths.append(float(x2 @ (axes.T @ left) ** 2))
    # held-out probes have seen a fifth fewer pairs, so that a little more is left to them
    assert np.mean(values) == pytest.approx(np.mean(truths), abs=3.0 * np.mean(errors))
    fixed = assess_pairs(rows, probe=theta)
    assert fixed.term_two is not None and not fixed.term_two.held_out
    assert fixed.term_two.value > 10.0 * np.mean(values)  # this one reads what the pairs show
    with pytest.raises(DataError, match="probe's weights"):
        assess_pairs(rows, probe=np.ones(d + 1))


def test_wedins_condition_is_checked() -> None:
    assert wedin(np.array([1.0]), 1.0, 100, 100) is not None
    usual = wedin(np.array([5.0]), 1.0, 100, 500)
    clear = wedin(np.array([5000.0]), 1.0, 100, 500)
    assert usual is not None and not usual.applies and usual.bound is None
    assert clear is not None and clear.applies and clear.bound is not None and clear.bound < 0.6
    assert wedin(np.zeros(0), 1.0, 10, 10) is None and wedin(np.ones(1), 0.0, 10, 10) is None


HALF = SplitHalf(1, 0.6, 0.63, 0.5, 0.05, (0.6,), 10)
QUIET = Systematics(0.1, 0.5, None, ())


def test_more_pairs_are_counted_and_what_they_cannot_mend_is_said() -> None:
    plain = {
        "environment_removed": 0.9,
        "changes_label": False,
        "systematics": QUIET,
        "growth": (),
        "cells": (),
    }
    found = more_pairs(HALF, 100, 500, **plain)
    assert found.target == TARGET and found.cannot_help == ()
    assert found.low is not None and found.n_pairs is not None and found.high is not None
    assert 100 < found.low < found.n_pairs < found.high
    worse = {
        "do not show": {"environment_removed": 0.2},
        "stay unseen": {"cells": (CellRow(0, 0, 1, 0, 5, None),)},
        "change the label": {"changes_label": True},
        "making a pair": {"systematics": Systematics(0.1, 0.5, 0.9, ())},
        "fixed directions": {"growth": (4, 8, 16)},
    }
    for said, change in worse.items():
        reasons = more_pairs(HALF, 100, 500, **(plain | change)).cannot_help
        assert len(reasons) == 1 and said in reasons[0]
    assert more_pairs(None, 100, 500, **plain).n_pairs is None
    exact = SplitHalf(1, 0.99, 0.1, 0.05, 0.001, (0.99,), 10)
    assert "nearly exact" in more_pairs(exact, 100, 500, **plain).cannot_help[0]


def test_a_steady_direction_is_in_every_subsample_and_a_weak_one_is_not() -> None:
    rng = np.random.default_rng(38)
    rows, axes = planted(120, 200, np.array([40.0, 1.5]), rng)
    level = 1.02 * (np.sqrt(120) + np.sqrt(200))
    for part in (rows, rows @ rng.normal(size=(200, 200))[:, :60]):
        found = direction_frequency(part, spectrum(part).top(2), level, np.arange(120), rng)
        assert found[0] == 1.0
    found = direction_frequency(rows, np.stack([axes[:, 0], axes[:, 1]], axis=1), level, np.arange(120), rng)
    assert found[1] < 0.5


def test_dropping_broken_pairs_is_shown_and_helps() -> None:
    pairs = world(seed=3).edits(150, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    rows = np.array(pairs.pop("D"))
    rows[:12] += 25.0 * rng.normal(size=(12, 60))
    pairs.pop("a")
    found = assess_pairs(rows, **pairs)
    assert [row.dropped for row in found.dropping] == [0, 6, 12]
    ranked = list(dict.fromkeys(flag.pair_id for flag in found.flags))
    assert set(ranked[:12]) == {str(i) for i in range(12)}
    assert found.dropping[-1].misalignment < found.dropping[0].misalignment
    assert found.robust is not None and found.robust.distance > 0.2
    severities = [flag.severity for flag in found.flags if flag.flag == "outlier"]
    assert severities[0] == max(severities)


def test_editing_is_better_than_strangers_here() -> None:
    w = world(1500)
    rng = np.random.default_rng(0)
    sets = {"strangers": w.between(150, rng, same_label=True), "edits": w.edits(100, rng)}
    rows = compare_sets(sets, repeats=2)
    assert [row.name for row in rows] == ["edits", "strangers"]
    assert [row.n_pairs for row in rows] == [100, 100]
    assert [row.draws for row in rows] == [1, 2]
    assert rows[0].behind == 0.0 and rows[0].level == "good" and rows[1].level != "good"
    assert rows[1].behind is not None and rows[1].spread is not None
    with pytest.raises(DataError, match="without pairs"):
        compare_sets({"none": {"D": np.zeros((0, 3))}})


def test_edits_of_handwritten_digits_broken_on_purpose_are_ranked_first() -> None:
    from sklearn.datasets import load_digits

    rng = np.random.default_rng(39)
    images, digit = load_digits(return_X_y=True)
    y, env = (digit > 4).astype(int), None
    env = np.where(rng.random(len(y)) < 0.9, y, 1 - y)
    mix = rng.normal(size=(64, 160)) / 8.0
    paper = rng.uniform(0.0, 6.0, size=(2, 64))

    def embed(rows: np.ndarray, of_env: np.ndarray) -> np.ndarray:
        grain = rng.normal(size=rows.shape)
        return np.maximum((np.maximum(rows, paper[of_env]) + grain) @ mix, 0.0)

    X = embed(images, env)
    i = rng.permutation(len(y))[:200]
    source, env_b = i.copy(), 1 - env[i]
    wrong = rng.permutation(200)[:21]
    label, match, none = np.array_split(wrong, 3)
    source[label] = [rng.choice(np.flatnonzero(y != y[i[j]])) for j in label]
    source[match] = [rng.choice(np.flatnonzero((y == y[i[j]]) & (digit != digit[i[j]]))) for j in match]
    b = embed(images[source], env_b)
    b[none] = X[i][none]
    found = assess_pairs(X[i] - b, X, y, env, a=X[i], pair_labels=y[i], pair_envs=(env[i], env_b))
    ranked = list(dict.fromkeys(flag.pair_id for flag in found.flags))
    hits = set(ranked[:21]) & {str(j) for j in wrong}
    assert len(hits) >= 18
    assert {str(j) for j in none} <= set(ranked[:21])
    clean = assess_pairs(
        X[i] - embed(images[i], 1 - env[i]), X, y, env, a=X[i], pair_labels=y[i], pair_envs=(env[i], env_b)
    )
    assert len(clean.flags) < 8
