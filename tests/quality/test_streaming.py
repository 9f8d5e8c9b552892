"""Many pairs: sums that merge, flips in the limit, and the same answers as from pairs held in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cfpairs.errors import DataError
from cfpairs.quality import PairMoments, assess_pairs, inputs
from cfpairs.quality.flags import duplicates
from cfpairs.quality.look import _folds
from cfpairs.quality.rank import flip_rank, winsorize
from cfpairs.quality.scores import copies, score_pairs
from cfpairs.quality.spectrum import spectrum, spectrum_of_moment
from cfpairs.quality.streaming import many_flips_rank, top_directions
from tests.quality.worlds import off, planted, strengths, world

K, D = 3000, 60


@pytest.fixture
def few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read in blocks from 500 pairs on."""
    monkeypatch.setattr(inputs, "MANY", 500)
    monkeypatch.setattr("cfpairs.quality.assess.MANY", 500)
    monkeypatch.setattr("cfpairs.quality.moments._BLOCK_BYTES", 8 * D * 400)


def test_parts_merge_into_the_sums_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(900, 20)) * rng.gamma(2.0, size=(900, 1))
    folds = rng.integers(0, 6, 900)
    whole = PairMoments(20, limit=4.0).update(rows, folds=folds)
    parts = [PairMoments(20, limit=4.0).update(rows[i::3], folds=folds[i::3]) for i in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.n_pairs == whole.n_pairs == 900
    assert merged.gram() == pytest.approx(rows.T @ rows, rel=1e-10)
    assert merged.gram([2]) == pytest.approx(whole.gram([2]), rel=1e-10)
    size = 1e-5 * float(np.trace(rows.T @ rows))
    assert merged.robust_gram() == pytest.approx(whole.robust_gram(), abs=size)
    assert merged.even_pairs == pytest.approx(whole.even_pairs)
    assert whole.even_pairs < 900
    short = np.where(np.linalg.norm(rows, axis=1) > 1.05 * 4.0, 4.0 / np.linalg.norm(rows, axis=1), 1.0)
    cut = rows * short[:, None]
    assert whole.robust_gram() == pytest.approx(cut.T @ cut, abs=size)


def test_the_order_of_threads_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfpairs.quality.moments._BLOCK_BYTES", 8 * 20 * 256)
    rows = np.random.default_rng(1).normal(size=(5000, 20)) * np.linspace(0.5, 2.0, 5000)[:, None]
    grams = []
    for cores in (1, 2, 8, 8):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        found = PairMoments(20).update(rows)
        grams.append([*(found.robust_gram([fold]) for fold in range(6)), found.gram()])
    assert all(
        np.array_equal(one, two) for other in grams[1:] for one, two in zip(grams[0], other, strict=True)
    )
    assert grams[0][-1] == pytest.approx(rows.T @ rows, rel=1e-10)
    counts = [found.count([fold]) for fold in range(6)]
    assert sum(counts) == 5000 and max(counts) - min(counts) < 30


def test_rows_that_are_left_out_are_in_no_sum() -> None:
    rng = np.random.default_rng(3)
    rows = (rng.normal(size=(9000, 12)) * rng.gamma(3.0, size=(9000, 1))).astype(np.float32)
    folds = rng.integers(0, 6, 9000)
    keep = rng.random(9000) < 0.9
    whole = PairMoments(12, limit=5.0).update(rows, folds=folds, keep=keep)
    for fold in range(6):
        own = rows[keep & (folds == fold)].astype(np.float64)
        lengths = np.linalg.norm(own, axis=1, keepdims=True)
        cut = own * np.where(lengths > 1.05 * 5.0, 5.0 / lengths, 1.0)
        size = 1e-5 * float(np.trace(own.T @ own))
        assert whole.count([fold]) == len(own)
        assert whole.gram([fold]) == pytest.approx(own.T @ own, rel=1e-10)
        assert whole.robust_gram([fold]) == pytest.approx(cut.T @ cut, abs=size)


def test_a_known_source_is_never_split() -> None:
    sources = np.random.default_rng(0).integers(0, 900, 10_000)
    folds = _folds(sources, 0)
    assert all(np.unique(folds[sources == source]).size == 1 for source in range(900))
    counts = np.bincount(_folds(np.arange(10_000), 0))
    assert len(counts) == 6 and counts.max() - counts.min() <= 1
    assert _folds(np.zeros(0, dtype=np.int64), 0).size == 0


def test_a_block_that_is_refused_leaves_the_sums_of_those_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cfpairs.quality.moments._BLOCK_BYTES", 8 * 20 * 256)
    rows = np.random.default_rng(2).normal(size=(1500, 20))
    rows[1400, 3] = np.inf
    sums = PairMoments(20)
    with pytest.raises(DataError, match="got 1 pairs"):
        sums.update(rows)
    assert 0 < sums.n_pairs < 1400
    assert sums.gram() == pytest.approx(rows[: sums.n_pairs].T @ rows[: sums.n_pairs], rel=1e-10)


def test_sums_that_do_not_fit_are_refused() -> None:
    one = PairMoments(4, limit=1.0).update(np.ones((3, 4)))
    with pytest.raises(DataError, match="dimension"):
        one.merge(PairMoments(5))
    with pytest.raises(DataError, match="shortened"):
        one.merge(PairMoments(4, limit=2.0).update(np.ones((3, 4))))
    with pytest.raises(DataError, match="dimension"):
        one.update(np.ones((3, 5)))
    with pytest.raises(DataError, match="not finite"):
        one.update(np.full((3, 4), np.nan))
    for folds in ([0, 1, 7], [0, -1, 2], [0, 1]):
        with pytest.raises(DataError, match="folds do not fit"):
            one.update(np.ones((3, 4)), folds=np.array(folds))
    with pytest.raises(DataError, match="1 or more"):
        PairMoments(0)
    with pytest.raises(DataError, match="single pairs"):
        assess_pairs(one, pair_labels=[0, 1, 1])


@pytest.mark.parametrize(("s", "uneven"), [(0, False), (8, False), (8, True)])
def test_the_limit_of_flips_counts_as_flips_do(s: int, uneven: bool) -> None:
    rng = np.random.default_rng(s)
    noise = np.linspace(0.6, 1.4, D) if uneven else 1.0
    rows, _ = planted(K, D, strengths(4.0, 9.0, s, K, D), rng, noise)
    moments = PairMoments(D).update(rows)
    gram = moments.robust_gram()
    found = many_flips_rank(spectrum_of_moment(gram, K), gram, moments.even_pairs)
    flips = flip_rank(winsorize(rows), rng)
    assert found.rank == s
    assert s <= flips.rank <= s + 3 * uneven  # a few flips are less sure than their limit
    assert found.edge == pytest.approx(flips.edge, rel=0.06)


@pytest.mark.parametrize("r", [1, 10])
@pytest.mark.parametrize("strength", [1.3, 6.0])
def test_leading_directions_are_those_of_a_full_decomposition(strength: float, r: int) -> None:
    """Weak ones too, next to the edge of what can be seen."""
    rng = np.random.default_rng(2)
    rows, _ = planted(4000, 200, strengths(strength, 1.5 * strength, r, 4000, 200), rng)
    gram = rows.T @ rows
    exact = np.linalg.eigh(gram)[1][:, ::-1][:, :r]
    assert np.abs(np.abs((exact * top_directions(gram, r)).sum(axis=0)) - 1.0).max() < 1e-6
    small = gram[:60, :60]
    exact = np.linalg.eigh(small)[1][:, ::-1][:, :r]
    assert np.abs(np.abs((exact * top_directions(small, r)).sum(axis=0)) - 1.0).max() < 1e-9


def test_a_matrix_of_zeros_has_some_directions() -> None:
    found = top_directions(np.zeros((200, 200)), 3)
    assert found.T @ found == pytest.approx(np.eye(3))


def test_halves_of_sums_agree_as_halves_of_pairs_do(few_are_many: None) -> None:
    """For weak directions, where an unfinished search would leave both halves near its start."""
    rng = np.random.default_rng(4)
    k, d = 6000, 300
    rows, truth = planted(k, d, np.full(4, 2.5 * np.sqrt(d / k)), rng)
    found = assess_pairs(rows)
    true = off(spectrum(rows).top(4), truth)
    assert found.rank == 4
    assert found.misalignment == pytest.approx(true, abs=0.04)


def test_many_pairs_are_assessed_as_few_are(few_are_many: None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    rows, truth = planted(K, D, strengths(5.0, 9.0, 6, K, D), rng)
    rows[17] *= 8.0
    rows[40] = 0.0
    rows[900] = -rows[30]
    rows[901] = rows[30] + 1e-4 * rng.normal(size=D)
    found = assess_pairs(rows)
    assert found.rank == 6
    assert off(spectrum(rows).top(6), truth) == pytest.approx(found.misalignment, abs=0.05)
    assert {(f.pair_id, f.flag) for f in found.flags} >= {
        ("17", "outlier"),
        ("40", "failed edit"),
        ("900", "duplicate"),
        ("901", "duplicate"),
    }
    assert found.flags[0].pair_id in ("17", "40")
    monkeypatch.setattr(inputs, "MANY", 10**6)
    monkeypatch.setattr("cfpairs.quality.assess.MANY", 10**6)
    few = assess_pairs(rows)
    assert (few.rank, few.verdict.level) == (found.rank, found.verdict.level)
    assert few.sigma == pytest.approx(found.sigma, rel=0.01)
    assert few.misalignment == pytest.approx(found.misalignment, abs=0.03)
    summed = assess_pairs(PairMoments(D).update(rows))
    assert summed.rank == 6 and summed.flags == ()
    assert summed.misalignment == pytest.approx(found.misalignment, abs=0.03)


def test_labels_and_environments_of_many_pairs(few_are_many: None) -> None:
    w = world(1500, D)
    pairs = w.edits(1400, np.random.default_rng(0))
    found = assess_pairs(pairs.pop("D"), **pairs)
    assert found.verdict.level == "good"
    assert sum(cell.n_pairs for cell in found.cells) == 1400
    row = found.tradeoff[0]
    assert row.environment_removed is not None and row.environment_removed > 0.95
    assert row.label_removed_deconfounded is not None and row.label_removed_deconfounded < 0.1


def test_copies_that_make_a_direction_are_named(few_are_many: None) -> None:
    rows = np.random.default_rng(5).normal(size=(1200, D))
    rows[700:] = rows[3]
    found = assess_pairs(rows)
    assert sum(flag.flag == "duplicate" for flag in found.flags) == 500
    assert found.verdict.level == "fix_pairs"


def test_no_number_of_pairs_makes_copies_of_what_a_model_made_alike(few_are_many: None) -> None:
    """Four smooth factors: the more pairs, the nearer the neighbours, and the nearer must copies be."""
    rng = np.random.default_rng(8)
    frame = rng.normal(size=(4, 64))
    rows = np.tanh(rng.normal(size=(4000, 4)) @ frame) + 0.01 * rng.normal(size=(4000, 64))
    names = tuple(map(str, range(len(rows))))
    for k in (1000, 4000):
        some, lengths = rows[:k], np.linalg.norm(rows[:k], axis=1)
        spread = spectrum(some)
        found = copies(some, score_pairs(some, lengths, spread, spread.top(4), 4, 0), lengths, names)
        assert len(found) <= len(duplicates(some, names)[0]) + 0.01 * k < 0.1 * k


def test_few_sources_leave_folds_empty_and_the_bound_is_still_a_number() -> None:
    rng = np.random.default_rng(9)
    D = rng.normal(size=(900, 20)) + 3.0 * rng.normal(size=(900, 1)) * np.eye(20)[0]
    theta = np.eye(20)[:1] + 0.1
    for sources in (1, 3, 6):
        sums = PairMoments(20).update(D, folds=np.arange(900) % sources)
        found = assess_pairs(sums, probe=lambda Q: theta - theta @ Q @ Q.T).term_two
        if sources == 1:
            assert found is None
        else:
            assert found is not None and np.isfinite([found.value, found.error]).all() and found.value > 0.0


def test_near_copies_among_many_are_those_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    rows, _ = planted(1200, D, np.array([900.0]), rng)
    later = np.arange(900, 1000)
    rows[later] = rows[later - 900] + 0.05 * rng.normal(size=(100, D))  # a cosine of about .998
    rows[1000:1010] = -2.0 * rows[:10]  # the same direction, but no copy
    names = tuple(map(str, range(1200)))
    lengths = np.linalg.norm(rows, axis=1)
    wanted = {(doubt.index, doubt.reason) for doubt in duplicates(rows, names)[0]}
    assert {index for index, _ in wanted} == set(later.tolist())
    spread = spectrum(rows)
    scores = score_pairs(rows, lengths, spread, spread.top(1), 1, 0)
    found = copies(rows, scores, lengths, names)
    assert {(doubt.index, doubt.reason) for doubt in found} <= wanted
    assert len(found) >= 90
    assert min(doubt.score for doubt in found) > 0.98


def test_a_file_is_read_in_blocks(few_are_many: None, tmp_path: Path) -> None:
    rows = np.random.default_rng(6).normal(size=(20_000, D)).astype(np.float32)
    np.save(tmp_path / "d.npy", rows)
    held = np.load(tmp_path / "d.npy", mmap_mode="r")
    most = []
    for k in (5000, 20_000):
        tracemalloc.start()
        found = assess_pairs(held[:k], draws=0)
        most.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.rank == 0 and found.rank_interval == (0, 0)
    assert most[1] - most[0] < 0.5 * (rows[5000:].nbytes)
    with pytest.raises(DataError, match="got 1 of 20000 pairs: 77"):
        broken = rows.copy()
        broken[77, 3] = np.nan
        assess_pairs(broken)
