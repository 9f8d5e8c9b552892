import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpairs.errors import DataError
from cfpairs.selection import (
    PairScores,
    best_average,
    choose_by_pairs,
    fold_of_clusters,
    held_out_rows,
    pair_clusters,
    score_pairs,
)


def test_pairs_that_share_a_subject_are_one_cluster():
    assert pair_clusters("abcd", "bxyd").tolist() == [0, 0, 1, 2]
    assert pair_clusters([], []).tolist() == []


@given(st.lists(st.integers(0, 12), min_size=13, max_size=60), st.integers(2, 6), st.integers(0, 9))
@settings(deadline=None)
def test_a_cluster_never_straddles_a_fold(clusters, folds, seed):
    clusters = np.array([*range(13), *clusters])
    fold = fold_of_clusters(clusters, folds, seed)
    for cluster in np.unique(clusters):
        assert len(np.unique(fold[clusters == cluster])) == 1
    assert set(fold) == set(range(folds))
    sizes = np.bincount(fold)
    assert sizes.max() - sizes.min() <= np.bincount(clusters).max()


def test_folds_depend_on_the_seed_only():
    clusters = np.arange(40)
    assert (fold_of_clusters(clusters, 5, 1) == fold_of_clusters(clusters, 5, 1)).all()
    assert (fold_of_clusters(clusters, 5, 1) != fold_of_clusters(clusters, 5, 2)).any()


def test_one_cluster_cannot_be_held_out():
    with pytest.raises(DataError, match="4 pairs in 1 cluster"):
        fold_of_clusters(np.zeros(4, np.int64), 5, 0)


def test_held_out_subjects_are_whole():
    subjects = [f"s{i // 3}" for i in range(300)]
    mask = held_out_rows(subjects, 0.2, 0)
    assert 0.19 <= mask.mean() <= 0.22
    out = {s for s, m in zip(subjects, mask, strict=True) if m}
    assert not out & {s for s, m in zip(subjects, mask, strict=True) if not m}


def scores(right, cell):
    right = np.asarray(right, bool)
    return PairScores(right, np.asarray(cell), np.zeros(right.shape[1]), np.zeros(right.shape[1]))


def test_the_worst_cell_counts_before_the_average():
    right = np.ones((400, 2), bool)
    right[:80, 0] = False  # 60 % in cell 0, 100 % in cell 1
    right[:70, 1] = right[200:270, 1] = False  # 65 % in both
    found = choose_by_pairs(scores(right, np.repeat([0, 1], 200)), np.array([1, 2]), np.ones(2))
    assert found.index == 1 and found.best_score == pytest.approx(0.65)


def test_among_equals_the_smaller_r_then_the_stronger_ridge():
    right = np.tile(np.arange(40)[:, None] % 4 > 0, (1, 4))
    found = choose_by_pairs(
        scores(right, np.zeros(40, int)), np.array([8, 2, 2, 4]), np.array([1.0, 10.0, 0.1, 0.01])
    )
    assert found.index == 2 and found.standard_error == 0


def test_a_constant_predictor_is_not_chosen_where_every_worst_cell_is_empty():
    constant = np.repeat([True, False], 100)
    shortcut = constant.copy()
    shortcut[150:] = True
    cell = np.repeat([0, 1, 2], [100, 50, 50])
    found = choose_by_pairs(
        scores(np.stack([constant, shortcut], 1), cell), np.zeros(2), np.array([1e-6, 1.0])
    )
    assert found.index == 1 and found.best_score == 0.0


def test_the_error_is_that_of_the_difference():
    """Two settings at 70 % and 69 % that agree but for 4 of 400 rows differ by two standard errors; two that
    disagree on 200 rows cannot be told apart."""
    base = np.arange(400) % 10 >= 3
    close, far = base.copy(), ~base
    close[np.flatnonzero(base)[:4]] = False
    far[:400] = np.roll(base, 1)
    far[np.flatnonzero(far)[:4]] = False
    r, C = np.array([9, 1]), np.ones(2)
    cell = np.zeros(400, int)
    assert choose_by_pairs(scores(np.stack([base, close], 1), cell), r, C).index == 0
    assert choose_by_pairs(scores(np.stack([base, far], 1), cell), r, C).index == 1


def test_both_sides_are_judged_by_the_sources_label():
    labels = np.array([0, 1])
    a, b = np.array([[0, 0], [1, 1]]), np.array([[0, 1], [1, 0]])
    found = score_pairs(labels, a, b, np.array([0, 1]), np.array([1, 0]), np.array([[1.0, 4], [3, 6]]))
    assert found.cells.tolist() == [[1, 1, 1, 1], [1, 0, 0, 1]]
    assert found.average.tolist() == [1.0, 0.5]
    assert found.flip_rate.tolist() == [0.0, 1.0]
    assert found.logit_change.tolist() == [2.0, 5.0]


def test_without_environments_cells_are_label_and_side():
    labels = np.array([0, 0, 1, 1])
    found = score_pairs(labels, labels[:, None], 1 - labels[:, None], None, None, np.zeros((4, 1)))
    assert found.cells.tolist() == [[1.0, 0.0, 1.0, 0.0]]


def test_best_average_prefers_less():
    found = best_average(np.array([0.9, 0.9, 0.8]), np.array([4, 2, 1]), np.ones(3))
    assert found.index == 1
