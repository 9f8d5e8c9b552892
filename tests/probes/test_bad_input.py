"""What is wrong with the data is said in one line, or every method has an answer that is a number."""

from dataclasses import replace

import numpy as np
import pytest

from cfpairs.config import ProbeConfig
from cfpairs.errors import CfpairsError, DataError
from cfpairs.probes.alignment import AlignmentClassifier, CausIRLClassifier
from cfpairs.probes.crossfit import ItemRows, PairRows
from cfpairs.probes.dfr import DFRClassifier
from cfpairs.probes.erm import ERMClassifier
from cfpairs.probes.fish import FishClassifier
from cfpairs.probes.groupdro import GroupDROClassifier
from cfpairs.probes.irm import IRMClassifier
from cfpairs.probes.leace import LEACEClassifier
from cfpairs.probes.matchdg import MatchDGClassifier
from cfpairs.probes.mixup import LISAClassifier, MixupClassifier
from cfpairs.probes.ncm import NCMClassifier
from cfpairs.probes.pica import PICAClassifier
from cfpairs.probes.projections import MeanDifferenceClassifier, RandomProjectionClassifier
from cfpairs.probes.study import run_study
from cfpairs.probes.vrex import VREXClassifier
from cfpairs.registry import entries, resolve
from cfpairs.tables import RESULTS, make_table

D = 6
METHODS = tuple(sorted(entries("probes")))
FEW_STEPS = {name: {"steps": (2,)} for name in METHODS if "steps" in resolve("probes", name).grid}
EVERY = ProbeConfig(
    methods=METHODS, r=(1,), C=(0.1,), budget=1, seeds=(0,), folds=2,
    grids={"pica": {"components": (2,)}, **FEW_STEPS},
)  # fmt: skip
ESTIMATORS = [
    DFRClassifier(n_subsets=1), ERMClassifier(), FishClassifier(), GroupDROClassifier(), IRMClassifier(),
    LEACEClassifier(), LISAClassifier(), MixupClassifier(), AlignmentClassifier(), CausIRLClassifier(),
    MatchDGClassifier(), MeanDifferenceClassifier(), NCMClassifier(), PICAClassifier(),
    RandomProjectionClassifier(), VREXClassifier(),
]  # fmt: skip


def items(name, n, seed, d=D):
    """Two labels and two environments, all four groups; the first feature tells the label."""
    rng = np.random.default_rng(seed)
    y, env = np.arange(n) % 2, np.arange(n) // 2 % 2
    X = rng.normal(size=(n, d))
    X[:, 0] += 4.0 * y - 2.0
    X[:, 1] += env
    ids = [f"{name}{i}" for i in range(n)]
    return ItemRows(ids, X, y.astype(np.int64), env.astype(np.int64), np.array(ids, dtype=object))


def pairs_of(train, k=12):
    a = train.X[:k]
    b = a + np.random.default_rng(5).normal(size=a.shape) * np.linspace(0.1, 2.0, a.shape[1])
    of = train.subject[:k]
    return PairRows("edit", "edit", a, b, train.y[:k], train.env[:k], 1 - train.env[:k], of, of)


@pytest.fixture(scope="module")
def data():
    train = items("t", 48, 0)
    return train, items("v", 24, 1), items("e", 24, 2), pairs_of(train)


def study(train, val, test, pairs, **changes):
    found = run_study(
        train, test, [pairs] if pairs is not None else [], EVERY.model_copy(update=changes), validation=val
    )
    make_table(found.results, RESULTS)
    for row in found.results:
        assert np.isfinite([row[c] for c in ("worst_group", "average", "adjusted")]).all(), row["method"]
    return found


def methods_of(found):
    return {row["method"] for row in found.results}


def changed(rows, **columns):
    return replace(rows, **columns)


def test_every_method_has_every_rule(data):
    """The control: nothing is wrong, nothing is left out, no note."""
    found = study(*data)
    assert methods_of(found) == set(EVERY.methods) and not found.notes
    by_rule = {
        rule: methods_of_rule(found, rule)
        for rule in ("pairs", "in-domain", "worst-group", "leave-one-env-out")
    }
    able = set(EVERY.methods) - {"oracle"}
    assert by_rule["pairs"] == by_rule["in-domain"] == by_rule["worst-group"] == able
    assert by_rule["leave-one-env-out"] == able - NEEDS_ENV
    assert methods_of_rule(found, "oracle") == set(EVERY.methods)


def methods_of_rule(found, rule):
    return {row["method"] for row in found.results if row["selection"] == rule}


NEEDS_ENV = {
    "causirl-coral", "causirl-mmd", "coral", "dfr-train", "dfr-val", "erm-group", "fish", "groupdro", "irm",
    "leace", "lisa", "mean-difference", "mmd", "ncm-group", "pica", "vrex",
}  # fmt: skip
"""Without one of two environments, the rule that leaves one out cannot judge them."""


def test_one_environment_leaves_out_what_needs_two(data):
    train, val, test, pairs = data
    found = study(changed(train, env=np.zeros_like(train.env)), val, test, pairs)
    assert not methods_of(found) & NEEDS_ENV
    assert {"ncm", "erm", "matchdg", "mixup", "random-projection"} <= methods_of(found)
    assert "irm was left out: train has one environment only" in found.notes


