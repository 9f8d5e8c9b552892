import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from cfpairs.errors import DataError
from cfpairs.metrics import (
    Groups,
    evaluate,
    flip_rate,
    group_accuracies,
    wilson_interval,
    worst_group_difference,
)


@given(st.integers(1, 400), st.floats(0, 1))
def test_wilson_equals_scipy(n, share):
    correct = round(share * n)
    ours = [float(v) for v in wilson_interval(correct, n)]
    theirs = binomtest(correct, n).proportion_ci(method="wilson")
    assert ours == pytest.approx([theirs.low, theirs.high], abs=1e-12)


def test_no_row_tells_nothing():
    assert [float(v) for v in wilson_interval(0, 0)] == [0.0, 1.0]


def test_worst_group_average_and_adjusted():
    y = np.array([0] * 10 + [1] * 10)
    env = np.array([0] * 9 + [1] + [1] * 9 + [0])
    predicted = env.copy()
    found = evaluate(y, predicted, env, train_counts=[95, 5, 5, 95])
    assert found.worst_group == 0.0
    assert (found.worst.label, found.worst.env, found.worst.n) == (0, 1, 1)
    assert found.average == pytest.approx(0.9)
    assert found.adjusted == pytest.approx(0.95)
    assert found.environments == {0: 0.9, 1: 0.9}


def test_empty_groups_are_named_and_left_out():
    found = evaluate([0, 1], [0, 1], [0, 0], groups=Groups([0, 1], [0, 1]), train_counts=[1, 1, 1, 1])
    assert found.empty_groups == [(0, 1), (1, 1)]
    assert found.worst_group == found.adjusted == 1.0
    assert found.to_dict()["groups"][1]["accuracy"] is None


@given(st.integers(0, 2**32 - 1))
def test_batched_accuracies_equal_one_by_one(seed):
    rng = np.random.default_rng(seed)
    y, env, predicted = rng.integers(0, 3, 40), rng.integers(0, 2, 40), rng.integers(0, 3, (40, 5))
    groups = Groups(range(3), range(2))
    batch = group_accuracies(predicted, y, groups.codes(y, env), len(groups))
    for fit in range(5):
        one = [g.accuracy for g in evaluate(y, predicted[:, fit], env, groups=groups).groups]
        np.testing.assert_array_equal(batch[fit], one)


def test_bad_input():
    with pytest.raises(DataError, match="no row"):
        evaluate([], [], [])
    with pytest.raises(DataError, match="differ in shape"):
        evaluate([0], [0, 1], [0])
    with pytest.raises(DataError, match="unknown label: got 7"):
        Groups([0, 1], [0]).codes([7], [0])


def test_flip_rate():
    assert flip_rate([0, 1, 1, 0], [0, 1, 0, 1]) == 0.5
    assert np.isnan(flip_rate([], []))


def test_the_difference_of_worst_groups_on_other_rows_covers_the_truth() -> None:
    """On draws of known accuracy the 95 % interval holds the true difference about as often as it says."""
    rng = np.random.default_rng(3)
    held, found_zero = 0, 0
    for trial in range(60):
        codes = np.arange(400) % 2
        new = rng.random(400) < np.where(codes == 0, 0.6, 0.9)
        old = rng.random(300) < 0.4
        found = worst_group_difference(new, codes, old, np.zeros(300, np.int64), draws=300, seed=trial)
        held += found["gain_low"] <= 0.2 <= found["gain_high"]
        found_zero += found["gain_low"] <= 0.0
    assert held >= 52 and found_zero == 0


def test_the_same_rows_differ_by_nothing() -> None:
    codes = np.arange(90) % 3
    found = worst_group_difference(codes == 0, codes, codes == 0, codes)
    assert found["gain"] == found["gain_low"] == found["gain_high"] == 0.0 and found["gain_p"] == 1.0
