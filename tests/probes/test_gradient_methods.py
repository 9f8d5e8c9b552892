"""Probes that are fitted by gradient steps: theorems, and slow references."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from cfpairs.errors import CfpairsError, DataError
from cfpairs.probes.adam import Batch, Field, cross_entropy
from cfpairs.probes.alignment import AlignmentClassifier, CausIRLClassifier
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.fish import FishClassifier
from cfpairs.probes.groupdro import GroupDROClassifier, WorstGroup
from cfpairs.probes.irm import Invariance, IRMClassifier
from cfpairs.probes.method import FitData, Rows, Setting
from cfpairs.probes.mixup import LISAClassifier, MixupClassifier, lisa_partners
from cfpairs.probes.sweep import fit_sweep
from cfpairs.probes.vrex import RiskVariance, VREXClassifier
from cfpairs.registry import resolve

NAMES = (
    "irm", "vrex", "groupdro", "coral", "mmd", "causirl-coral", "causirl-mmd", "fish", "mixup", "lisa",
)  # fmt: skip
QUICK = {"steps": 2}

# Those that share another's whole way of fitting are held to what a constructor and its signature promise.
CONSTRUCTION = {
    "check_estimator_cloneable", "check_estimator_repr", "check_estimator_tags_renamed",
    "check_get_params_invariance", "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params", "check_do_not_raise_errors_in_init_or_set_param", "check_dont_overwrite_attributes",
    "check_n_features_in", "check_fit_score_takes_y", "check_estimators_dtypes",
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        IRMClassifier(**QUICK),
        GroupDROClassifier(**QUICK),
        FishClassifier(**QUICK),
        LISAClassifier(**QUICK),
        CausIRLClassifier("mmd", p=4, **QUICK),
    ]
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize(
    "probe", [VREXClassifier(**QUICK), MixupClassifier(**QUICK), AlignmentClassifier(p=4, **QUICK)]
)
def test_scikit_learn_checks_of_construction(probe):
    done = 0
    for estimator, check in estimator_checks_generator(probe):
        if check.func.__name__ in CONSTRUCTION:
            check(estimator)
            done += 1
    assert done >= 10


def assert_close(found, expected, atol=1e-9, rtol=1e-7):
    """torch.testing's own takes seconds to import."""
    np.testing.assert_allclose(found.detach().numpy(), expected.detach().numpy(), atol=atol, rtol=rtol)


