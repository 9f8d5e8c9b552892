"""What the theory promises, each with a control that fails where it should."""

import numpy as np
import pytest
from scipy.special import log_expit

from cfpairs.errors import DataError
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.subspace import difference_directions
from tests.probes.scm import Model


@pytest.fixture(scope="module")
def model():
    return Model(d=60, s=10)


def risk(probe, X, y):
    return -log_expit(np.where(y == 1, 1, -1) * probe.decision_function(X)).mean()


def test_folded_weights_are_orthogonal_to_the_directions(model):
    X, y, _ = model.train(400)
    for noise in (0.0, 5.0):
        probe = NCMClassifier(r=10).fit(X, y, differences=model.differences(30, noise))
        assert np.abs(probe.coef_ @ probe.directions_).max() < 1e-10
    assert np.abs(ERMClassifier().fit(X, y).coef_ @ probe.directions_).max() > 1e-3


def test_perfect_pairs_make_the_test_risk_the_training_risk(model):
    """Corollary 4 of Bai et al. 2025: with the spurious space removed, environments do not matter."""
    X, y, _ = model.train(4000)
    shifted, y_shifted = model.sample(4000, 10.0, 7)
    ncm = NCMClassifier(r=10).fit(X, y, differences=model.differences(10))
    erm = ERMClassifier().fit(X, y)
    assert risk(ncm, shifted, y_shifted) == pytest.approx(risk(ncm, X, y), abs=0.03)
    assert risk(erm, shifted, y_shifted) > risk(erm, X, y) + 1.0


def test_predictions_do_not_change_over_a_perfect_pair(model):
    X, y, _ = model.train(400)
    D = model.differences(20)
    ncm = NCMClassifier(r=10).fit(X, y, differences=D)
    erm = ERMClassifier().fit(X, y)
    np.testing.assert_allclose(ncm.decision_function(X[:20] + D), ncm.decision_function(X[:20]), atol=1e-9)
    assert np.abs(erm.decision_function(X[:20] + D) - erm.decision_function(X[:20])).max() > 0.1


def test_r_0_is_erm(model):
    X, y, _ = model.train(300)
    a = NCMClassifier(r=0, C=0.1).fit(X, y, differences=model.differences(5))
    b = ERMClassifier(C=0.1).fit(X, y)
    np.testing.assert_allclose(a.coef_, b.coef_, atol=1e-12)


def test_accuracy_is_an_arch_in_r_with_its_top_at_the_spurious_dimension(model):
    X, y, _ = model.train(4000)
    shifted, y_shifted = model.sample(4000, 10.0, 8)
    D = model.differences(100, noise=1.0)
    accuracy = {r: NCMClassifier(r=r).fit(X, y, differences=D).score(shifted, y_shifted) for r in (5, 10, 30)}
    assert accuracy[10] > accuracy[5] + 0.1
    assert accuracy[10] > accuracy[30] + 0.02


def test_swapping_the_sides_of_pairs_changes_nothing(model):
    X, y, _ = model.train(300)
    D = model.differences(20, noise=2.0)
    signs = np.random.default_rng(0).choice([-1, 1], size=(20, 1))
    a, b = (NCMClassifier(r=5).fit(X, y, differences=d).coef_ for d in (D, signs * D))
    np.testing.assert_allclose(a, b, atol=1e-8)


def test_rotated_embeddings_give_rotated_weights(model):
    X, y, _ = model.train(300)
    D = model.differences(20, noise=2.0)
    R, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(60, 60)))
    a = NCMClassifier(r=5).fit(X, y, differences=D).coef_
    b = NCMClassifier(r=5).fit(X @ R, y, differences=D @ R).coef_
    np.testing.assert_allclose(a @ R, b, atol=1e-7)


def test_test_risk_is_bounded_by_training_risk_and_what_the_pairs_miss(model):
    """Theorem 1 of Bai et al. 2025, in one dimension of the logit.

    The logistic loss is 1-Lipschitz in the logit, so the risks of x and of x + delta differ by at most the
    mean of |theta . delta|, where delta is the part of the shift that the pairs did not reveal.
    """
    X, y, _ = model.train(2000)
    shift = Model(60, 10).differences(2000)
    for r in (0, 4, 8, 10):
        D = model.differences(40, noise=1.0)
        probe = NCMClassifier(r=r).fit(X, y, differences=D)
        Q = difference_directions(D).top(r)
        missed = np.abs((shift - (shift @ Q) @ Q.T) @ probe.coef_[0]).mean()
        gap = risk(probe, X + shift, y) - risk(probe, X, y)
        assert gap <= missed + 1e-9
        if r == 0:
            assert gap > 0.2


def test_errors(model):
    X, y, _ = model.train(100)
    with pytest.raises(DataError, match="needs pair differences"):
        NCMClassifier(r=1).fit(X, y)
    with pytest.raises(DataError, match=r"r = 11, expected at most 10, the rank of 20 pairs"):
        NCMClassifier(r=11).fit(X, y, differences=model.differences(20))
    with pytest.raises(DataError, match="got 5, expected 60"):
        NCMClassifier(r=1).fit(X, y, differences=np.ones((3, 5)))
    with pytest.raises(DataError, match="one class"):
        ERMClassifier().fit(X, np.zeros(100))
    with pytest.raises(DataError, match="C cannot be used"):
        ERMClassifier(C=0).fit(X, y)
    with pytest.raises(DataError, match="class_weight is unknown"):
        ERMClassifier(class_weight="groups").fit(X, y)
    with pytest.raises(DataError, match="needs the environments"):
        ERMClassifier(class_weight="group").fit(X, y)
