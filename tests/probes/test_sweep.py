import numpy as np
import pytest

from cfpairs.errors import DataError, UnknownNameError
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.probes.solver import fit_logistic, principal_axes
from cfpairs.probes.sweep import fit_sweep
from tests.probes.scm import Model


@pytest.fixture(scope="module")
def data():
    model = Model(d=40, s=6, seed=3)
    X, y, _ = model.train(300)
    return X * 4, y, model.differences(25, noise=1.0)


def objective(coef, intercept, X, y, C):
    z = X @ coef + intercept
    return np.logaddexp(0, np.where(y == 1, -z, z)).mean() + (coef**2).sum() / (2 * C * len(y))


def test_a_sweep_equals_fits_one_by_one(data):
    X, y, D = data
    sweep = fit_sweep(X, y, differences=D, r=[0, 1, 5, 20], C=[1e-3, 0.1, 10.0], tol=1e-9)
    assert len(sweep.settings) == 15
    for i, setting in enumerate(sweep.settings):
        if setting.method == "erm":
            one = ERMClassifier(C=setting.C).fit(X, y)
        else:
            one = NCMClassifier(r=setting.r, C=setting.C).fit(X, y, differences=D)
        np.testing.assert_allclose(sweep.fits.coef[i], one.coef_, atol=1e-6)
        np.testing.assert_allclose(sweep.fits.intercept[i], one.intercept_, atol=1e-6)
        if setting.r:
            top = sweep.directions.top(setting.r)
            assert np.abs(sweep.fits.coef[i] @ top).max() < 1e-10


def test_no_neighbour_within_the_constraint_is_better(data):
    X, y, D = data
    sweep = fit_sweep(X, y, differences=D, methods=["ncm"], r=[5], C=[1.0])
    coef, intercept = sweep.fits.coef[0, 0], sweep.fits.intercept[0, 0]
    Q = sweep.directions.top(5)
    best = objective(coef, intercept, X, y, 1.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        step = rng.normal(size=40) * 1e-3
        step -= Q @ (Q.T @ step)
        assert objective(coef + step, intercept, X, y, 1.0) > best
    downhill = min(objective(coef + t * Q[:, 0], intercept, X, y, 1.0) for t in (-0.1, 0.1))
    assert downhill < best


def test_gradient_norms_are_met_and_true(data):
    X, y, D = data
    sweep = fit_sweep(X, y, differences=D, r=[2, 8], C=[1e-2, 1.0], tol=1e-7)
    assert (sweep.fits.gradient_norm <= 1e-7).all()
    for i, setting in enumerate(sweep.settings):
        residual = 1 / (1 + np.exp(-(X @ sweep.fits.coef[i, 0] + sweep.fits.intercept[i, 0]))) - y
        g = X.T @ residual / len(y) + sweep.fits.coef[i, 0] / (setting.C * len(y))
        if setting.r:
            Q = sweep.directions.top(setting.r)
            g -= Q @ (Q.T @ g)
        assert np.linalg.norm(g) < 2e-7
        assert abs(residual.mean()) < 2e-7


def test_the_start_does_not_change_the_end(data):
    X, y, _ = data
    C = np.array([0.1, 5.0])
    cold = fit_logistic(X, y, 2, C, tol=1e-10)
    warm = fit_logistic(X, y, 2, C, start=cold.take([1, 0]), tol=1e-10)
    np.testing.assert_allclose(cold.coef, warm.coef, atol=1e-7)
    again = fit_logistic(X, y, 2, C, start=cold, tol=1e-9)
    assert (again.iterations == 0).all()


def test_principal_axes_save_steps_and_change_nothing(data):
    X, y, _ = data
    X = (
        X
        @ np.diag(np.geomspace(10, 0.1, 40))
        @ np.linalg.qr(np.random.default_rng(1).normal(size=(40, 40)))[0]
    )
    V = principal_axes(X)
    np.testing.assert_allclose(V.T @ V, np.eye(40), atol=1e-12)
    plain = fit_logistic(X, y, 2, np.array([1.0]), tol=1e-9, max_iter=5000)
    turned = fit_logistic(X @ V, y, 2, np.array([1.0]), tol=1e-9)
    np.testing.assert_allclose(turned.coef @ V.T, plain.coef, atol=1e-5)
    assert turned.iterations[0] < plain.iterations[0]


def test_single_precision_finds_the_same_predictions(data):
    X, y, _ = data
    C = np.array([1e-3, 1e-2])
    single = fit_logistic(X.astype(np.float32), y, 2, C, tol=1e-3)
    double = fit_logistic(X, y, 2, C, tol=1e-3)
    assert (single.gradient_norm <= 1e-3).all()
    assert (single.predict(X) == double.predict(X)).mean() > 0.99


def test_three_classes_with_a_constraint(data):
    X, _, D = data
    y = np.digitize(X[:, 0], [-2, 2])
    sweep = fit_sweep(X, y, differences=D, methods=["ncm"], r=[3], C=[0.1], tol=1e-9)
    one = NCMClassifier(r=3, C=0.1).fit(X, y, differences=D)
    np.testing.assert_allclose(sweep.fits.coef[0], one.coef_, atol=1e-6)
    assert sweep.predict(X)[:, 0].tolist() == one.predict(X).tolist()


def test_errors(data):
    X, y, D = data
    with pytest.raises(DataError, match="needs pair differences"):
        fit_sweep(X, y, r=[1])
    with pytest.raises(DataError, match="r = 26, expected at most 25"):
        fit_sweep(X, y, differences=D, r=[26])
    with pytest.raises(UnknownNameError, match="unknown name in probes: got 'lda'"):
        fit_sweep(X, y, methods=["lda"])
    with pytest.raises(DataError, match="do not agree"):
        fit_sweep(X, y[:-1])
    with pytest.raises(DataError, match="not finite"):
        fit_sweep(np.where(X > 5, np.nan, X), y, methods=["erm"])
    with pytest.raises(DataError, match="another dimension"):
        fit_sweep(X, y, differences=D[:, :3], r=[1])