def draw(classes=2, n=240, d=10, seed=0):
    """Label from coordinate 0; coordinate 1 agrees with it in 95 and 75 of 100, an environment each."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    env = np.arange(n) % 2
    agree = rng.random(n) < np.where(env == 0, 0.95, 0.75)
    shortcut = np.where(agree, y, (y + 1) % classes)
    X = rng.normal(size=(n, d)) * np.linspace(1.5, 0.5, d)
    X[:, 0] += 1.0 * y
    X[:, 1] += 2.0 * shortcut
    return X, y, env


@pytest.fixture(scope="module", params=[2, 3])
def data(request):
    return draw(request.param)


def difference(a, b):
    return np.abs(a.coef_ - b.coef_).max()


# lambda = 0 is ERM ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "on"),
    [
        (IRMClassifier(0.0, 0.1), IRMClassifier(100.0, 0.1)),
        (VREXClassifier(0.0, 0.1), VREXClassifier(100.0, 0.1)),
        (AlignmentClassifier("coral", 0.0, 0.1, p=6), AlignmentClassifier("coral", 10.0, 0.1, p=6)),
        (AlignmentClassifier("mmd", 0.0, 0.1, p=6), AlignmentClassifier("mmd", 100.0, 0.1, p=6)),
        (CausIRLClassifier("coral", 0.0, 0.1, p=6), CausIRLClassifier("coral", 10.0, 0.1, p=6)),
        (CausIRLClassifier("mmd", 0.0, 0.1, p=6), CausIRLClassifier("mmd", 100.0, 0.1, p=6)),
        (LISAClassifier(0.5, 0.1, alpha=0.0), LISAClassifier(0.5, 0.1)),
    ],
)
def test_without_penalty_it_is_erm(data, off, on):
    X, y, env = data
    erm = ERMClassifier(C=0.1).fit(X, y)
    assert difference(off.fit(X, y, env=env), erm) < 2e-3
    assert difference(on.fit(X, y, env=env), erm) > 2e-2


def test_mixup_of_nothing_is_erm(data):
    X, y, _ = data
    erm = ERMClassifier(C=0.1).fit(X, y)
    assert difference(MixupClassifier(0.0, 0.1).fit(X, y), erm) < 1e-4
    assert difference(MixupClassifier(2.0, 0.1).fit(X, y), erm) > 2e-2


def test_groupdro_that_does_not_move_weighs_groups_alike():
    X, y, env = draw(n=400)
    keep = (y == env) | (np.arange(400) % 5 == 0)
    X, y, env = X[keep], y[keep], env[keep]
    still = GroupDROClassifier(0.0, 0.1, steps=600, lr=0.1).fit(X, y, env=env)
    assert difference(still, ERMClassifier(C=0.1, class_weight="group").fit(X, y, env=env)) < 0.02
    assert difference(still, ERMClassifier(C=0.1).fit(X, y)) > 0.1


def test_fish_in_one_environment_is_erm(data):
    X, y, env = data
    erm = ERMClassifier(C=0.1).fit(X, y)
    assert difference(FishClassifier(C=0.1).fit(X, y), erm) < 1e-4
    assert difference(FishClassifier(1.0, C=0.1).fit(X, y, env=env), erm) > 1e-3


# Slopes in closed form, against torch's autograd of the definitions -----------------------------------------


def batch_of(data, f=3, seed=1):
    X, y, env = data
    c = 1 if y.max() == 1 else int(y.max()) + 1
    rng = np.random.default_rng(seed)
    target = torch.tensor(y[:, None] if c == 1 else np.eye(c)[y], dtype=torch.float64)[:, None, :]
    n = len(y)
    batch = Batch(
        torch.tensor(X),
        torch.zeros((n, f, c), dtype=torch.float64),
        target,
        torch.full((n,), 1 / n, dtype=torch.float64),
        torch.tensor(y),
        torch.tensor(env),
    )
    return batch, torch.tensor(rng.normal(size=(n, f, c)), requires_grad=True)


def losses(z, y):
    """Cross-entropy of every row by torch's own function; one logit is turned into two."""
    full = torch.cat([torch.zeros_like(z), z], dim=1) if z.shape[1] == 1 else z
    return torch.nn.functional.cross_entropy(full, y, reduction="none")


@pytest.mark.parametrize("rescale", [True, False])
def test_irm_is_the_gradient_of_its_definition(data, rescale):
    batch, z = batch_of(data)
    strength = torch.tensor([0.5, 3.0, 1e3], dtype=torch.float64)
    total = 0.0
    for i, weight in enumerate(strength.tolist()):
        penalty = 0.0
        for e in (0, 1):
            rows = batch.env == e
            more, less = (losses(z[rows, i] * (1 + h), batch.y[rows]).mean() for h in (1e-4, -1e-4))
            slope = (more - less) / 2e-4
            penalty = penalty + slope**2 / 2
        whole = losses(z[:, i], batch.y).mean() + weight * penalty
        total = total + (whole / max(1.0, weight) if rescale else whole)
    (expected,) = torch.autograd.grad(total, z)
    ours = Invariance(strength, rescale, False, np.random.default_rng(0)).slope(z.detach(), batch)
    assert_close(ours, expected, atol=1e-7, rtol=1e-6)


