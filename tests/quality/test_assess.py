"""The whole assessment: what it says of good, noisy, broken and label-changing pairs, and of bad input."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cfpairs.errors import DataError
from cfpairs.quality import PairQuality, assess_pairs
from cfpairs.quality.result import LEVELS
from tests.quality.worlds import frame, planted, strengths, world


def assess(pairs: dict[str, Any], **more: Any) -> PairQuality:
    given = {**pairs, **more}
    return assess_pairs(given.pop("D"), **given)


def advice(quality: PairQuality) -> str:
    return " ".join(row.text for row in (*quality.advice, *quality.remarks))


@pytest.fixture(scope="module")
def edits() -> PairQuality:
    return assess(world().edits(150, np.random.default_rng(0)))


def test_clean_edits_are_good(edits: PairQuality) -> None:
    assert edits.verdict.level == "good"
    assert edits.recommended_r == edits.verdict.recommended_r == 1
    assert edits.rank >= 1 and edits.rank_interval[0] <= edits.rank <= edits.rank_interval[1]
    row = edits.tradeoff[0]
    assert row.environment_removed is not None and row.environment_removed > 0.95
    assert row.label_removed is not None and row.label_removed > 0.2
    assert row.label_removed_deconfounded is not None and row.label_removed_deconfounded < 0.1
    assert edits.misalignment is not None and edits.misalignment < 0.2
    assert edits.split_half is not None and edits.split_half.cosine > 0.95
    assert edits.remarks[0].text.startswith("Removing r = 1 takes away ") and edits.advice == ()
    assert "the rest was the shortcut" in advice(edits)
    assert edits.flags == ()


def test_the_curves_are_complete_and_rise(edits: PairQuality) -> None:
    assert [row.r for row in edits.tradeoff] == list(range(1, 61))
    variance = [row.variance_removed for row in edits.tradeoff]
    assert variance == sorted(variance) and variance[-1] == pytest.approx(1.0)
    assert edits.tradeoff[-1].environment_removed == pytest.approx(1.0)
    assert edits.tradeoff[-1].label_removed == pytest.approx(1.0)


def test_pairs_of_different_subjects_are_usable_at_best() -> None:
    quality = assess(world(1500).between(150, np.random.default_rng(0), same_label=True))
    assert quality.verdict.level == "usable"
    assert "differ in their subjects" in advice(quality)


def test_pairs_across_labels_change_the_label() -> None:
    quality = assess(world(1500).between(150, np.random.default_rng(0), same_label=False))
    assert quality.verdict.level == "changes_label"
    assert quality.recommended_r == 0
    assert quality.remarks == () and quality.advice[0].kind == "remake"


def test_an_environment_that_lies_along_the_label_costs_the_label() -> None:
    pairs = world(tilt=0.8, label=2.0).edits(150, np.random.default_rng(0))
    quality = assess(pairs)
    assert quality.verdict.level == "changes_label"
    lost = quality.tradeoff[0].label_removed_deconfounded
    assert lost is not None and lost > 0.3


def test_pure_noise_needs_pairs() -> None:
    pairs = world().edits(150, np.random.default_rng(0))
    noise = np.random.default_rng(1).normal(size=pairs["D"].shape)
    quality = assess(pairs, D=noise, a=None)
    assert (quality.verdict.level, quality.rank, quality.recommended_r) == ("needs_pairs", 0, 0)
    assert quality.noise_share == pytest.approx(1.0, abs=0.02)
    assert quality.sigma == pytest.approx(1.0, rel=0.03)
    assert quality.forecast == () and quality.alignment == () and quality.misalignment is None


def test_pairs_that_show_something_else_miss_the_environment() -> None:
    w = world()
    rng = np.random.default_rng(2)
    other = frame(60, 1, rng)[:, 0]
    pairs = w.edits(150, rng)
    D = 8.0 * np.outer(rng.normal(size=150), other) + 0.3 * rng.normal(size=(150, 60))
    quality = assess(pairs, D=D)
    assert quality.verdict.level == "fix_pairs"
    assert "miss the environment" in quality.verdict.text


def test_too_few_weak_pairs_need_more_and_the_forecast_says_how_many() -> None:
    rng = np.random.default_rng(3)
    differences, _ = planted(100, 400, strengths(7.0, 8.0, 3, 100, 400), rng)
    quality = assess_pairs(differences)
    assert quality.verdict.level == "needs_pairs"
    assert quality.misalignment is not None and quality.misalignment > 0.3
    assert [row.n_pairs for row in quality.forecast] == [100, 200, 400, 800]
    told = [row.misalignment for row in quality.forecast]
    assert told == sorted(told, reverse=True) and told[-1] < 0.3
    assert all(row.low <= row.misalignment <= row.high for row in quality.forecast)


def test_copies_are_no_direction_and_are_named() -> None:
    rng = np.random.default_rng(4)
    differences = rng.normal(size=(60, 100))
    differences[40:] = differences[7]
    quality = assess_pairs(differences, pair_ids=[f"pair-{i}" for i in range(60)])
    assert quality.rank == 0
    assert quality.verdict.level == "fix_pairs"
    assert {flag.pair_id for flag in quality.flags} == {f"pair-{i}" for i in range(40, 60)}
    assert {flag.flag for flag in quality.flags} == {"duplicate"}
    alone = assess_pairs(differences[:40])
    assert alone.sigma == pytest.approx(quality.sigma)


def test_a_lone_cell_shows_in_the_coverage() -> None:
    w = world(seed=9)
    rng = np.random.default_rng(5)
    pairs = w.edits(200, rng)
    extra = 5.0 * frame(60, 1, rng)[:, 0]
    env_a, env_b = pairs["pair_envs"]
    lone = (pairs["pair_labels"] == 1) & (env_a == 1)
    D = pairs["D"] + np.outer(lone * 2.0, extra)
    quality = assess(pairs, D=D)
    cells = {(c.label, c.env_a, c.env_b): c for c in quality.cells}
    assert cells[1, 1, 0].n_pairs == int(lone.sum())
    assert cells[1, 1, 0].covered is not None and cells[1, 1, 0].covered < 0.6
    assert cells[0, 0, 1].covered is not None and cells[0, 0, 1].covered > 0.9
    assert sum(c.n_pairs for c in quality.cells) == 200
    kept = pairs["pair_labels"] == 0
    half = {name: pairs[name][kept] for name in ("D", "a", "pair_labels")}
    missing = assess(pairs, **half, pair_envs=(env_a[kept], env_b[kept]))
    assert [(c.label, c.n_pairs) for c in missing.cells if c.label == 1] == [(1, 0)]
    one_way = assess(
        pairs,
        **{name: pairs[name][env_a == 0] for name in ("D", "a", "pair_labels")},
        pair_envs=(env_a[env_a == 0], env_b[env_a == 0]),
    )
    assert all(c.n_pairs > 0 for c in one_way.cells)  # which side is a does not matter


def test_without_the_rare_groups_the_pairs_themselves_are_asked() -> None:
    w = world(agree=1.0)
    quality = assess(w.edits(150, np.random.default_rng(6)))
    row = quality.tradeoff[0]
    assert quality.recommended_r == 1
    assert row.environment_removed is not None and row.environment_removed > 0.95
    assert row.label_removed_deconfounded is not None and row.label_removed_deconfounded < 0.1


def test_uneven_noise_is_measured_against_how_items_vary() -> None:
    rng = np.random.default_rng(7)
    axes = np.arange(1, 81) ** -0.8 * 5.0
    turn = np.linalg.qr(rng.normal(size=(80, 80)))[0]
    n, k = 900, 120
    y, env = rng.integers(0, 2, n), rng.integers(0, 2, n)
    shift = 3.0 * frame(80, 1, rng)[:, 0]
    X = (rng.normal(size=(n, 80)) * axes) @ turn + np.outer(env, shift)
    D = (rng.normal(size=(k, 80)) * axes) @ turn * np.sqrt(2.0) + shift
    plain, measured = assess_pairs(D), assess_pairs(D, X, y, env)
    assert (plain.metric, measured.metric) == ("identity", "within-group")
    assert measured.rank <= 2 < plain.rank
    control = assess_pairs(D, control=(rng.normal(size=(4000, 80)) * axes) @ turn)
    assert control.metric == "control"
    assert 1 <= control.rank <= 2


def test_the_setting_of_the_ncm_paper_has_twenty_directions() -> None:
    rng = np.random.default_rng(8)
    axes = frame(100, 100, rng)[:, :20]
    for eps in (1.0, 5.0, 10.0):
        change = (np.sqrt(10.0) - np.sqrt(0.001)) * rng.normal(size=(100, 20))
        D = change @ axes.T + eps / 10.0 * rng.normal(size=(100, 100))
        quality = assess_pairs(D)
        assert quality.rank == 20
        assert quality.sigma == pytest.approx(eps / 10.0, rel=0.05)
    exact = assess_pairs(change @ axes.T)
    assert (exact.rank, exact.recommended_r, exact.sigma) == (20, 20, 0.0)
    assert exact.misalignment == pytest.approx(0.0, abs=1e-7)


def same(one: PairQuality, other: PairQuality, rel: float = 1e-6) -> None:
    a, b = one.to_dict(), other.to_dict()
    assert a["verdict"]["level"] == b["verdict"]["level"]
    for name in ("rank", "recommended_r", "n_pairs", "metric"):
        assert a[name] == b[name]
    for name in ("singular_values", "noise_edge", "sigma", "misalignment", "alignment"):
        assert a[name] == pytest.approx(b[name], rel=rel, abs=1e-7)
    for mine, its in zip(a["tradeoff"][:5], b["tradeoff"][:5], strict=True):
        assert mine == pytest.approx(its, rel=1e-5, abs=1e-6)


def test_neither_order_nor_sides_nor_scale_matter(edits: PairQuality) -> None:
    pairs = world().edits(150, np.random.default_rng(0))
    rng = np.random.default_rng(9)
    order = rng.permutation(150)
    shuffled = {
        **pairs,
        "D": pairs["D"][order],
        "a": pairs["a"][order],
        "pair_labels": pairs["pair_labels"][order],
        "pair_envs": tuple(env[order] for env in pairs["pair_envs"]),
    }
    same(assess(shuffled), edits)
    env_a, env_b = pairs["pair_envs"]
    swapped = assess(pairs, D=-pairs["D"], a=pairs["a"] - pairs["D"], pair_envs=(env_b, env_a))
    same(swapped, edits)
    scaled = assess(pairs, **{name: 10.0 * pairs[name] for name in ("D", "X", "a")})
    bigger = dataclasses.replace(
        edits,
        singular_values=tuple(
            s * (10.0 if edits.metric == "identity" else 1.0) for s in edits.singular_values
        ),
        noise_edge=(edits.noise_edge or 0.0) * (10.0 if edits.metric == "identity" else 1.0),
        sigma=(edits.sigma or 0.0) * (10.0 if edits.metric == "identity" else 1.0),
    )
    same(scaled, bigger)


def test_the_same_seed_gives_the_same_bytes(edits: PairQuality) -> None:
    again = assess(world().edits(150, np.random.default_rng(0)))
    assert json.dumps(again.to_dict()) == json.dumps(edits.to_dict())


def test_the_result_is_plain_and_shows_itself(edits: PairQuality) -> None:
    plain = edits.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert set(plain) >= {
        "n_pairs",
        "dim",
        "singular_values",
        "sigma",
        "noise_edge",
        "noise_share",
        "rank",
        "rank_interval",
        "recommended_r",
        "alignment",
        "misalignment",
        "forecast",
        "tradeoff",
        "flags",
        "cells",
        "verdict",
        "advice",
        "remarks",
    }
    html = dataclasses.replace(
        edits, verdict=dataclasses.replace(edits.verdict, text="<b>x</b>")
    )._repr_html_()
    assert "&lt;b&gt;" in html and "<b>" not in html
    with pytest.raises(dataclasses.FrozenInstanceError):
        edits.rank = 3  # type: ignore[misc]
    broken = dataclasses.replace(edits, sigma=float("nan"))
    assert broken.to_dict()["sigma"] is None


@pytest.mark.parametrize("k", [0, 1, 2, 3, 5])
def test_few_pairs_say_so(k: int) -> None:
    quality = assess_pairs(np.random.default_rng(k).normal(size=(k, 12)))
    assert quality.verdict.level == "needs_pairs"
    assert quality.rank == 0 and quality.n_pairs == k


EXTREMES = {
    "equal pairs": np.tile(np.arange(6.0), (12, 1)),
    "zeros": np.zeros((8, 5)),
    "one dimension": np.linspace(-1.0, 2.0, 15)[:, None],
    "one number": np.ones((1, 1)),
    "no noise": np.outer(np.linspace(-1.0, 2.0, 30), np.arange(6.0)),
    "dependent": np.random.default_rng(0).normal(size=(30, 8))
    @ np.random.default_rng(1).normal(size=(8, 12)),
    "huge": 1e150 * np.random.default_rng(2).normal(size=(20, 6)),
    "tiny": 1e-200 * np.random.default_rng(2).normal(size=(20, 6)),
    "many": np.random.default_rng(3).normal(size=(300, 6)),
    "single precision": np.random.default_rng(4).normal(size=(30, 6)).astype(np.float32),
}


@pytest.mark.parametrize("name", EXTREMES)
@pytest.mark.parametrize(
    "items", ["none", "all", "one environment", "one label", "no labels", "equal", "single"]
)
def test_extremes_end_in_a_verdict(name: str, items: str) -> None:
    D = EXTREMES[name]
    rng = np.random.default_rng(5)
    n = 40
    X, y, env = rng.normal(size=(n, D.shape[1])), np.arange(n) % 2, (np.arange(n) // 2) % 2
    given: dict[str, Any] = {
        "none": {},
        "all": {"X": X, "y": y, "env": env},
        "one environment": {"X": X, "y": y, "env": 0 * env},
        "one label": {"X": X, "y": 0 * y, "env": env},
        "no labels": {"X": X},
        "equal": {"X": 0.0 * X, "y": y, "env": env},
        "single": {"X": X[:1], "y": y[:1], "env": env[:1]},
    }[items]
    if items == "all" and len(D) <= n:
        k = len(D)
        given |= {"a": X[:k], "pair_labels": y[:k], "pair_envs": (env[:k], 1 - env[:k])}
    quality = assess_pairs(D, **given)
    assert quality.verdict.level in LEVELS
    assert quality.verdict.text
    assert 0 <= quality.recommended_r <= max(1, quality.rank)
    json.dumps(quality.to_dict(), allow_nan=False)
    if items in ("none", "no labels"):
        assert "not available" in advice(quality)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    k=st.integers(0, 12),
    d=st.integers(1, 8),
    seed=st.integers(0, 1000),
    repeat=st.booleans(),
    round_to=st.sampled_from([None, 0, 1]),
)
def test_no_small_input_breaks_it(k: int, d: int, seed: int, repeat: bool, round_to: int | None) -> None:
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(k, d))
    if round_to is not None:
        D = np.round(D, round_to)
    if repeat and k > 2:
        D[k // 2 :] = D[0]
    X = rng.normal(size=(20, d))
    y, env = rng.integers(0, 3, 20), rng.integers(0, 2, 20)
    at = rng.integers(0, 20, k)
    quality = assess_pairs(
        D, X, y, env, a=X[at], pair_labels=y[at], pair_envs=(env[at], 1 - env[at]), clusters=at % 4
    )
    json.dumps(quality.to_dict(), allow_nan=False)
    assert quality.verdict.level in LEVELS


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"D": np.array([[1.0, np.nan], [0.0, 1.0]])}, "not finite: got 1 of 2 pairs: 0"),
        ({"D": np.array([[np.inf, 0.0]]), "pair_ids": ["left"]}, "got 1 of 1 pairs: left"),
        ({"D": np.zeros(3)}, "not a matrix"),
        ({"D": [["a", "b"]]}, "not numbers"),
        ({"D": np.ones((2, 2)), "X": np.ones((4, 3))}, "got 3 dimensions, expected 2"),
        ({"D": np.ones((2, 2)), "X": np.ones((4, 2)), "y": [0, 1]}, "y has the wrong length"),
        ({"D": np.ones((2, 2)), "X": np.array([[1.0, np.nan]])}, "training items have values"),
        ({"D": np.ones((2, 2)), "clusters": [1]}, "clusters has the wrong length"),
        ({"D": np.ones((2, 2)), "pair_ids": ["x"]}, "pair_ids has the wrong length"),
        ({"D": np.ones((2, 2)), "pair_labels": [1, 2, 3]}, "pair_labels has the wrong length"),
        ({"D": np.ones((2, 2)), "a": np.ones((3, 2))}, "a has the wrong length"),
        ({"D": np.ones((2, 2)), "pair_envs": np.zeros((3, 3))}, "pair_envs has the wrong shape"),
        ({"D": np.ones((2, 2)), "control": np.ones((3, 5))}, "control pairs do not fit"),
    ],
)
def test_bad_input_is_told_in_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        assess_pairs(given.pop("D"), **given)
    assert "\n" not in str(caught.value)


def test_labels_may_be_words() -> None:
    w = world()
    pairs = w.edits(100, np.random.default_rng(0))
    names = np.array(["cat", "dog"])
    places = np.array(["grass", "street"])
    spelled = assess(
        pairs,
        y=names[w.y],
        env=places[w.env],
        pair_labels=names[pairs["pair_labels"]],
        pair_envs=tuple(places[env] for env in pairs["pair_envs"]),
    )
    same(spelled, assess(pairs))


def test_a_mark_of_the_editor_is_found_by_control_pairs_only() -> None:
    rng = np.random.default_rng(10)
    mark = 8.0 * frame(200, 1, rng)[:, 0]
    D = rng.normal(size=(120, 200)) + mark
    control = rng.normal(size=(60, 200)) + mark
    unaware = assess_pairs(D)
    assert unaware.split_half is not None and unaware.split_half.cosine > 0.85
    assert unaware.verdict.level == "good"
    aware = assess_pairs(D, control=control)
    assert aware.verdict.level == "fix_pairs"
    assert "leaves a mark" in advice(aware)
    clean = assess_pairs(D, control=rng.normal(size=(60, 200)))
    assert clean.verdict.level == "good"


def test_a_label_without_pairs_is_named() -> None:
    w = world()
    pairs = w.edits(150, np.random.default_rng(0))
    kept = pairs["pair_labels"] == 0
    half = {name: pairs[name][kept] for name in ("D", "a", "pair_labels")}
    quality = assess(pairs, **half, pair_envs=tuple(env[kept] for env in pairs["pair_envs"]))
    assert "Make pairs for label 1 between" in advice(quality)