def test_an_environment_without_a_label(data):
    """Label 1 occurs in environment 0 alone: a group is empty in train, its test rows still count."""
    train, val, test, _ = data
    keep = ~((train.y == 1) & (train.env == 1))
    found = study(train.take(keep), val, test, pairs_of(train.take(keep)))
    assert {"groupdro", "dfr-train", "erm-group", "lisa", "fish"} <= methods_of(found)


def test_groups_that_are_empty_in_test_or_validation(data):
    train, val, test, pairs = data
    keep = ~((test.y == 0) & (test.env == 1))
    found = study(train, val.take(val.env == 0), test.take(keep), pairs)
    assert "ncm" in methods_of(found)


def test_labels_of_test_that_train_does_not_have_are_wrong(data):
    train, val, test, pairs = data
    y = test.y.copy()
    y[:6] = 7
    found = study(train, val, changed(test, y=y), pairs)
    assert all(row["worst_group"] == 0.0 for row in found.results)


def test_constant_features_and_fewer_rows_than_features(data):
    def wide(rows):
        X = np.hstack(
            [rows.X, np.random.default_rng(7).normal(size=(len(rows.X), 60)), np.ones((len(rows.X), 2))]
        )
        return changed(rows, X=X)

    train, val, test, _ = (wide(rows) if isinstance(rows, ItemRows) else rows for rows in data)
    assert train.X.shape[1] > len(train.X)
    assert methods_of(study(train, val, test, pairs_of(train))) == set(EVERY.methods)


def test_half_precision_items(data):
    half = [changed(rows, X=rows.X.astype(np.float16)) for rows in data[:3]]
    full = [changed(rows, X=rows.X.astype(np.float64)) for rows in half]
    a, b = (
        study(*rows, pairs_of(rows[0]), methods=("erm", "ncm", "irm", "dfr-val")) for rows in (half, full)
    )
    for one, other in zip(a.results, b.results, strict=True):
        assert one["worst_group"] == other["worst_group"]


def test_duplicate_pairs_stay_in_one_fold_and_change_no_direction(data):
    train, val, test, pairs = data
    twice = np.repeat(np.arange(len(pairs)), 2)
    double = PairRows(
        "edit", "edit", pairs.a[twice], pairs.b[twice], pairs.labels[twice], pairs.env_a[twice],
        pairs.env_b[twice], pairs.subject_a[twice], pairs.subject_b[twice],
    )  # fmt: skip
    once, again = (
        study(train, val, test, p, methods=("ncm",), selection=("oracle",)) for p in (pairs, double)
    )
    for key in once.coefficients:
        np.testing.assert_allclose(once.coefficients[key], again.coefficients[key], atol=1e-6)
    fold = double.folds(3, 0)
    assert (fold[::2] == fold[1::2]).all()


def test_one_pair(data):
    train, val, test, _ = data
    one = pairs_of(train, 1)
    with pytest.raises(
        DataError, match=r"pairs cannot be split into folds: got 1 pairs in 1 cluster.*another selection"
    ):
        study(train, val, test, one, methods=("ncm",))
    found = study(
        train, val, test, one, methods=("ncm", "ncm-whitened", "matchdg"), selection=("worst-group",)
    )
    assert methods_of(found) == {"ncm", "ncm-whitened", "matchdg"}


def test_one_subject_cannot_be_held_out(data):
    train, val, test, pairs = data
    alone = changed(train, subject=np.array(["s"] * len(train.ids), dtype=object))
    with pytest.raises(DataError, match="the training items cannot be held out in turn: got one subject"):
        study(alone, val, test, pairs, methods=("erm",), selection=("pairs",))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", ["train", "val", "test", "pairs"])
def test_numbers_that_are_none(data, value, which):
    train, val, test, pairs = data
    bad = data[("train", "val", "test", "pairs").index(which)]
    column = "a" if which == "pairs" else "X"
    X = getattr(bad, column).copy()
    X[3, 2] = value
    given = {"train": train, "val": val, "test": test, "pairs": pairs} | {which: changed(bad, **{column: X})}
    with pytest.raises(DataError, match="not finite"):
        study(given["train"], given["val"], given["test"], given["pairs"], methods=("ncm", "erm"))


def _fit(estimator, X, y, env):
    needs_env = not isinstance(
        estimator,
        (ERMClassifier, MixupClassifier, NCMClassifier, MatchDGClassifier, RandomProjectionClassifier),
    )
    return estimator.fit(X, y, env=env) if needs_env else estimator.fit(X, y)


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_estimators(data, estimator):
    """One class and NaN are errors; strings, float16 and a group without rows are not."""
    X, y, env = data[0].X, data[0].y, data[0].env
    with pytest.raises(CfpairsError, match="one class"):
        _fit(estimator, X, np.zeros_like(y), env)
    spoilt = X.copy()
    spoilt[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        _fit(estimator, spoilt, y, env)
    names = np.array(["cow", "dog"])[y]
    half = _fit(estimator, X.astype(np.float16), names, env)
    assert set(half.predict(X[:4])) <= {"cow", "dog"} and np.isfinite(half.coef_).all()
    keep = ~((y == 1) & (env == 1))
    assert np.isfinite(_fit(estimator, X[keep], y[keep], env[keep]).coef_).all()
    single = _fit(estimator, X, y, np.zeros_like(env))
    assert (single.predict(X) == y).mean() > 0.8