def test_the_product_over_halves_is_unbiased_for_the_square():
    """Of i.i.d. rows the product's mean is the square of the true slope; the square's is more."""
    rng = np.random.default_rng(0)
    one = torch.ones(1, dtype=torch.float64)
    product, square = [], []
    for _ in range(400):
        z = torch.tensor(rng.normal(size=(16, 1, 1)))
        y = (rng.random(16) < 0.5).astype(int)
        batch, _ = batch_of((np.zeros((16, 1)), np.concatenate([y[:-1], [1]]), np.zeros(16, int)), f=1)
        _, residual = cross_entropy(z, batch.target)
        along = (residual * z).sum(dim=2)[:, 0]
        first, second = Invariance(one, True, True, rng)._split(batch)
        assert not (first * second).any()
        assert_close((first + second).sum(dim=1), 2 * one)
        product.append(float((first @ along) * (second @ along)))
        square.append(float((batch.means(batch.env) @ along) ** 2))
    z = np.random.default_rng(1).normal(size=200_000)
    true = np.mean((1 / (1 + np.exp(-z)) - 0.5) * z) ** 2
    error = np.std(product) / 20
    assert abs(np.mean(product) - true) < 4 * error
    assert np.mean(square) > true + 4 * error
    assert min(product) < 0 <= min(square)


def test_vrex_is_the_gradient_of_its_definition(data):
    batch, z = batch_of(data)
    strength = torch.tensor([0.0, 3.0, 1e3], dtype=torch.float64)
    total = 0.0
    for i, weight in enumerate(strength.tolist()):
        risks = torch.stack([losses(z[batch.env == e, i], batch.y[batch.env == e]).mean() for e in (0, 1)])
        total = total + losses(z[:, i], batch.y).mean() + weight * risks.var(unbiased=False)
    (expected,) = torch.autograd.grad(total, z)
    assert_close(RiskVariance(strength, False).slope(z.detach(), batch), expected)


def test_groupdro_follows_its_definition(data):
    batch, z = batch_of(data)
    eta, adjustment = np.array([0.0, 0.5, 2.0]), np.array([0.0, 1.0, 3.0])
    codes = (batch.y * 2 + batch.env).numpy()
    sizes = np.bincount(codes)
    as_tensor = [torch.tensor(v, dtype=torch.float64) for v in (eta, adjustment, sizes)]
    ours = WorstGroup(*as_tensor, n_env=2)
    before = [tensor.clone() for tensor in as_tensor]
    q = np.full((3, len(sizes)), 1 / len(sizes))
    for _ in range(3):
        found = ours.slope(z.detach(), batch)
    total = 0.0
    for i in range(3):
        loss = torch.stack([losses(z[codes == g, i], batch.y[codes == g]).mean() for g in range(len(sizes))])
        for _ in range(3):
            q[i] *= np.exp(eta[i] * (loss.detach().numpy() + adjustment[i] / np.sqrt(sizes)))
            q[i] /= q[i].sum()
        total = total + (torch.tensor(q[i]) * loss).sum()
    (expected,) = torch.autograd.grad(total, z)
    assert_close(found, expected)
    for now, then in zip(as_tensor, before, strict=True):
        assert_close(now, then)


# Whole fits ----------------------------------------------------------------------------------------------


def irm_objective(theta, X, y, env, weight, C):
    z = X @ theta[:-1] + theta[-1]
    p = 1 / (1 + np.exp(-z))
    slopes = [np.mean((p - y)[env == e] * z[env == e]) for e in (0, 1)]
    ridge = theta[:-1] @ theta[:-1] / (2 * C * len(y))
    return np.mean(np.logaddexp(0, z) - y * z) + weight * np.mean(np.square(slopes)) + ridge


@pytest.mark.parametrize("weight", [1.0, 30.0])
def test_irm_reaches_what_a_slow_optimiser_reaches(weight):
    """From the same start; L-BFGS on numerical slopes of the objective, which is written out."""
    X, y, env = draw()
    start = ERMClassifier(C=0.1).fit(X, y)
    at = np.append(start.coef_[0], start.intercept_[0])
    arguments = (X, y, env, weight, 0.1)
    reference = minimize(irm_objective, at, arguments, method="L-BFGS-B", options={"maxiter": 200}).fun
    probe = IRMClassifier(weight, 0.1).fit(X, y, env=env)
    reached = irm_objective(np.append(probe.coef_[0], probe.intercept_[0]), *arguments)
    begun = irm_objective(at, *arguments)
    assert reached < reference + 0.1 * (begun - reference)
    assert begun > reference + 1e-4


