import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.utils.estimator_checks import parametrize_with_checks

from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.subspace import CounterfactualProjection


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([ERMClassifier(), NCMClassifier(), CounterfactualProjection()])
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 12)) * np.linspace(3, 0.3, 12) + 1.0
    y = np.digitize(X[:, 0] + X[:, 3] + rng.normal(size=200), [0.0, 3.0])
    return X, y


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("C", [1e-3, 1.0, 100.0])
def test_erm_is_scikit_learns_logistic_regression(data, classes, C):
    X, y = data
    y = np.minimum(y, classes - 1)
    ours = ERMClassifier(C=C).fit(X, y)
    theirs = LogisticRegression(C=C, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(X, y)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=2e-6)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
def test_ncm_is_logistic_regression_on_projected_rows(data, classes):
    X, y = data
    y = np.minimum(y, classes - 1)
    D = np.random.default_rng(1).normal(size=(5, 12))
    ours = NCMClassifier(r=3, C=0.5).fit(X, y, differences=D)
    P = np.eye(12) - ours.directions_ @ ours.directions_.T
    theirs = LogisticRegression(C=0.5, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(X @ P, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_ @ P, atol=1e-4)


@pytest.mark.parametrize("weight", ["balanced", {0: 1.0, 1: 5.0, 2: 0.5}])
def test_class_weights_are_scikit_learns(data, weight):
    X, y = data
    ours = ERMClassifier(C=0.1, class_weight=weight).fit(X, y)
    theirs = LogisticRegression(
        C=0.1, class_weight=weight, solver="newton-cg", tol=1e-12, max_iter=10_000
    ).fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)


def test_group_weights_count_every_group_alike(data):
    X, y = data
    y = np.minimum(y, 1)
    env = (np.random.default_rng(2).random(200) < np.where(y == 1, 0.9, 0.1)).astype(int)
    codes = 2 * y + env
    counts = np.bincount(codes)
    weight = 200 / (4 * counts[codes])
    ours = ERMClassifier(C=0.1, class_weight="group").fit(X, y, env=env)
    theirs = LogisticRegression(C=0.1, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(
        X, y, sample_weight=weight
    )
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)


def test_string_labels(data):
    X, y = data
    names = np.array(["cow", "dog", "emu"])[y]
    assert set(ERMClassifier().fit(X, names).predict(X)) <= set(names)
