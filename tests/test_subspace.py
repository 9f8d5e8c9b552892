import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpairs.errors import DataError
from cfpairs.subspace import (
    CounterfactualProjection,
    SecondMoment,
    difference_directions,
    difference_matrix,
)
from cfpairs.vectors import Embeddings

seeds = st.integers(0, 2**32 - 1)


def projector(D, r):
    Q = difference_directions(D).top(r)
    return Q @ Q.T


@given(seeds, st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_projection_is_idempotent_symmetric_and_of_rank_r(seed, r):
    D = np.random.default_rng(seed).normal(size=(8, 6))
    P = np.eye(6) - projector(D, r)
    np.testing.assert_allclose(P @ P, P, atol=1e-12)
    np.testing.assert_allclose(P, P.T, atol=1e-12)
    assert np.linalg.matrix_rank(np.eye(6) - P) == r


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_swapping_sides_row_order_and_scale_change_nothing(seed):
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(7, 5)) * np.array([5.0, 4, 3, 2, 1])
    other = -3.0 * (rng.choice([-1, 1], size=(7, 1)) * D)[rng.permutation(7)]
    np.testing.assert_allclose(projector(D, 2), projector(other, 2), atol=1e-10)


def test_centring_would_change_the_subspace():
    D = np.array([[9.0, 1], [9, -1], [9, 1], [9, -1]])
    assert abs(difference_directions(D).vectors[0, 0]) > 0.99
    assert abs(difference_directions(D - D.mean(axis=0)).vectors[0, 0]) < 0.01


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_rotation_equivariance(seed):
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(9, 6)) * np.array([6.0, 5, 4, 3, 2, 1])
    R, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    np.testing.assert_allclose(projector(D @ R, 3), R.T @ projector(D, 3) @ R, atol=1e-9)


@pytest.mark.parametrize("k", [5, 40])
def test_merged_second_moment_equals_one_svd(k):
    rng = np.random.default_rng(3)
    D = rng.normal(size=(k, 12)) * np.linspace(5, 1, 12)
    parts = [SecondMoment(12).update(part) for part in np.array_split(D, 3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    found, whole = merged.directions(), np.linalg.svd(D, full_matrices=False)
    assert merged.n_pairs == k and merged.energy == pytest.approx((D**2).sum())
    np.testing.assert_allclose(merged.total, D.sum(axis=0), atol=1e-12)
    assert found.rank == min(k, 12)
    np.testing.assert_allclose(found.singular_values[: min(k, 12)], whole.S, rtol=1e-7)
    np.testing.assert_allclose(np.abs(found.vectors[:, :3].T @ whole.Vh[:3].T), np.eye(3), atol=1e-7)


def test_more_pairs_than_dimensions_equals_a_direct_svd():
    D = np.random.default_rng(4).normal(size=(60, 8)) * np.linspace(9, 1, 8)
    _, values, rows = np.linalg.svd(D, full_matrices=False)
    found = difference_directions(D)
    np.testing.assert_allclose(found.singular_values, values, rtol=1e-10)
    np.testing.assert_allclose(np.abs(found.vectors.T @ rows.T), np.eye(8), atol=1e-8)


def test_a_planted_subspace_is_recovered_and_not_from_noise():
    rng = np.random.default_rng(5)
    planted, _ = np.linalg.qr(rng.normal(size=(100, 4)))
    signal = rng.normal(size=(60, 4)) @ planted.T
    noise = rng.normal(size=(60, 100)) / np.sqrt(100)

    def overlap(D):
        return np.linalg.norm(difference_directions(D).top(4).T @ planted) ** 2 / 4

    assert overlap(signal) > 1 - 1e-12
    assert overlap(signal + 0.2 * noise) > 0.98
    assert overlap(noise) < 0.3


def test_rank_counts_independent_differences():
    D = np.outer([1.0, 2, 3], [1.0, 1, 0, 0])
    assert difference_directions(D).rank == 1
    with pytest.raises(DataError, match=r"got r = 2, expected at most 1, the rank of 3 pairs"):
        CounterfactualProjection(r=2).fit(D)
    assert difference_directions(np.zeros((3, 4))).rank == 0
    assert difference_directions(np.zeros((0, 4))).vectors.shape == (4, 0)


def test_signs_are_fixed():
    D = np.random.default_rng(6).normal(size=(6, 5))
    np.testing.assert_allclose(
        difference_directions(D).vectors, difference_directions(-D[::-1]).vectors, atol=1e-12
    )
    Q = difference_directions(D).vectors
    assert (Q[np.abs(Q).argmax(axis=0), np.arange(5)] > 0).all()


@pytest.mark.parametrize("r", [-1, 1.5, "2", True])
def test_ranks_that_are_no_count(r):
    with pytest.raises(DataError, match="whole number"):
        CounterfactualProjection(r=r).fit(np.eye(3))


def test_projection_removes_the_directions_and_r_0_nothing():
    rng = np.random.default_rng(7)
    D, X = rng.normal(size=(5, 4)), rng.normal(size=(3, 4))
    fitted = CounterfactualProjection(r=2).fit(D)
    np.testing.assert_allclose(fitted.transform(X) @ fitted.directions_, 0, atol=1e-12)
    np.testing.assert_array_equal(CounterfactualProjection(r=0).fit(D).transform(X), X)


def test_not_finite():
    with pytest.raises(DataError, match="1 of 2 pairs"):
        difference_directions(np.array([[1.0, 2], [np.nan, 1]]))


def test_difference_matrix_joins_by_id_and_takes_ok_pairs_only():
    embeddings = Embeddings(["x", "y", "z"], np.array([[1.0, 0], [0, 1], [5, 5]]))
    pairs = pa.table({"a_id": ["z", "x"], "b_id": ["x", "y"], "status": ["ok", "dropped"]})
    np.testing.assert_array_equal(difference_matrix(pairs, embeddings), [[4.0, 5.0]])


def test_rows_that_are_taken_out_of_a_second_moment_leave_no_trace():
    D = np.random.default_rng(5).normal(size=(60, 8)) * np.geomspace(10, 0.1, 8)
    moment = SecondMoment(8).update(D).remove(D[7:19]).remove(D[40:41])
    left = SecondMoment(8).update(np.delete(D, [*range(7, 19), 40], axis=0))
    assert moment.n_pairs == left.n_pairs == 47
    np.testing.assert_allclose(moment.gram, left.gram, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(moment.total, left.total, atol=1e-12)
    assert moment.energy == pytest.approx(left.energy)
    assert np.abs(moment.gram - SecondMoment(8).update(D).gram).max() > 1
    with pytest.raises(DataError, match="more pairs are taken out than were added"):
        SecondMoment(8).update(D[:3]).remove(D[:4])
    with pytest.raises(DataError, match="another dimension"):
        moment.remove(D[:2, :5])