def slope_of(probe, X, y, env):
    """mean_e g_e^2 of a fitted probe."""
    z = probe.decision_function(X)
    along = (1 / (1 + np.exp(-z)) - y) * z
    return np.mean([along[env == e].mean() ** 2 for e in np.unique(env)])


def test_the_irm_penalty_is_zero_for_the_invariant_probe_and_not_for_the_shortcut():
    rng = np.random.default_rng(3)
    n = 40_000
    env, invariant = np.arange(n) % 2, rng.normal(size=n)
    y = (rng.random(n) < 1 / (1 + np.exp(-2 * invariant))).astype(int)
    agree = rng.random(n) < np.where(env == 0, 0.95, 0.75)
    shortcut = np.where(agree, 2.0 * y - 1.0, 1.0 - 2.0 * y)
    clean = ERMClassifier(C=1e3).fit(invariant[:, None], y)
    lured = ERMClassifier(C=1e3).fit(shortcut[:, None], y)
    assert slope_of(clean, invariant[:, None], y, env) < 1e-4
    assert slope_of(lured, shortcut[:, None], y, env) > 1e-3


def test_vrex_evens_out_the_risks():
    X, y, env = draw(n=2000)

    def gap(probe):
        z = probe.decision_function(X)
        loss = np.logaddexp(0, z) - y * z
        return abs(loss[env == 0].mean() - loss[env == 1].mean())

    fits = [VREXClassifier(weight, 0.1).fit(X, y, env=env) for weight in (0.0, 10.0, 1e3)]
    assert gap(fits[0]) > 0.1 > 0.04 > gap(fits[2])
    assert gap(fits[1]) < gap(fits[0])


def test_groupdro_raises_the_worst_group():
    """The environment is plain to see and agrees with the label in 93 of 100 training rows."""
    rng = np.random.default_rng(0)
    y = np.arange(3000) % 2
    env = np.where(rng.random(3000) < np.repeat([0.93, 0.5], 1500), y, 1 - y)
    X = rng.normal(size=(3000, 4))
    X[:, 0] += 1.5 * y
    X[:, 1] += 3.0 * env
    train, test = np.arange(1500), np.arange(1500, 3000)

    def worst(probe):
        right = probe.predict(X[test]) == y[test]
        return min(right[(y[test] == a) & (env[test] == b)].mean() for a in (0, 1) for b in (0, 1))

    robust = GroupDROClassifier(0.5, 1.0).fit(X[train], y[train], env=env[train])
    assert worst(robust) > worst(ERMClassifier().fit(X[train], y[train])) + 0.2
    # With environments as groups nothing tells the shortcut from the label.
    lured = GroupDROClassifier(0.5, 1.0, groups="env", adjustment=2.0).fit(X[train], y[train], env=env[train])
    assert worst(robust) > worst(lured) + 0.2


def test_annealing_begins_with_a_lambda_of_one():
    X, y, env = draw()
    plain = IRMClassifier(100.0, 0.1).fit(X, y, env=env)
    annealed = IRMClassifier(100.0, 0.1, anneal_steps=60).fit(X, y, env=env)
    mild = IRMClassifier(0.5, 0.1, steps=60).fit(X, y, env=env)
    longer = IRMClassifier(0.5, 0.1, steps=1, anneal_steps=60, lr=0.05).fit(X, y, env=env)
    assert annealed.n_iter_ == 120 and plain.n_iter_ == 60
    assert difference(annealed, plain) > 1e-4
    assert difference(longer, mild) < 0.1


def test_lisa_partners_share_the_label_or_the_environment():
    rng = np.random.default_rng(0)
    y, env = rng.integers(0, 3, 500), rng.integers(0, 4, 500)
    across = lisa_partners(y, env, 1.0, rng)
    assert (y[across] == y).all() and (env[across] != env).all()
    within = lisa_partners(y, env, 0.0, rng)
    assert (env[within] == env).all() and (y[within] != y).all()
    drawn = np.stack([lisa_partners(y[:8], env[:8], 1.0, rng) for _ in range(500)])
    for i in range(8):
        possible = np.flatnonzero((y[:8] == y[i]) & (env[:8] != env[i]))
        assert set(drawn[:, i]) == (set(possible) or {i})


