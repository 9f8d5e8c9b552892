import numpy as np
import pytest
import scipy.linalg

from cfpairs.errors import DataError
from cfpairs.probes import leace
from cfpairs.probes.dfr import DFRClassifier, ValidationDFR, balanced_subset
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.leace import LEACEClassifier
from cfpairs.probes.method import FitData, Rows, Setting
from cfpairs.probes.oracle import Oracle, OracleClassifier
from cfpairs.probes.pica import PICAClassifier, PICAProjection
from cfpairs.probes.projections import MeanDifferenceClassifier, RandomProjectionClassifier
from cfpairs.probes.sparse import fit_sparse
from cfpairs.probes.sweep import fit_sweep


@pytest.fixture(scope="module")
def data():
    """Two labels and three environments, told apart along correlated directions."""
    rng = np.random.default_rng(0)
    env = rng.integers(0, 3, 300)
    y = (rng.random(300) < np.array([0.15, 0.5, 0.85])[env]).astype(int)
    X = rng.normal(size=(300, 10)) * np.linspace(2, 0.5, 10)
    X[:, 0] += 1.5 * y
    X[:, 1:3] += 2.0 * np.eye(3)[env][:, :2] - X[:, :1] * 0.5
    return X @ np.linalg.qr(rng.normal(size=(10, 10)))[0] + 1.0, y, env


def predictable(X, env):
    """How far a linear probe tells the environment better than by chance."""
    return ERMClassifier(C=1e3).fit(X, env).score(X, env) - np.bincount(env).max() / len(env)


def test_leace_is_its_equation_and_hides_the_environment(data):
    X, y, env = data
    probe = LEACEClassifier().fit(X, y, env=env)
    left, right, mean = probe.eraser_
    Z = np.eye(3)[env]
    centred, S = X - X.mean(axis=0), np.cov(X.T)
    W = np.linalg.pinv(scipy.linalg.sqrtm(S).real)
    U = scipy.linalg.orth(W @ centred.T @ (Z - Z.mean(axis=0)) / 299, rcond=1e-6)
    np.testing.assert_allclose(left @ right, np.linalg.pinv(W) @ U @ U.T @ W, atol=1e-8)
    np.testing.assert_allclose(mean, X.mean(axis=0), atol=1e-12)
    erased = X - (X - mean) @ right.T @ left.T
    assert predictable(erased, env) < 0.01 < 0.2 < predictable(X, env)
    # The folded weights on plain rows are the fit to erased ones.
    inner = ERMClassifier().fit(erased, y)
    np.testing.assert_allclose(probe.decision_function(X), inner.decision_function(erased), atol=1e-6)


def test_mean_difference_removes_exactly_what_the_means_differ_by(data):
    X, y, env = data
    probe = MeanDifferenceClassifier(C=0.3).fit(X, y, env=env)
    means = np.array([X[env == e].mean(axis=0) for e in range(3)])
    assert probe.directions_.shape == (10, 2)
    assert np.ptp(means @ probe.coef_[0]) < 1e-10
    assert np.ptp(means @ ERMClassifier(C=0.3).fit(X, y).coef_[0]) > 0.1
    P = np.eye(10) - probe.directions_ @ probe.directions_.T
    slow = ERMClassifier(C=0.3).fit(X @ P, y)
    np.testing.assert_allclose(probe.coef_, slow.coef_ @ P, atol=1e-7)


def test_random_projection_is_of_its_rank_and_seed(data):
    X, y, _ = data
    a, b, c = (RandomProjectionClassifier(r=3, random_state=s).fit(X, y) for s in (1, 1, 2))
    np.testing.assert_array_equal(a.coef_, b.coef_)
    assert np.abs(a.coef_ - c.coef_).max() > 1e-3
    np.testing.assert_allclose(a.directions_.T @ a.directions_, np.eye(3), atol=1e-12)
    assert np.abs(a.coef_ @ a.directions_).max() < 1e-10
    with pytest.raises(DataError, match="r is over the dimension of X: got r = 11, expected at most 10"):
        RandomProjectionClassifier(r=11).fit(X, y)


