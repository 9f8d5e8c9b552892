import tracemalloc

import numpy as np
import pytest
import scipy.optimize
from scipy.special import log_softmax

from cfpairs.probes import solver, terms
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.probes.solver import Penalty, fit_logistic, principal_axes
from cfpairs.probes.sparse import fit_sparse


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 8)) * np.linspace(2, 0.3, 8) + 1.0
    y = np.digitize(X[:, 0] + X[:, 3] + rng.normal(size=90), [2.0, 4.0])
    return X @ principal_axes(X), y, rng.normal(size=(5, 8))


def slow_fit(X, y, classes, C, B, strength):
    """The objective, written down, and a general minimiser."""
    n, d = X.shape
    target = np.eye(classes)[y]

    def objective(flat):
        W, b = flat[: classes * d].reshape(classes, d), flat[classes * d :]
        loss = -(target * log_softmax(X @ W.T + b, axis=1)).sum() / n
        return loss + (W**2).sum() / (2 * C * n) + strength * ((B @ W.T) ** 2).sum()

    found = scipy.optimize.minimize(objective, np.zeros(classes * (d + 1)), tol=1e-10)
    return found.x[: classes * d].reshape(classes, d)


@pytest.mark.parametrize("strength", [0.0, 0.3, 50.0])
def test_a_penalty_is_what_the_objective_says(data, strength):
    X, y, B = data
    fits = fit_logistic(
        X, y, 3, np.array([0.5, 0.5]), tol=1e-9,
        penalty=Penalty(B, np.full(2, strength), np.array([5, 2])),
    )  # fmt: skip
    for i, r in enumerate((5, 2)):
        np.testing.assert_allclose(fits.coef[i], slow_fit(X, y, 3, 0.5, B[:r], strength), atol=2e-4)
    assert (np.abs(fits.coef[0] - fits.coef[1]).max() > 1e-2) == (strength > 0)


def test_a_strong_penalty_costs_no_more_steps_than_none(data):
    X, y, B = data
    C = np.full(4, 1.0)
    strength = np.array([0.0, 1.0, 1e3, 1e6])
    fits = fit_logistic(X, y, 3, C, tol=1e-6, penalty=Penalty(B, strength, np.full(4, 5)))
    assert (fits.gradient_norm <= 1e-6).all()
    assert fits.iterations[1:].max() <= 1.5 * fits.iterations[0]
    assert np.abs(B @ fits.coef[3].T).max() < 1e-5 < np.abs(B @ fits.coef[1].T).max()


@pytest.mark.parametrize("strength", [np.inf, 3.0])
def test_one_factorisation_serves_every_rank(strength):
    """Leading blocks of a Cholesky factor are factors of leading blocks."""
    rng = np.random.default_rng(2)
    d, ranks = 14, np.array([0, 1, 4, 7, 7])
    diagonal, ridge, B = rng.uniform(0.1, 3, d), np.array([0.1, 0.1, 0.1, 0.1, 2.0]), rng.normal(size=(7, d))
    metric = terms.Metric(diagonal, ridge, B, ranks, np.full(5, strength), 1.0, np.dtype(np.float64))
    g = rng.normal(size=(d, 5, 2))
    found, _ = metric.apply(g, np.zeros((5, 2)))
    for i, r in enumerate(ranks):
        inverse = np.diag(1 / (diagonal + ridge[i]))
        inner = B[:r] @ inverse @ B[:r].T + np.eye(r) / (2 * strength)
        direct = inverse - inverse @ B[:r].T @ np.linalg.inv(inner) @ B[:r] @ inverse
        np.testing.assert_allclose(found[:, i], direct @ g[:, i], atol=1e-8)
    assert np.abs(found[:, 3] - found[:, 2]).max() > 1e-3