def test_mixing_logits_is_mixing_rows(data):
    """One step of mixup against rows that are really mixed, by autograd."""
    X, y, env = data
    method = resolve("probes", "mixup")()
    n_classes = int(y.max()) + 1
    fit_data = FitData(Rows(X, y, env), n_classes, 2)
    settings = [Setting("mixup", 0, 0.1, (("alpha", 1.0), ("lr", 0.05), ("steps", 1)))]
    field = Field(fit_data, settings)
    objective = method.objective(fit_data, settings, field, [np.random.default_rng(5)])
    z = (field.all.X @ field.W0.flatten(1)).view(len(y), 1, -1) + field.b0 + field.all.offset
    slope = objective.slope(z, field.all)
    rng = np.random.default_rng(5)
    own = torch.tensor(objective.quantiles[0][(rng.random(len(y)) * 4096).astype(int)])[:, None]
    other = rng.permutation(len(y))
    W, b = field.W0[:, 0].clone().requires_grad_(), field.b0[0].clone().requires_grad_()
    mixed = own * field.all.X + (1 - own) * field.all.X[other]
    offset = own * field.all.offset[:, 0] + (1 - own) * field.all.offset[other, 0]
    logits = mixed @ W + b + offset
    labels = torch.tensor(y)
    each = own[:, 0] * losses(logits, labels) + (1 - own[:, 0]) * losses(logits, labels[other])
    gW, gb = torch.autograd.grad(each.mean(), [W, b])
    assert_close(field.all.X.T @ slope[:, 0], gW)
    assert_close(slope.sum(dim=0)[0], gb)


def test_fish_is_its_loop(data):
    """Two environments, plain loops over settings and environments."""
    X, y, env = data
    method = resolve("probes", "fish")()
    fit_data = FitData(Rows(X, y, env), int(y.max()) + 1, 2)
    settings = [Setting("fish", 0, C, (("eps", e), ("lr", lr), ("steps", 5))) for C, e, lr in
                [(0.1, 0.5, 0.3), (1.0, 1.0, 1.0)]]  # fmt: skip
    fits = method.fit(fit_data, settings, [7, 7])
    field = Field(fit_data, settings)
    rng = np.random.default_rng([7, __import__("zlib").crc32(b"fish")])
    orders = [rng.permutation(2) for _ in range(5)]
    for i, setting in enumerate(settings):
        W, b = field.W0[:, i], field.b0[i]
        for order in orders:
            inner_W, inner_b = W.clone(), b.clone()
            for e in order:
                rows = torch.tensor(np.flatnonzero(env == e))
                w, v = inner_W.clone().requires_grad_(), inner_b.clone().requires_grad_()
                z = field.all.X[rows] @ w + v + field.all.offset[rows, i]
                loss = losses(z, torch.tensor(y)[rows]).mean() + w.square().sum() * field.ridge[i] / 2
                gW, gb = torch.autograd.grad(loss, [w, v])
                inner_W = inner_W - setting.number("lr") * field.scale[:, i : i + 1] ** 2 * gW
                inner_b = inner_b - setting.number("lr") * field.intercept_scale**2 * gb
            W = W + setting.number("eps") * (inner_W - W)
            b = b + setting.number("eps") * (inner_b - b)
        np.testing.assert_allclose(fits.coef[i][:, field.moving], W.numpy().T, atol=1e-10)