def test_nothing_to_remove_is_erm(data):
    X, y, _ = data
    erm = ERMClassifier().fit(X, y)
    for probe in (
        LEACEClassifier(),
        MeanDifferenceClassifier(),
        RandomProjectionClassifier(),
        PICAClassifier(),
        OracleClassifier(),
    ):
        np.testing.assert_allclose(probe.fit(X, y).coef_, erm.coef_, atol=1e-7)


def test_sweeps_are_fits_one_by_one(data):
    X, y, env = data
    D = np.random.default_rng(0).normal(size=(8, 10))
    grids = {"pica": {"components": (2, 0), "tol": (0.0, 0.4)}, "dfr-train": {"class_weight": (1.0, 3.0)}}
    methods = ["leace", "mean-difference", "random-projection", "pica", "dfr-train"]
    sweep = fit_sweep(
        X, y, env=env, differences=D, methods=methods, r=[1, 4], C=[0.1, 1.0], grids=grids, seeds=(0, 5),
        tol=1e-9,
    )  # fmt: skip
    for i, (s, seed) in enumerate(zip(sweep.settings, sweep.seeds, strict=True)):
        if s.method == "dfr-train" and s.C not in (0.1, 1.0):
            continue
        one = {
            "leace": lambda s, seed: LEACEClassifier(s.C),
            "mean-difference": lambda s, seed: MeanDifferenceClassifier(s.C),
            "random-projection": lambda s, seed: RandomProjectionClassifier(s.r, s.C, random_state=seed),
            "pica": lambda s, seed: PICAClassifier(
                int(s.get("components")) or None, s.C, invariance_tol=s.number("tol")
            ),
            "dfr-train": lambda s, seed: DFRClassifier(
                s.C, class_one_weight=s.number("class_weight"), random_state=seed, tol=1e-9
            ),
        }[s.method](s, seed)
        one.fit(X, y, env=env) if s.method != "random-projection" else one.fit(X, y)
        np.testing.assert_allclose(sweep.fits.coef[i], one.coef_, atol=1e-6, err_msg=str(s))
        np.testing.assert_allclose(sweep.fits.intercept[i], one.intercept_, atol=1e-6, err_msg=str(s))


# PICA ----------------------------------------------------------------------------------------------------


def environments(n, variances, seed=0):
    """Section 3.1 of the paper: one invariant and one environmental factor in three dimensions."""
    rng = np.random.default_rng(seed)
    rows = []
    for number, variance in enumerate(variances):
        invariant, own = rng.normal(size=(n, 1)), np.sqrt(variance) * rng.normal(size=(n, 1))
        noise = np.sqrt(0.025) * rng.normal(size=(n, 3))
        rows.append(invariant * [1, 1, 1] + own * [1, 1, -1] + noise + [0, 0, 5.0 * number])
    return np.vstack(rows), np.repeat(np.arange(len(variances)), n)


@pytest.mark.parametrize("variances", [(10, 2), (2, 10), (10, 2, 6)])
def test_the_variance_along_invariant_components_is_the_same_everywhere(variances):
    X, env = environments(1000, variances)
    z = PICAProjection(1, tol=0.05).fit(X, env=env).transform(X)[:, 0]
    pca = PICAProjection(1).fit(X).transform(X)[:, 0]
    ratios = [np.array([values[env == e].var() for e in np.unique(env)]) for values in (z, pca)]
    sampling = 4 * np.sqrt(2 * 2 / 1000)
    assert abs(np.log(ratios[0].max() / ratios[0].min())) < sampling
    assert np.log(ratios[1].max() / ratios[1].min()) > np.log(3)
    # It still varies with the invariant factor, which is what is left to keep.
    assert z.var() > 0.5


