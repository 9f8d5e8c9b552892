"""What directions take from environment, label and variance, against planted shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import norm

from cfpairs.quality.contrasts import environment_contrast, label_contrast, pair_contrast
from cfpairs.quality.curves import by_chance, core
from cfpairs.quality.inputs import Inputs, check_inputs
from cfpairs.quality.labels import LabelKept, combine, label_position
from cfpairs.quality.metric import LABEL_SHRINKAGE, within_groups
from cfpairs.quality.remainder import Remainder, confounding, measure_remainder
from cfpairs.quality.result import TradeoffRow
from cfpairs.quality.rows import rows_of
from cfpairs.quality.spectrum import spectrum
from cfpairs.quality.tradeoff import label_share, shift_share, variance_share
from tests.quality.worlds import frame, world

Floats = np.ndarray


OPTIONAL = ("a", "pair_labels", "clusters", "pair_ids", "pair_envs", "control", "makers")


def check(pairs: dict[str, Any]) -> Inputs:
    given = {**dict.fromkeys(OPTIONAL), **pairs}
    return check_inputs(given.pop("D"), given.pop("X"), given.pop("y"), given.pop("env"), **given)


def two_labels(n: int, mean: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    y = rng.integers(0, 2, n)
    return rng.normal(size=(n, len(mean))) + np.outer(y - 0.5, mean), y


def test_the_identity_of_constrained_discriminants_is_exact() -> None:
    rng = np.random.default_rng(0)
    d, r = 20, 6
    X, y = two_labels(400, rng.normal(size=d), rng)
    directions = frame(d, r, rng)
    scatter, contrast = within_groups(X, y), label_contrast(X, y)
    assert scatter is not None and contrast is not None
    metric = scatter.metric(0.0)
    silent = type(contrast)(contrast.vectors, contrast.deviations, 0.0 * contrast.weights)
    shares = label_share(silent, metric, directions, own_items=False)
    covariance = metric.factor @ metric.factor.T
    means = contrast.vectors
    full = np.trace(means @ np.linalg.solve(covariance, means.T))
    assert shares is not None
    for j in range(1, r + 1):
        rest = np.linalg.svd(np.eye(d) - directions[:, :j] @ directions[:, :j].T)[0][:, : d - j]
        inner = np.linalg.solve(rest.T @ covariance @ rest, rest.T @ means.T)
        assert shares[j - 1] == pytest.approx(1.0 - np.trace(means @ rest @ inner) / full, abs=1e-10)


@pytest.mark.parametrize("n", [150, 1000])
def test_the_debiased_share_recovers_what_was_planted(n: int) -> None:
    d = 60
    mean = np.zeros(d)
    mean[:2] = np.sqrt([0.4, 0.0])
    mean[10:40] = np.sqrt(0.6 / 30)
    mean *= 3.0
    found, naive = [], []
    for seed in range(60 if n < 500 else 30):
        rng = np.random.default_rng([seed, n])
        X, y = two_labels(n, mean, rng)
        scatter, contrast = within_groups(X, y), label_contrast(X, y)
        assert scatter is not None and contrast is not None
        metric = scatter.metric(LABEL_SHRINKAGE)
        silent = type(contrast)(contrast.vectors, contrast.deviations, 0.0 * contrast.weights)
        for where, which in ((found, contrast), (naive, silent)):
            share = label_share(which, metric, np.eye(d)[:, :2], own_items=True)
            assert share is not None
            where.append(share[1])
    assert np.mean(found) == pytest.approx(0.4, abs=0.02)
    if n < 500:
        assert abs(np.mean(naive) - 0.4) > 0.03  # noise in 58 other dimensions waters the share down


def test_no_separation_gives_no_share() -> None:
    rng = np.random.default_rng(1)
    X, y = two_labels(300, np.zeros(40), rng)
    scatter, contrast = within_groups(X, y), label_contrast(X, y)
    assert scatter is not None and contrast is not None
    assert label_share(contrast, scatter.metric(0.5), np.eye(40)[:, :3], own_items=True) is None


def test_the_environments_axis_holds_its_shift_and_not_the_labels() -> None:
    w = world(seed=1)
    axis = (w.env_axis / np.linalg.norm(w.env_axis))[:, None]
    contrast = environment_contrast(w.X, w.y, w.env)
    assert contrast is not None
    share = shift_share(contrast, axis)
    assert share is not None and share[0] > 0.98
    across = shift_share(contrast, (w.label_axis / np.linalg.norm(w.label_axis))[:, None])
    assert across is not None and across[0] < 0.02
    scatter = within_groups(w.X, w.y, w.env)
    assert scatter is not None
    metric = scatter.metric(LABEL_SHRINKAGE)
    trained, fair = label_contrast(w.X, w.y), label_contrast(w.X, w.y, w.env)
    assert trained is not None and fair is not None
    plain = within_groups(w.X, w.y)
    assert plain is not None
    lost = label_share(trained, plain.metric(LABEL_SHRINKAGE), axis, own_items=True)
    fairly = label_share(fair, metric, axis, own_items=True)
    assert lost is not None and fairly is not None
    assert lost[0] > 0.3  # most of what separates the labels in training is the shortcut
    assert fairly[0] < 0.05


def test_three_labels_and_three_environments() -> None:
    rng = np.random.default_rng(2)
    n, d = 900, 50
    y, axes = rng.integers(0, 3, n), frame(d, 4, rng)
    env = np.where(rng.random(n) < 0.7, y, rng.integers(0, 3, n))
    labels = 2.0 * np.array([[1, 0], [-0.5, 0.9], [-0.5, -0.9]])[y] @ axes[:, :2].T
    places = 3.0 * np.array([[1, 0], [-0.5, 0.9], [-0.5, -0.9]])[env] @ axes[:, 2:].T
    X = rng.normal(size=(n, d)) + labels + places
    environment, fair = environment_contrast(X, y, env), label_contrast(X, y, env)
    scatter = within_groups(X, y, env)
    assert environment is not None and fair is not None and scatter is not None
    shares = shift_share(environment, axes[:, [2, 3]])
    assert shares is not None
    assert shares[0] == pytest.approx(0.5, abs=0.1)
    assert shares[1] > 0.97
    lost = label_share(fair, scatter.metric(LABEL_SHRINKAGE), axes[:, [2, 3, 0, 1]], own_items=True)
    assert lost is not None
    assert lost[1] < 0.05
    assert lost[3] > 0.9


def test_the_shift_can_be_taken_from_the_pairs() -> None:
    w = world(seed=3)
    pairs = w.edits(120, np.random.default_rng(0))
    env_a, env_b = pairs["pair_envs"]
    axis = (w.env_axis / np.linalg.norm(w.env_axis))[:, None]
    kinds = 2 * pairs["pair_labels"] + env_a
    contrast = pair_contrast(pairs["D"], kinds, env_a, env_b, np.arange(120))
    assert contrast is not None
    share = shift_share(contrast, axis)
    assert share is not None and share[0] > 0.98
    assert pair_contrast(pairs["D"], kinds, env_a, env_a, np.arange(120)) is None


def test_clusters_count_as_one() -> None:
    rng = np.random.default_rng(4)
    sources = rng.normal(size=(20, 30))
    X, y = np.repeat(sources, 10, axis=0), np.repeat([0, 1], 100)
    clusters = np.repeat(np.arange(20), 10)
    alone, together = label_contrast(X, y), label_contrast(X, y, clusters=clusters)
    assert alone is not None and together is not None

    def noise(contrast: object) -> float:
        return float(contrast.weights @ (contrast.deviations**2).sum(axis=1))

    once = label_contrast(sources, np.repeat([0, 1], 10))
    assert once is not None
    assert noise(together) == pytest.approx(noise(once))
    assert noise(alone) < 0.15 * noise(once)


def test_missing_groups_give_none() -> None:
    rng = np.random.default_rng(5)
    X, y = rng.normal(size=(40, 5)), np.repeat([0, 1], 20)
    assert environment_contrast(X, y, y) is None
    assert label_contrast(X, y, y) is None
    assert label_contrast(X, np.zeros(40, dtype=int)) is None
    assert within_groups(np.ones((40, 5)), y) is None
    assert variance_share(np.ones((40, 5)), np.eye(5)).tolist() == [0.0] * 5


@pytest.mark.parametrize(("same_label", "low", "high"), [(True, -0.45, 0.45), (False, 0.6, 1.5)])
def test_middles_tell_pairs_that_keep_the_label_from_pairs_that_do_not(
    same_label: bool, low: float, high: float
) -> None:
    w = world(1200, seed=6)
    pairs = w.between(150, np.random.default_rng(0), same_label=same_label)
    used = np.concatenate([rows_of(pairs["a"], w.X), rows_of(pairs["a"] - pairs["D"], w.X)])
    free = np.setdiff1d(np.arange(1200), used)
    scatter = within_groups(w.X, w.y, w.env)
    assert scatter is not None
    metric = scatter.metric(LABEL_SHRINKAGE)
    X, y, env = metric.whiten(w.X.T).T[free], w.y[free], w.env[free]
    reference, environment = label_contrast(X, y, env), environment_contrast(X, y, env)
    assert reference is not None

    def kept(middles: Floats) -> LabelKept | None:
        white = metric.whiten(middles.T).T
        at = label_position(
            white, pairs["pair_labels"], reference, np.array([0, 1]), environment, metric.weight
        )
        return None if at is None else combine([at])

    found = kept(pairs["a"] - pairs["D"] / 2.0)
    assert found is not None
    assert low < found.changed < high
    assert 0.0 < found.error < 0.3
    assert combine([]) is None


def test_chance_shares_match_random_directions() -> None:
    d, r = 200, 8
    rng = np.random.default_rng(7)
    mean = rng.normal(size=d)
    shares = [np.sum((frame(d, r, rng).T @ mean) ** 2) / np.sum(mean**2) for _ in range(400)]
    assert np.mean(np.array(shares) > by_chance(r, d)) == pytest.approx(0.01, abs=0.015)
    assert by_chance(5, 5) == 1.0


def test_the_core_weighs_environment_against_label() -> None:
    def rows(environment: list[float], label: list[float]) -> tuple[TradeoffRow, ...]:
        pairs = enumerate(zip(environment, label, strict=True), start=1)
        return tuple(TradeoffRow(r, e, None, c, 0.0) for r, (e, c) in pairs)

    quick = rows([0.94, 0.95, 0.97, 0.98], [0.05, 0.07, 0.20, 0.38])
    assert core(quick, 4) == 1
    slow = rows([0.3, 0.6, 0.9, 0.91], [0.01, 0.02, 0.03, 0.04])
    assert core(slow, 4) == 3
    assert core(slow, 2) == 2  # never over the rank
    assert core(rows([0.9], [0.1]), 3) == 1
    assert core((TradeoffRow(1, None, None, None, 0.1),), 1) is None


def test_the_score_ranks_as_the_accuracy_of_the_rare_groups_does() -> None:
    rng = np.random.default_rng(9)
    d, c = 40, 0.9
    label, shift = 1.2 * np.eye(d)[0], np.eye(d)[1]
    scores, accuracies = [], []
    for left in (0.0, 0.5, 1.0, 2.0):
        weights = label + c * left * shift  # the discriminant in unit noise, m + c s
        side = np.array([1.0, -1.0])
        y = side[rng.integers(0, 2, 4000)]
        env = -y  # the rare group: label and environment disagree
        X = rng.normal(size=(4000, d)) + np.outer(y, label) + np.outer(env, left * shift)
        accuracies.append(np.mean(np.sign(X @ weights) == y))
        scores.append(Remainder(np.array([left**2]), np.array([1.44]), c).score[0])
    assert norm.cdf(scores) == pytest.approx(accuracies, abs=0.03)
    assert accuracies == sorted(accuracies, reverse=True) and accuracies[-1] < 0.2 < 0.85 < accuracies[0]


def test_what_is_left_is_measured_on_other_pairs() -> None:
    w = world(1500, seed=10)
    few = check(w.edits(20, np.random.default_rng(0), noise=4.0))
    many = check(w.edits(400, np.random.default_rng(0), noise=4.0))
    shares, ratios = [], []
    for inputs in (few, many):
        scatter = within_groups(inputs.X, inputs.y, inputs.env)
        assert scatter is not None
        metric = scatter.metric(LABEL_SHRINKAGE)
        left = measure_remainder(inputs, metric, None, 4, np.random.default_rng(0))
        assert left is not None
        ratios.append(left.ratio[0])
        axis = w.env_axis / np.linalg.norm(w.env_axis)
        missed = 1.0 - (spectrum(inputs.D).top(1)[:, 0] @ axis) ** 2
        shares.append(missed * (w.env_axis @ w.env_axis) / (w.label_axis @ w.label_axis))
    assert ratios[1] < ratios[0]
    assert ratios[1] == pytest.approx(np.sqrt(shares[1]), abs=0.25)


def test_what_the_pairs_miss_altogether_is_left() -> None:
    w = world(seed=11)
    pairs = w.edits(100, np.random.default_rng(0))
    inputs = check({**pairs, "D": np.random.default_rng(1).normal(size=(100, 60))})
    scatter = within_groups(w.X, w.y, w.env)
    assert scatter is not None
    left = measure_remainder(inputs, scatter.metric(LABEL_SHRINKAGE), None, 3, np.random.default_rng(0))
    assert left is not None
    whole = np.linalg.norm(w.env_axis) / np.linalg.norm(w.label_axis)
    assert left.ratio[0] == pytest.approx(whole, rel=0.2)


def test_how_strongly_label_and_environment_go_together() -> None:
    rng = np.random.default_rng(12)
    y = rng.integers(0, 3, 3000)
    assert confounding(y, 10 * y) == pytest.approx(1.0)
    assert confounding(y, rng.integers(0, 3, 3000)) < 0.06
    two = rng.integers(0, 2, 4000)
    env = np.where(rng.random(4000) < 0.95, two, 1 - two)
    assert confounding(two, env) == pytest.approx(abs(np.corrcoef(two, env)[0, 1]), abs=1e-9)
    assert confounding(two, 0 * two) == 0.0