# The sweep ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_one_fit_alone_is_the_same_as_in_a_sweep(data, name):
    X, y, env = data
    method = resolve("probes", name)()
    fit_data = FitData(Rows(X, y, env), int(y.max()) + 1, 2)
    every = method.settings((0,), (1.0,), 8, {"steps": (15,)})
    settings, seeds = [*every, *every], [0] * len(every) + [1] * len(every)
    together = method.fit(fit_data, settings, seeds)
    for i in (1, len(every) + 4):
        fresh = FitData(Rows(X, y, env), int(y.max()) + 1, 2)
        alone = method.fit(fresh, [settings[i]], [seeds[i]])
        np.testing.assert_allclose(alone.coef[0], together.coef[i], atol=1e-6)
        np.testing.assert_allclose(alone.intercept[0], together.intercept[i], atol=1e-6)
    differs = np.abs(together.coef[: len(every)] - together.coef[len(every) :]).max() > 1e-4
    assert differs == method.stochastic


def test_the_estimators_are_their_methods():
    X, y, env = draw()
    sweep = fit_sweep(
        X, y, env=env, methods=["irm", "causirl-mmd"],
        grids={"irm": {"C": [0.1], "lambda": [30.0]},
               "causirl-mmd": {"C": [0.1], "lambda": [30.0], "p": [5], "steps": [10]}},
    )  # fmt: skip
    irm = IRMClassifier(30.0, 0.1).fit(X, y, env=env)
    causirl = CausIRLClassifier("mmd", 30.0, 0.1, p=5, steps=10).fit(X, y, env=env)
    np.testing.assert_allclose(sweep.fits.coef[0], irm.coef_, atol=1e-6)
    np.testing.assert_allclose(sweep.fits.coef[1], causirl.coef_, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_rows_over_the_limit_are_drawn_step_by_step(monkeypatch, name):
    monkeypatch.setattr("cfpairs.probes.adam.FULL_ROWS", 100)
    monkeypatch.setattr("cfpairs.probes.gradient.FULL_ROWS", 100)
    X, y, env = draw()
    method = resolve("probes", name)()
    settings = method.settings((0,), (1.0,), 2, {"steps": (5,)})
    fits = [method.fit(FitData(Rows(X, y, env), 2, 2), settings, [s, s]) for s in (0, 0, 1)]
    np.testing.assert_array_equal(fits[0].coef, fits[1].coef)
    assert np.abs(fits[0].coef - fits[2].coef).max() > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_group_or_environment_without_rows(name):
    X, y, env = draw()
    env = np.where(y == 1, 0, env)
    fits = resolve("probes", name)().fit(
        FitData(Rows(X.astype(np.float32), y, env), 2, 2),
        resolve("probes", name)().settings((0,), (1.0,), 3, {"steps": (5,), "C": (0.1,)}),
        [0, 0, 0],
    )
    assert np.isfinite(fits.coef).all() and (fits.predict(X) == y[:, None]).mean(axis=0).min() > 0.6


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", NAMES)
def test_the_gpu_gives_the_same(name):
    X, y, env = draw()
    kind = resolve("probes", name)
    settings = kind().settings((0,), (1.0,), 4, {"steps": (10,)})
    fits = [kind(device).fit(FitData(Rows(X, y, env), 2, 2), settings, [0] * 4) for device in ("cpu", "cuda")]
    np.testing.assert_allclose(fits[0].coef, fits[1].coef, atol=1e-6)


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (IRMClassifier(-1.0), "penalty_weight cannot be used: got -1.0"),
        (IRMClassifier(penalty="cube"), "penalty is unknown"),
        (IRMClassifier(steps=0), "steps cannot be used"),
        (IRMClassifier(random_state=-1), "random_state cannot be used"),
        (IRMClassifier(C=0), "C cannot be used"),
        (GroupDROClassifier(groups="label"), "groups is unknown"),
        (FishClassifier(eps=2.0), "eps cannot be used"),
        (AlignmentClassifier("cosine"), "distance is unknown"),
        (AlignmentClassifier(p=0), "p cannot be used"),
        (LISAClassifier(alpha="much"), "alpha cannot be used"),
    ],
)
def test_errors(probe, words):
    X, y, env = draw(n=40)
    with pytest.raises(CfpairsError, match=words):
        probe.fit(X, y, env=env)
    with pytest.raises(DataError, match="env has another length"):
        VREXClassifier().fit(X, y, env=env[:-1])