def test_directions_that_are_environmental_in_either_sense_are_left_out():
    rng = np.random.default_rng(1)
    scale = np.array([[5.0, 1, 2, 2], [1, 5.0, 2, 2]])
    X = np.vstack([rng.normal(size=(3000, 4)) * row for row in scale])
    found = PICAProjection(tol=0.1).fit(X, env=np.repeat([0, 1], 3000))
    assert found.invariant_dimension_ == 2
    assert np.abs(found.components_[:, :2]).max() < 0.05


def test_stacked_differences_are_what_many_environments_mean():
    X, env = environments(60, (10, 2, 6, 1))
    parts = [np.cov(X[env == e].T) for e in range(4)]
    stacked = np.vstack([parts[a] - parts[b] for a in range(4) for b in range(a)])
    _, values, vectors = np.linalg.svd(stacked)
    found = PICAProjection(tol=0.3).fit(X, env=env)
    kept = vectors[values <= 0.3 * values[0]]
    assert found.invariant_dimension_ == len(kept) == 2
    np.testing.assert_allclose(found.components_.T @ found.components_, kept.T @ kept, atol=1e-6)


def test_pica_without_invariant_directions_predicts_by_the_intercept(data):
    X, y, env = data
    probe = PICAClassifier(invariance_tol=0.0).fit(X, y, env=env)
    assert not probe.coef_.any()
    np.testing.assert_allclose(1 / (1 + np.exp(-probe.intercept_)), y.mean(), atol=1e-6)
    lonely = np.where(np.arange(300) == 7, 9, 0)  # an environment of one row has no covariance
    np.testing.assert_allclose(
        PICAClassifier().fit(X, y, env=lonely).coef_, ERMClassifier().fit(X, y).coef_, atol=1e-7
    )


# DFR -----------------------------------------------------------------------------------------------------


def test_subsets_have_as_many_of_every_group():
    groups = np.array([0] * 50 + [1] * 7 + [3] * 20)
    drawn = [balanced_subset(groups, np.random.default_rng([0, i])) for i in range(40)]
    assert all(np.bincount(groups[rows], minlength=4).tolist() == [7, 7, 0, 7] for rows in drawn)
    assert len(set(np.concatenate(drawn))) == 77


def test_dfr_is_the_mean_of_l1_fits_to_balanced_subsets(data):
    X, y, env = data
    probe = DFRClassifier(C=0.3, n_subsets=3, random_state=4).fit(X, y, env=env)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    coef = []
    for number in range(3):
        rows = balanced_subset(3 * y + env, np.random.default_rng([4, number]))
        coef.append(fit_sparse(Z[rows], y[rows], 2, np.array([0.3]), tol=1e-6).coef[0])
    np.testing.assert_allclose(probe.coef_ * X.std(axis=0), np.mean(coef, axis=0), atol=1e-6)


def test_dfr_helps_the_worst_group(data):
    X, y, env = data
    codes = 3 * y + env

    def worst(probe):
        right = probe.predict(X) == y
        return min(right[codes == g].mean() for g in range(6))

    assert worst(DFRClassifier().fit(X, y, env=env)) > worst(ERMClassifier().fit(X, y)) + 0.1


def test_validation_dfr_looks_at_validation_alone_in_the_embeddings_own_axes(data):
    X, y, env = data
    axes = np.linalg.qr(np.random.default_rng(3).normal(size=(10, 10)))[0]
    setting = [Setting("dfr-val", 0, 0.3, (("class_weight", 1.0),))]
    single = X.astype(np.float32).astype(np.float64)

    def fit(train, axes=None):
        turned = single if axes is None else single @ axes
        known = FitData(Rows(train, y, env), 2, 3, validation=Rows(turned, y, env), axes=axes)
        return ValidationDFR().fit(known, setting, [4], tol=1e-7).coef[0]

    plain = fit(X)
    np.testing.assert_array_equal(plain, fit(-X))
    np.testing.assert_allclose(plain, fit(X, axes) @ axes.T, atol=1e-4)
    probe = DFRClassifier(C=0.3, random_state=4, tol=1e-7).fit(single, y, env=env)
    np.testing.assert_allclose(plain, probe.coef_, atol=1e-6)
    # In other axes the penalty means something else.
    other = DFRClassifier(C=0.3, random_state=4).fit(single @ axes, y, env=env)
    assert np.abs(other.coef_ @ axes.T - plain).max() > 1e-2


