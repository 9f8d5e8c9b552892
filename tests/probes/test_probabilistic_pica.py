"""Probabilistic PICA finds the parameters of the model that the data come from."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.errors import DataError
from cfpairs.probes.pica import PICAProjection
from cfpairs.probes.probabilistic_pica import ProbabilisticPICA

D, N_INV, N_ENV, NOISE = 7, 2, 2, 0.3


def exact_rows(covariance, mean, n, rng):
    """Rows whose sample mean and covariance are exactly these."""
    Z = rng.normal(size=(n, len(covariance)))
    Z -= Z.mean(axis=0)
    white = Z @ np.linalg.inv(np.linalg.cholesky(np.cov(Z.T)).T)
    return white @ np.linalg.cholesky(covariance).T + mean


def world(variances, seed=0):
    rng = np.random.default_rng(seed)
    A_inv, A_env = rng.normal(size=(D, N_INV)), 2 * rng.normal(size=(D, N_ENV))
    parts, means = [], rng.normal(size=(len(variances), D))
    for variance, mean in zip(variances, means, strict=True):
        S = A_inv @ A_inv.T + variance * A_env @ A_env.T + NOISE * np.eye(D)
        parts.append(exact_rows(S, mean, 60, rng))
    return np.vstack(parts), np.repeat(np.arange(len(variances)), 60), A_inv, A_env, means


@pytest.mark.parametrize("variances", [(1.0, 0.2), (0.4, 1.0, 0.1, 0.7)])
def test_exact_covariances_give_back_every_parameter(variances):
    X, env, A_inv, A_env, means = world(variances)
    model = ProbabilisticPICA(N_INV, N_ENV, environment_variances=variances).fit(X, env=env)
    np.testing.assert_allclose(model.A_env_ @ model.A_env_.T, A_env @ A_env.T, atol=1e-9)
    np.testing.assert_allclose(model.A_inv_ @ model.A_inv_.T, A_inv @ A_inv.T, atol=1e-9)
    assert model.noise_variance_ == pytest.approx(NOISE)
    np.testing.assert_allclose(model.means_, means, atol=1e-12)
    for e in range(len(variances)):
        np.testing.assert_allclose(model.covariance(e), np.cov(X[env == e].T), atol=1e-9)


def test_the_default_variance_is_the_ratio_of_traces_and_a_lower_bound():
    X, env, _, A_env, _ = world((1.0, 0.2))
    model = ProbabilisticPICA(N_INV, N_ENV).fit(X, env=env)
    traces = [np.trace(np.cov(X[env == e].T)) for e in (0, 1)]
    assert model.environment_variances_[1] == pytest.approx(traces[1] / traces[0])
    assert 0.2 <= model.environment_variances_[1] < 1.0
    # Whatever the ratio, the environmental directions are the same.
    span = np.linalg.qr(A_env)[0]
    np.testing.assert_allclose(model.A_env_ - span @ (span.T @ model.A_env_), 0, atol=1e-9)


def test_a_common_factor_of_the_variances_changes_nothing_that_can_be_seen():
    X, env, *_ = world((1.0, 0.2))
    one = ProbabilisticPICA(N_INV, N_ENV, environment_variances=(1.0, 0.2)).fit(X, env=env)
    ten = ProbabilisticPICA(N_INV, N_ENV, environment_variances=(10.0, 2.0)).fit(X, env=env)
    np.testing.assert_allclose(one.covariance(1), ten.covariance(1), atol=1e-12)


def test_the_projection_is_orthogonal_to_the_environmental_directions():
    X, env, *_ = world((0.4, 1.0, 0.1))
    model = ProbabilisticPICA(N_INV, N_ENV, environment_variances=(0.4, 1.0, 0.1)).fit(X, env=env)
    found = PICAProjection(tol=1e-8).fit(X, env=env)
    assert found.invariant_dimension_ == D - N_ENV
    np.testing.assert_allclose(found.components_ @ model.A_env_, 0, atol=1e-7)


def test_samples_and_codes_are_those_of_the_model():
    X, env, *_ = world((1.0, 0.2))
    model = ProbabilisticPICA(N_INV, N_ENV, environment_variances=(1.0, 0.2)).fit(X, env=env)
    drawn = model.sample(40000, 1, 0)
    np.testing.assert_allclose(np.cov(drawn.T), model.covariance(1), atol=0.2)
    np.testing.assert_array_equal(drawn[:5], model.sample(40000, 1, 0)[:5])
    rng = np.random.default_rng(3)
    z = rng.normal(size=(40000, N_INV))
    own = np.sqrt(model.environment_variances_[1]) * rng.normal(size=(40000, N_ENV))
    x = model.means_[1] + z @ model.A_inv_.T + own @ model.A_env_.T
    x += np.sqrt(model.noise_variance_) * rng.normal(size=x.shape)
    found = model.transform(x, env=np.ones(len(x)))
    # What is expected of z given x leaves an error that x, and so itself, tells nothing of.
    np.testing.assert_allclose(found.T @ (z - found) / len(z), 0, atol=0.02)
    assert np.mean((z - found) ** 2) < 0.5 * np.mean(z**2)
    assert model.transform(X).shape == (len(X), N_INV)


def test_what_cannot_be_fitted_is_said():
    X, env, *_ = world((1.0, 0.2))
    with pytest.raises(DataError, match="environments are needed"):
        ProbabilisticPICA().fit(X)
    with pytest.raises(DataError, match="needed in two environments"):
        ProbabilisticPICA().fit(X, env=np.zeros(len(X)))
    with pytest.raises(DataError, match="leave none for the noise"):
        ProbabilisticPICA(4, 3).fit(X, env=env)
    with pytest.raises(DataError, match="the same variance"):
        ProbabilisticPICA(environment_variances=(1, 1)).fit(X, env=env)
    with pytest.raises(DataError, match="cannot be used"):
        ProbabilisticPICA(environment_variances=(1, 2, 3)).fit(X, env=env)
    with pytest.raises(DataError, match="no such environment"):
        ProbabilisticPICA().fit(X, env=env).covariance(5)
