import numpy as np
import pytest
import scipy.linalg

from cfpairs.errors import DataError
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.matchdg import MatchDGClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.probes.sweep import fit_sweep
from tests.probes.scm import Model


@pytest.fixture(scope="module")
def data():
    model = Model(d=20, s=4, seed=3)
    X, y, _ = model.train(300)
    return X * 3, y, model.differences(12, noise=1.0)


def test_strength_0_and_r_0_are_erm(data):
    X, y, D = data
    erm = ERMClassifier(C=0.1).fit(X, y)
    for probe in (
        NCMClassifier(r=3, C=0.1, penalty="soft", strength=0.0),
        NCMClassifier(r=0, C=0.1, penalty="soft", strength=9.0),
        NCMClassifier(r=0, C=0.1, whiten=True),
        MatchDGClassifier(strength=0.0, C=0.1),
    ):
        np.testing.assert_allclose(probe.fit(X, y, differences=D).coef_, erm.coef_, atol=1e-8)
    moved = MatchDGClassifier(strength=1.0, C=0.1).fit(X, y, differences=D)
    assert np.abs(moved.coef_ - erm.coef_).max() > 1e-2


def test_a_strength_without_limit_is_the_constraint(data):
    X, y, D = data
    hard = NCMClassifier(r=3).fit(X, y, differences=D)
    gap = [
        np.abs(
            NCMClassifier(r=3, penalty="soft", strength=s).fit(X, y, differences=D).coef_ - hard.coef_
        ).max()
        for s in (1e-2, 1.0, 1e2, 1e5)
    ]
    assert gap[0] > gap[1] > gap[2] > gap[3]
    assert gap[3] < 1e-4 < 1e-2 < gap[0]


def test_soft_ncm_at_full_rank_is_matchdg(data):
    X, y, D = data
    D = np.vstack([D, 2 * D[:3]])  # 15 pairs of rank 12
    soft = NCMClassifier(r=12, penalty="soft", strength=0.7).fit(X, y, differences=D)
    match = MatchDGClassifier(strength=0.7).fit(X, y, differences=D)
    np.testing.assert_allclose(soft.coef_, match.coef_, atol=1e-7)
    fewer = NCMClassifier(r=3, penalty="soft", strength=0.7).fit(X, y, differences=D)
    assert np.abs(fewer.coef_ - match.coef_).max() > 1e-3


def test_matchdg_is_its_objective(data):
    """The gradient of the objective, written down with D itself, vanishes."""
    X, y, D = data
    probe = MatchDGClassifier(strength=0.7, C=0.5).fit(X, y, differences=D)
    theta = probe.coef_[0]
    residual = 1 / (1 + np.exp(-probe.decision_function(X))) - y
    without = X.T @ residual / len(y) + theta / (0.5 * len(y))
    assert np.linalg.norm(without + 2 * 0.7 / len(D) * D.T @ (D @ theta)) < 1e-9
    assert np.linalg.norm(without) > 1e-4


@pytest.mark.parametrize("classes", [2, 3])
def test_sweeps_are_fits_one_by_one(data, classes):
    X, y, D = data
    y = np.digitize(X[:, 0], [-2, 2][: classes - 1])
    methods = ["ncm-soft", "ncm-whitened", "matchdg"]
    grids = {m: {"strength": (0.1, 10.0)} for m in ("ncm-soft", "matchdg")}
    sweep = fit_sweep(X, y, differences=D, methods=methods, r=[2, 5], C=[0.01, 1.0], grids=grids, tol=1e-10)
    assert len(sweep.settings) == 8 + 4 + 4
    for i, setting in enumerate(sweep.settings):
        if setting.method == "matchdg":
            probe = MatchDGClassifier(setting.number("strength"), setting.C)
        elif setting.method == "ncm-whitened":
            probe = NCMClassifier(setting.r, setting.C, whiten=True)
        else:
            probe = NCMClassifier(setting.r, setting.C, penalty="soft", strength=setting.number("strength"))
        probe.fit(X, y, differences=D)
        np.testing.assert_allclose(sweep.fits.coef[i], probe.coef_, atol=1e-6)
        np.testing.assert_allclose(sweep.fits.intercept[i], probe.intercept_, atol=1e-6)