def test_the_curvature_where_a_fit_stands_is_inverted_within_the_constraint():
    rng = np.random.default_rng(5)
    n, d = 50, 9
    rows, share, ridge = rng.normal(size=(n, d)) + 1, rng.uniform(0.01, 0.2, (n, 1)), 0.05
    Q, B = np.linalg.qr(rng.normal(size=(d, 3)))[0], rng.normal(size=(2, d))
    with_one = np.column_stack([rows, np.ones(n)])
    hessian = with_one.T @ (share * with_one)
    hessian[:d, :d] += ridge * np.eye(d) + 2 * 0.7 * B.T @ B
    free = np.zeros((d + 1, d - 3 + 1))
    free[:d, : d - 3] = np.linalg.svd(Q.T)[2][3:].T
    free[d, -1] = 1.0
    direct = free @ np.linalg.inv(free.T @ hessian @ free) @ free.T
    g = rng.normal(size=d + 1)
    metric = terms.LocalMetric(rows, share, ridge, Q, B, 0.7)
    step, level = metric.apply(g[:d, None, None], g[d:][:, None])
    np.testing.assert_allclose(np.append(step[:, 0, 0], level[0, 0]), direct @ g, atol=1e-10)
    with pytest.raises(np.linalg.LinAlgError):
        terms.LocalMetric(rows, share * 0.0, 0.0, Q, None, 0.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_fits_that_take_long_go_on_with_the_curvature_where_they_stand(classes, monkeypatch):
    """Weak ridge on rows that are separable: the curvature at zero says little about the end."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(100, 24)) * np.geomspace(3, 0.1, 24) + 0.5
    y = np.digitize(X[:, 0] + 0.5 * X[:, 4], [0.5, 1.5][: classes - 1])
    X = X @ principal_axes(X)
    Q = np.linalg.qr(rng.normal(size=(24, 4)))[0]
    C, ranks = np.array([1e-2, 1e2, 1e3, 1e3]), np.array([0, 0, 2, 4])
    monkeypatch.setattr(terms, "CHUNK", 64)
    for extra in (
        {"Q": Q, "ranks": ranks},
        {"penalty": Penalty(Q.T, np.full(4, 3.0), ranks)},
        {"sample_weight": rng.uniform(0.1, 2.0, 100)},
    ):
        found = fit_logistic(X, y, classes, C, tol=1e-9, max_iter=9000, **extra)
        with monkeypatch.context() as patient:
            patient.setattr(solver, "PATIENCE", 10**6)
            plain = fit_logistic(X, y, classes, C, tol=1e-9, max_iter=9000, **extra)
        assert terms.CHUNK == 64
        assert (found.gradient_norm <= 1e-9).all()
        assert found.iterations[0] == plain.iterations[0] <= solver.PATIENCE
        assert (found.iterations[1:] < plain.iterations[1:]).all()
        assert classes > 2 or found.iterations.max() < solver.PATIENCE + 25
        np.testing.assert_allclose(found.logits(X), plain.logits(X), atol=2e-3)
        if "Q" in extra:
            assert np.abs(found.coef[3] @ Q).max() < 1e-10 < 1e-2 < np.abs(found.coef[1] @ Q).max()


def test_a_batch_that_is_split_gives_the_same(data):
    X, y, B = data
    C, ranks = np.geomspace(1e-3, 10, 12), np.arange(12) % 5
    Q = np.linalg.qr(B.T)[0]
    start = fit_logistic(X, y, 3, C, tol=1e-2)
    for extra in (
        {"Q": Q, "ranks": ranks},
        {"penalty": Penalty(B, np.full(12, 2.0), ranks)},
        {"start": start},
    ):
        whole = fit_logistic(X, y, 3, C, tol=1e-9, **extra)
        split = fit_logistic(X, y, 3, C, tol=1e-9, max_bytes=100_000, **extra)
        np.testing.assert_allclose(split.coef, whole.coef, atol=1e-6)
        np.testing.assert_allclose(split.intercept, whole.intercept, atol=1e-6)


def test_working_memory_is_bounded():
    rng = np.random.default_rng(0)
    X, y, C = rng.normal(size=(4000, 10)), rng.integers(0, 2, 4000), np.geomspace(1e-3, 10, 60)
    peak = {}
    for limit in (4 * 10**6, 10**9):
        tracemalloc.start()
        fit_logistic(X, y, 2, C, tol=1e-3, max_bytes=limit)
        peak[limit] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak[4 * 10**6] < 4 * 10**6 + 4 * X.nbytes
    assert peak[10**9] > 8 * 10**6


def test_half_precision_rows_are_cast(data):
    X, y, B = data
    half = X.astype(np.float16)
    np.testing.assert_allclose(
        fit_logistic(half, y, 3, np.ones(1), tol=1e-9).coef,
        fit_logistic(half.astype(np.float64), y, 3, np.ones(1), tol=1e-9).coef,
        atol=1e-12,
    )
    probe = NCMClassifier(r=2).fit(half, y, differences=B.astype(np.float16))
    assert probe.coef_.dtype == np.float64
    assert np.abs(probe.coef_ @ probe.directions_).max() < 1e-10


def test_constant_columns_get_no_weight(data):
    X, y, _ = data
    wide = np.hstack([X, np.full((90, 1), 7.0), np.zeros((90, 1))])
    probe = ERMClassifier().fit(wide, y)
    np.testing.assert_allclose(probe.coef_[:, :8], ERMClassifier().fit(X, y).coef_, atol=1e-6)
    assert np.abs(probe.coef_[:, 8:]).max() < 1e-6


def test_rows_given_twice_are_rows_of_weight_two(data):
    X, y, B = data
    twice = NCMClassifier(r=2, C=1.0).fit(np.vstack([X, X]), np.hstack([y, y]), differences=np.vstack([B, B]))
    heavy = NCMClassifier(r=2, C=1.0).fit(X, y, np.full(90, 2.0), differences=B)
    np.testing.assert_allclose(twice.coef_, heavy.coef_, atol=1e-6)


def test_fewer_rows_than_dimensions():
    rng = np.random.default_rng(1)
    X, y, D = rng.normal(size=(12, 40)), np.arange(12) % 2, rng.normal(size=(1, 40))
    probe = NCMClassifier(r=1, C=10.0).fit(X, y, differences=D)
    assert probe.score(X, y) == 1.0
    assert abs(probe.coef_ @ D[0]).max() < 1e-9
    # Weights lie in the span of the rows and the direction, as the ridge wants.
    span = np.linalg.qr(np.vstack([X, D]).T)[0]
    np.testing.assert_allclose(probe.coef_ @ span @ span.T, probe.coef_, atol=1e-8)


# L1 ------------------------------------------------------------------------------------------------------


def l1_objective(W, b, X, y, C):
    z = X @ W.T + b
    z = np.hstack([np.zeros_like(z), z]) if z.shape[1] == 1 else z
    return -(np.eye(z.shape[1])[y] * log_softmax(z, axis=1)).sum() / len(y) + np.abs(W).sum() / (C * len(y))


@pytest.mark.parametrize("classes", [2, 3])
def test_l1_fits_are_scikit_learns(data, classes):
    from sklearn.linear_model import LogisticRegression

    X, y, _ = data
    X, y, C = X - X.mean(axis=0), np.minimum(y, classes - 1), np.array([0.05, 0.3, 3.0])
    fits = fit_sparse(X, y, classes, C, tol=1e-8)
    assert (fits.gradient_norm <= 1e-8).all()
    for i, strength in enumerate(C):
        theirs = LogisticRegression(C=strength, l1_ratio=1.0, solver="saga", tol=1e-7, max_iter=20_000)
        theirs.fit(X, y)
        ours = l1_objective(fits.coef[i], fits.intercept[i], X, y, strength)
        assert ours <= l1_objective(theirs.coef_, theirs.intercept_, X, y, strength) + 1e-9
        np.testing.assert_allclose(fits.coef[i], theirs.coef_, atol=1e-3)
    zeros = [(fits.coef[i] == 0).sum() for i in range(3)]
    assert zeros[0] > zeros[1] > zeros[2]


def test_l1_fits_do_not_depend_on_the_batch(data):
    X, y, _ = data
    C, weight = np.array([0.05, 0.3, 3.0]), np.random.default_rng(0).uniform(0.5, 2, (90, 3))
    batch = fit_sparse(X, y, 3, C, weight=weight, tol=1e-9)
    for i in range(3):
        one = fit_sparse(X, y, 3, C[i : i + 1], weight=weight[:, i : i + 1], tol=1e-9)
        np.testing.assert_allclose(one.coef[0], batch.coef[i], atol=1e-6)
    # A weight of two is two rows.
    twice = fit_sparse(np.vstack([X, X]), np.hstack([y, y]), 3, C, tol=1e-9)
    heavy = fit_sparse(X, y, 3, C, weight=np.full((90, 3), 2.0), tol=1e-9)
    np.testing.assert_allclose(twice.coef, heavy.coef, atol=1e-5)


def test_a_strong_penalty_in_single_precision_gives_nearly_the_same_logits():
    rng = np.random.default_rng(5)
    X = rng.normal(size=(300, 40))
    y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)
    B = np.linalg.qr(rng.normal(size=(40, 6)))[0].T * np.linspace(9.0, 1.0, 6)[:, None]
    penalty = Penalty(B, np.array([0.01, 1.0, 1e4]), np.full(3, 6))
    exact = fit_logistic(X, y, 2, np.ones(3), penalty=penalty, tol=1e-9)
    rough = fit_logistic(X.astype(np.float32), y, 2, np.ones(3), penalty=penalty, tol=1e-3)
    assert penalty.orthogonal and not Penalty(B + 1.0, penalty.strength, penalty.ranks).orthogonal
    assert (rough.gradient_norm <= 1e-3).all()
    assert np.abs(rough.logits(X) - exact.logits(X)).max() < 0.05
    assert np.abs(exact.logits(X)[:, 0] - exact.logits(X)[:, 2]).max() > 0.1
