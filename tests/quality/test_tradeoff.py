"""What directions take from environment, label and variance, against planted shares."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality.contrasts import environment_contrast, label_contrast, pair_contrast
from cfpairs.quality.curves import by_chance, recommend
from cfpairs.quality.labels import label_kept
from cfpairs.quality.metric import LABEL_SHRINKAGE, within_groups
from cfpairs.quality.result import TradeoffRow
from cfpairs.quality.tradeoff import label_share, shift_share, variance_share
from tests.quality.worlds import frame, world

Floats = np.ndarray


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
    assert np.mean(found) == pytest.approx(0.4, abs=0.03)
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
    rng = np.random.default_rng(0)
    pairs = w.between(150, rng, same_label=same_label)
    other = world(1200, seed=6)
    free = np.flatnonzero(rng.random(1200) < 0.99)
    X, y, env = other.X[free], other.y[free], other.env[free]
    scatter, reference = within_groups(X, y, env), label_contrast(X, y, env)
    assert scatter is not None and reference is not None
    middles = pairs["a"] - pairs["D"] / 2.0
    environment = environment_contrast(X, y, env)
    args = (pairs["pair_labels"], reference, np.array([0, 1]), environment, scatter.metric(LABEL_SHRINKAGE))
    kept = label_kept(middles, *args)
    assert kept is not None
    assert low < kept.changed < high
    swapped = label_kept((pairs["a"] - pairs["D"]) + pairs["D"] / 2.0, *args)
    assert swapped is not None
    assert swapped.changed == pytest.approx(kept.changed)


def test_chance_shares_match_random_directions() -> None:
    d, r = 200, 8
    rng = np.random.default_rng(7)
    mean = rng.normal(size=d)
    shares = [np.sum((frame(d, r, rng).T @ mean) ** 2) / np.sum(mean**2) for _ in range(400)]
    assert np.mean(np.array(shares) > by_chance(r, d)) == pytest.approx(0.01, abs=0.015)
    assert by_chance(5, 5) == 1.0


def test_the_recommended_r_weighs_environment_against_label() -> None:
    def rows(environment: list[float], label: list[float]) -> tuple[TradeoffRow, ...]:
        pairs = enumerate(zip(environment, label, strict=True), start=1)
        return tuple(TradeoffRow(r, e, None, c, 0.0) for r, (e, c) in pairs)

    quick = rows([0.94, 0.95, 0.97, 0.98], [0.05, 0.07, 0.20, 0.38])
    assert recommend(quick, 4) == 1
    slow = rows([0.3, 0.6, 0.9, 0.91], [0.01, 0.02, 0.03, 0.04])
    assert recommend(slow, 4) == 3
    assert recommend(slow, 2) == 2  # never over the rank
    assert recommend(rows([0.9], [0.1]), 3) == 1
    assert recommend((TradeoffRow(1, None, None, None, 0.1),), 1) is None