def test_validation_dfr_fits_once_for_folds_of_the_same_values(data):
    X, y, env = data
    setting, method = [Setting("dfr-val", 0, 0.3, (("class_weight", 1.0),))], ValidationDFR()
    fits = [
        method.fit(FitData(Rows(X, y, env), 2, 3, validation=Rows(rows, y, env)), setting, [0])
        for rows in (X, X.astype(np.float32), X**3)
    ]
    assert fits[0] is fits[1]
    assert np.abs(fits[2].coef - fits[0].coef).max() > 1e-6


# The ceiling ---------------------------------------------------------------------------------------------


def test_the_oracle_is_erm_on_rows_of_other_subjects(data):
    X, y, env = data
    rng = np.random.default_rng(0)
    noise, label = rng.normal(size=(100, 200)), rng.integers(0, 2, 100)
    twice, labels = np.vstack([noise, noise]), np.tile(label, 2)
    subject = np.tile(np.arange(100), 2)
    honest = OracleClassifier().fit(twice, labels, subject=subject).cross_fitted_
    leaking = OracleClassifier().fit(twice, labels).cross_fitted_
    assert (leaking == labels).mean() > 0.85
    assert 0.3 < (honest == labels).mean() < 0.7
    fits = Oracle().fit(FitData(Rows(X, y, env), 2, 3), [Setting("oracle", 0, 1.0)], [0], tol=1e-10)
    np.testing.assert_allclose(fits.coef[0], OracleClassifier().fit(X, y).coef_, atol=1e-7)


def test_errors(data):
    X, y, env = data
    for probe in (LEACEClassifier(), MeanDifferenceClassifier(), PICAClassifier(), DFRClassifier()):
        with pytest.raises(DataError, match="env has another length than X: got 3, expected 300"):
            probe.fit(X, y, env=[0, 1, 2])
        with pytest.raises(DataError, match="one class"):
            probe.fit(X, np.zeros(300), env=env)
    with pytest.raises(DataError, match="n_components cannot be used: got 0"):
        PICAProjection(0).fit(X)
    with pytest.raises(DataError, match=r"tol cannot be used: got -0\.1"):
        PICAProjection(tol=-0.1).fit(X)
    with pytest.raises(DataError, match="n_subsets cannot be used: got 0, expected a number of 1 or more"):
        DFRClassifier(n_subsets=0).fit(X, y)
    with pytest.raises(DataError, match="dfr-val needs validation rows"):
        ValidationDFR().fit(FitData(Rows(X, y, env), 2, 3), [Setting("dfr-val", 0, 1.0)], [0])
    with pytest.raises(DataError, match="leace needs environments"):
        fit_sweep(X, y, methods=["leace"])
    with pytest.raises(DataError, match="folds cannot be used"):
        OracleClassifier(folds=1).fit(X, y)


def test_leace_of_two_environments_is_the_general_eraser(data, monkeypatch):
    X, y, env = data
    two = FitData(Rows(X, y, (env > 0).astype(np.int64)), 2, 2)
    quick = leace.leace_eraser(two)
    monkeypatch.setattr(leace, "_two_environments", lambda rows, second: None)
    two.cache.clear()
    general = leace.leace_eraser(two)
    assert quick[0] is not general[0]
    np.testing.assert_allclose(quick[0] @ quick[1], general[0] @ general[1], atol=1e-8)
    flat = np.column_stack([X, X[:, 0]])
    monkeypatch.undo()
    assert leace._two_environments(flat, (env > 0).astype(float)) is None
