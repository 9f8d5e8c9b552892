"""Single pairs: copies, failures, outliers, wrong partners, and pairs that change the label."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality import flags
from cfpairs.quality.partners import compare_partners, match_places, wrong_matches
from cfpairs.quality.rank import winsorize
from cfpairs.quality.rows import equal_rows, rows_of
from cfpairs.quality.spectrum import spectrum
from tests.quality.worlds import planted, world

NAMES = tuple(f"p{i}" for i in range(400))


def test_copies_are_found_whatever_their_sign_and_neighbours_are_not() -> None:
    rng = np.random.default_rng(0)
    differences, _ = planted(60, 80, np.array([50.0]), rng)
    differences[10] = -differences[3]
    differences[20] = differences[3] + 0.01 * rng.normal(size=80)
    found, single = flags.duplicates(differences, NAMES)
    assert [(d.index, d.reason[-2:]) for d in found] == [(10, "p3"), (20, "p3")]
    assert np.flatnonzero(~single).tolist() == [10, 20]


def test_clean_edits_along_one_direction_are_no_copies() -> None:
    rng = np.random.default_rng(1)
    differences = 10.0 * np.eye(64)[0] + 0.05 * rng.normal(size=(100, 64))
    found, single = flags.duplicates(differences, NAMES)
    assert not found and single.all()


def test_differences_that_a_model_made_alike_are_no_copies_but_its_repetitions_are() -> None:
    """A few smooth factors, as a decoder has: close together in two groups, nothing like noise between."""
    rng = np.random.default_rng(2)
    factors = rng.normal(size=(120, 5)) * np.array([1.0, 0.5, 0.3, 0.2, 0.1])
    factors[:, 0] += np.where(np.arange(120) % 2, 6.0, -6.0)
    factors[:, 1] += np.where(np.arange(120) % 2, 6.0, 0.0)
    differences = factors @ np.linalg.qr(rng.normal(size=(64, 5)))[0].T
    cosine = np.corrcoef(differences, rowvar=True)
    np.fill_diagonal(cosine, 0.0)
    assert (np.abs(cosine).max(axis=1) > flags.DUPLICATE_COSINE).mean() > 0.9
    found, _ = flags.duplicates(differences, NAMES)
    assert len(found) <= 3
    differences[[30, 61, 100]] = differences[[4, 5, 6]] + 1e-4 * rng.normal(size=(3, 64))
    found, _ = flags.duplicates(differences, NAMES)
    assert {30, 61, 100} <= {doubt.index for doubt in found} and len(found) <= 6


@pytest.mark.parametrize("times", [2, 5])
def test_copies_are_found_where_every_pair_has_some(times: int) -> None:
    rng = np.random.default_rng(3)
    once, _ = planted(60, 80, np.array([50.0]), rng)
    differences = np.concatenate([once + 0.02 * rng.normal(size=once.shape) for _ in range(times)])
    found, single = flags.duplicates(differences, NAMES)
    assert [doubt.index for doubt in found] == list(range(60, 60 * times))
    assert np.flatnonzero(single).tolist() == list(range(60))


def test_blocks_of_the_comparison_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    differences = rng.normal(size=(50, 40))
    differences[[7, 23, 48]] = differences[[5, 5, 20]]
    whole, _ = flags.duplicates(differences, NAMES)
    monkeypatch.setattr(flags, "_BLOCK", 8)
    assert [d.reason for d in flags.duplicates(differences, NAMES)[0]] == [d.reason for d in whole]
    assert [d.index for d in whole] == [7, 23, 48]


def test_sides_that_hardly_differ_failed() -> None:
    differences = np.random.default_rng(3).normal(size=(20, 30))
    differences[4] = 0.0
    differences[9] *= 1e-3
    assert [d.index for d in flags.failed_edits(np.linalg.norm(differences, axis=1), None, None)] == [4, 9]
    assert [d.index for d in flags.failed_edits(np.linalg.norm(differences, axis=1), 5.0, None)] == [4, 9]
    control = 100.0 * np.random.default_rng(4).normal(size=(50, 30))
    assert len(flags.failed_edits(np.linalg.norm(differences, axis=1), 5.0, control)) == 20


def test_pairs_that_change_more_are_outliers() -> None:
    rng = np.random.default_rng(5)
    differences, _ = planted(100, 150, np.array([80.0, 60.0]), rng)
    differences[17] += 4.0 * rng.normal(size=150)
    found = flags.outliers(differences, rng.permutation(100), 2)
    assert [d.index for d in found] == [17]
    assert found[0].score > flags.OUTLIER_Z


def test_a_pair_that_decides_alone_is_named() -> None:
    rng = np.random.default_rng(6)
    differences = rng.normal(size=(80, 60))
    differences[33] *= 12.0
    spectral = spectrum(differences)
    found = flags.dominating(flags.leverages(differences, spectral, 1), 1)
    assert [d.index for d in found] == [33]
    assert flags.leverages(differences, spectral, 60).sum() == pytest.approx(60.0)
    for r in (1, 3):
        clean = rng.normal(size=(80, 60))
        assert flags.dominating(flags.leverages(clean, spectrum(clean), r), r) == []
    assert flags.bend(spectrum(winsorize(differences)).top(1), spectral.directions, 1) > 0.5


def test_a_probe_finds_the_pairs_that_change_the_label() -> None:
    w = world(seed=2)
    pairs = w.edits(60, np.random.default_rng(0))
    probe = (w.label_axis - (w.label_axis @ w.env_axis) * w.env_axis / (w.env_axis @ w.env_axis))[None, :]
    differences = np.array(pairs["D"])
    changed = [5, 40]
    for j in changed:
        differences[j] += 2.0 * (2.0 * pairs["pair_labels"][j] - 1.0) * w.label_axis
    found = flags.label_changing(differences, pairs["pair_labels"], probe, w.X, w.y)
    assert {d.index for d in found} == set(changed)
    erm = (w.X[w.y == 1].mean(axis=0) - w.X[w.y == 0].mean(axis=0))[None, :]
    reads_environment = flags.label_changing(differences, pairs["pair_labels"], erm, w.X, w.y)
    moved = np.abs(differences @ erm[0]) > flags.LABEL_MOVE * (erm[0] @ erm[0])
    assert moved.mean() > 0.5  # why it must not be an ERM probe: it moves on good pairs too
    assert not set(changed) <= {d.index for d in reads_environment[:2]} or len(reads_environment) < 3


def test_partners_of_edits_find_each_other_and_strangers_do_not() -> None:
    w = world(seed=4)
    rng = np.random.default_rng(0)
    likeness = {}
    for name, pairs in (("edit", w.edits(120, rng)), ("random", w.between(120, rng, same_label=True))):
        kinds = 2 * pairs["pair_labels"] + pairs["pair_envs"][0]
        found = compare_partners(pairs["a"], pairs["D"], kinds, np.arange(120), 1, np.random.default_rng(1))
        assert found is not None
        likeness[name] = found.likeness
        places = match_places(
            pairs["a"], pairs["D"], pairs["pair_envs"], np.arange(120), np.random.default_rng(1)
        )
        assert wrong_matches(places) == []
    assert likeness["edit"] > 0.98
    assert likeness["random"] == pytest.approx(0.5, abs=0.08)


def test_two_swapped_partners_are_wrong_matches() -> None:
    w = world(seed=5)
    pairs = w.edits(120, np.random.default_rng(0))
    kinds = 2 * pairs["pair_labels"] + pairs["pair_envs"][0]
    one, other = np.flatnonzero(kinds == np.bincount(kinds).argmax())[:2]
    b = pairs["a"] - pairs["D"]
    b[[one, other]] = b[[other, one]]
    places = match_places(
        pairs["a"], pairs["a"] - b, pairs["pair_envs"], np.arange(120), np.random.default_rng(1)
    )
    assert {d.index for d in wrong_matches(places)} == {one, other}
    assert (
        compare_partners(pairs["a"][:6], pairs["D"][:6], kinds[:6], np.arange(6), 1, np.random.default_rng(1))
        is None
    )


def test_equal_rows_are_found_up_to_rounding() -> None:
    rng = np.random.default_rng(8)
    hay = rng.normal(size=(50, 12))
    needles = np.concatenate([hay[[3, 49, 0]].astype(np.float32), rng.normal(size=(2, 12))])
    assert rows_of(needles, hay).tolist() == [3, 49, 0, -1, -1]
    assert equal_rows(np.concatenate([hay[:4], hay[1:3]])).tolist() == [0, 1, 2, 3, 1, 2]
    assert equal_rows(np.zeros((3, 2))).tolist() == [0, 0, 0]