def test_whitened_directions_are_those_of_the_definition(data):
    X, y, D = data
    probe = NCMClassifier(r=3, whiten=True).fit(X, y, differences=D)
    centred = np.vstack([X[y == c] - X[y == c].mean(axis=0) for c in (0, 1)])
    S = centred.T @ centred / len(X)
    W = np.linalg.inv(scipy.linalg.sqrtm(S + 0.01 * np.trace(S) / 20 * np.eye(20)).real)
    top = np.linalg.svd(D @ W)[2][:3].T
    Q = scipy.linalg.orth(np.linalg.solve(W, top))
    np.testing.assert_allclose(probe.directions_ @ probe.directions_.T, Q @ Q.T, atol=1e-8)
    np.testing.assert_allclose(probe.directions_.T @ probe.directions_, np.eye(3), atol=1e-10)
    assert np.abs(probe.coef_ @ probe.directions_).max() < 1e-10
    plain = NCMClassifier(r=3).fit(X, y, differences=D).directions_
    assert np.abs(plain @ plain.T - Q @ Q.T).max() > 1e-2


def test_whitening_finds_what_large_noise_hides():
    """Pair noise as large as the embeddings vary, along few axes; the shortcut lies along a quiet one."""
    rng = np.random.default_rng(0)
    scale = np.r_[np.full(5, 10.0), np.full(25, 0.5)]
    y = rng.integers(0, 2, 2000)
    X = rng.normal(size=(2000, 30)) * scale
    D = 0.5 * rng.normal(size=(80, 30)) * scale
    D[:, 29] += 2.0 * rng.choice([-1, 1], 80)
    found = {w: NCMClassifier(r=1, whiten=w).fit(X, y, differences=D).directions_[29, 0] for w in (0, 1)}
    assert abs(found[1]) > 0.9
    assert abs(found[0]) < 0.1


def test_pairs_that_say_little(data):
    X, y, D = data
    one = NCMClassifier(r=1, whiten=True).fit(X, y, differences=D[:1])
    assert np.abs(one.coef_ @ D[0]).max() < 1e-9
    copies = NCMClassifier(r=1).fit(X, y, differences=np.repeat(D[:1], 4, axis=0))
    assert np.abs(copies.coef_ @ D[0]).max() < 1e-9
    with pytest.raises(DataError, match=r"got r = 2, expected at most 1, the rank of 4 pairs"):
        NCMClassifier(r=2, whiten=True).fit(X, y, differences=np.repeat(D[:1], 4, axis=0))
    for probe in (MatchDGClassifier(), NCMClassifier(penalty="soft")):
        same = probe.fit(X, y, differences=np.zeros((3, 20))).coef_
        np.testing.assert_allclose(same, ERMClassifier().fit(X, y).coef_, atol=1e-8)


def test_errors(data):
    X, y, D = data
    with pytest.raises(DataError, match=r"strength cannot be used: got -1\.0, expected a number"):
        MatchDGClassifier(strength=-1.0).fit(X, y, differences=D)
    with pytest.raises(DataError, match="penalty is unknown: got 'l1'"):
        NCMClassifier(penalty="l1").fit(X, y, differences=D)
    with pytest.raises(DataError, match="got 5, expected 20"):
        MatchDGClassifier().fit(X, y, differences=np.ones((3, 5)))
    with pytest.raises(ValueError, match="NaN"):
        MatchDGClassifier().fit(X, y, differences=np.full((3, 20), np.nan))
    with pytest.raises(DataError, match="matchdg needs pair differences"):
        fit_sweep(X, y, methods=["matchdg"])
