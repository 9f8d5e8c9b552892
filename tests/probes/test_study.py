import json
import os
from contextlib import nullcontext

import numpy as np
import pytest

from cfpairs.config import ProbeConfig
from cfpairs.errors import CfpairsError, DataError
from cfpairs.metrics import evaluate
from cfpairs.probes import study as study_module
from cfpairs.probes.candidates import PairJudge, Predictor
from cfpairs.probes.crossfit import Coding, ItemRows, PairRows, fold_data, fold_directions
from cfpairs.probes.erm import ERM
from cfpairs.probes.method import Setting
from cfpairs.probes.study import run_study
from cfpairs.tables import RESULTS, make_table
from tests.probes.scm import Model


def item_rows(X, y, env, name):
    ids = [f"{name}{i}" for i in range(len(X))]
    return ItemRows(ids, X, y.astype(np.int64), env.astype(np.int64), np.array(ids, dtype=object))


def pair_rows(name, a, b, labels, subjects):
    zero = np.zeros(len(a), np.int64)
    subjects = np.array(subjects, dtype=object)
    return PairRows(name, name, a, b, labels.astype(np.int64), zero, zero + 1, subjects, subjects)


@pytest.fixture(scope="module")
def data():
    """Train where the shortcut works, test in that environment and in one where it does not."""
    model = Model(d=30, s=5, seed=4)
    X, y, env = model.train(600)
    train = item_rows(X, y, env, "t")
    easy, shifted = model.sample(300, 0.01, 8), model.sample(300, 10.0, 9)
    test = item_rows(
        np.vstack([easy[0], shifted[0]]), np.concatenate([easy[1], shifted[1]]), np.repeat([1, 2], 300), "e"
    )
    sources = np.arange(0, 600, 6)
    good = pair_rows(
        "good", X[sources], X[sources] - model.differences(100, noise=0.5), y[sources], train.ids[::6]
    )
    rng = np.random.default_rng(0)
    empty = pair_rows(
        "noise", X[sources], X[sources] + rng.normal(size=(100, 30)), y[sources], train.ids[::6]
    )
    return train, test, good, empty


CONFIG = ProbeConfig(
    r="0:8", C=(1e-2, 1.0, 100.0), seeds=(0, 1), selection=("pairs", "in-domain", "oracle"), budget=None
)


@pytest.fixture(scope="module")
def study(data):
    train, test, good, noise = data
    return run_study(train, test, [good, noise], CONFIG)


def find(study, **wanted):
    rows = [r for r in study.results if all(r[k] == v for k, v in wanted.items())]
    assert len(rows) == 1
    return rows[0]


def test_held_out_pairs_choose_the_true_dimension_without_test_labels(study):
    chosen = find(study, pair_set="good", method="ncm", selection="pairs", seed=None)
    assert json.loads(chosen["params"])["r_by_seed"] == [5, 5]
    oracle = find(study, pair_set="good", method="ncm", selection="oracle", seed=None)
    assert chosen["worst_group"] > oracle["worst_group"] - 0.05


def test_good_pairs_beat_erm_and_noise_pairs_do_not(study):
    erm = find(study, pair_set="good", method="erm", selection="pairs", seed=None)
    good = find(study, pair_set="good", method="ncm", selection="pairs", seed=None)
    noise = find(study, pair_set="noise", method="ncm", selection="pairs", seed=None)
    assert good["worst_group"] > erm["worst_group"] + 0.2
    assert noise["worst_group"] < erm["worst_group"] + 0.1
    assert good["flip_rate"] < 0.1 < erm["flip_rate"]
    of_ncm, of_erm = (json.loads(row["params"])["logit_change"] for row in (good, erm))
    assert 0 < of_ncm < 0.5 * of_erm


def test_in_domain_selection_keeps_the_shortcut(study):
    """The reason for the rule `pairs`: a held-out part of train rewards the shortcut."""
    by_pairs = find(study, pair_set="good", method="ncm", selection="pairs", seed=0)
    in_domain = find(study, pair_set="good", method="ncm", selection="in-domain", seed=0)
    assert in_domain["r"] < by_pairs["r"]
    assert in_domain["worst_group"] < by_pairs["worst_group"] - 0.1


def test_rows_are_complete_and_valid(study):
    table = make_table(study.results, RESULTS)
    assert set(table["selection"].to_pylist()) == {"pairs", "in-domain", "oracle"}
    keys = [(r["pair_set"], r["method"], r["selection"], r["seed"]) for r in study.results]
    assert len(set(keys)) == len(keys)
    assert len(study.grid) == 3 + 2 * 3 * 9  # fits without pairs are the same for every pair set
    assert {(c["pair_set"], c["method"], c["r"]) for c in study.curves} == {
        (p, m, r) for p in ("good", "noise") for m, rs in (("erm", [0]), ("ncm", range(9))) for r in rs
    }


def test_every_fit_has_its_own_steps_and_gradient(study):
    fits = [(row["iterations"], row["gradient_norm"]) for row in study.grid if row["method"] == "ncm"]
    assert len(fits) == 2 * 3 * 9
    steps, norms = zip(*fits, strict=True)
    assert len(set(norms)) > len(fits) / 2 and len(set(steps)) > 1


def test_figures_are_those_of_the_stored_predictions_and_weights(study, data):
    _, test, *_ = data
    row = find(study, pair_set="good", method="ncm", selection="pairs", seed=1)
    table = next(
        t
        for t in study.predictions
        if (t["pair_set"][0].as_py(), t["method"][0].as_py(), t["selection"][0].as_py(), t["seed"][0].as_py())
        == ("good", "ncm", "pairs", 1)
    )
    predicted = np.array(table["predicted"].to_pylist())
    assert evaluate(test.y, predicted, test.env).worst_group == row["worst_group"]
    coef = study.coefficients["good/ncm/pairs/1/coef"]
    logits = test.X @ coef[0] + study.coefficients["good/ncm/pairs/1/intercept"][0]
    np.testing.assert_allclose(logits, np.array(table["logits"].to_pylist())[:, 0], atol=1e-9)


def test_the_same_seed_gives_the_same_study(study, data):
    train, test, good, noise = data
    again = run_study(train, test, [good, noise], CONFIG)
    drop = {"seconds"}
    for a, b in zip(study.results, again.results, strict=True):
        assert {k: v for k, v in a.items() if k not in drop} == {k: v for k, v in b.items() if k not in drop}


def test_a_process_that_is_killed_is_one_line(data, monkeypatch):
    class Killed:
        """Ends the process that it is sent to, before that has imported anything."""

        def __call__(self, *_):
            raise AssertionError

        def __reduce__(self):
            return os._exit, (9,)

    train, test, good, _ = data
    monkeypatch.setattr(study_module, "PROCESSES_FROM", 0)
    monkeypatch.setattr(study_module, "_numbered", Killed())
    with pytest.raises(CfpairsError, match=r"got 0 of 2 families.*--method") as caught:
        run_study(train, test, [good], CONFIG.model_copy(update={"methods": ("erm", "irm")}), workers=2)
    assert "\n" not in str(caught.value)


def test_processes_give_the_study_that_one_gives(data, monkeypatch):
    train, test, good, noise = data
    config = CONFIG.model_copy(
        update={"methods": ("ncm", "matchdg", "dfr-val", "erm"), "seeds": (0,), "r": (1, 5), "C": (1.0, 10.0)}
    )
    alone = run_study(train, test, [good, noise], config, workers=1)
    monkeypatch.setattr(study_module, "PROCESSES_FROM", 0)
    ticks = []

    class Ticks:
        def task(self, description, total):
            return nullcontext(ticks.append)

    several = run_study(train, test, [good, noise], config, Ticks(), workers=2)
    assert len(ticks) == 4  # a family each
    assert alone.notes == several.notes == ["dfr-val was left out: there is no validation split"]
    for name in ("results", "grid", "curves"):
        for a, b in zip(getattr(alone, name), getattr(several, name), strict=True):
            assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert len(alone.predictions) == len(several.predictions)
    assert all(a.equals(b) for a, b in zip(alone.predictions, several.predictions, strict=True))
    assert alone.coefficients.keys() == several.coefficients.keys()
    for key, values in alone.coefficients.items():
        np.testing.assert_array_equal(values, several.coefficients[key])
    with pytest.raises(DataError, match="r is over the rank of pair set 'good': got r = 31"):
        run_study(train, test, [good], config.model_copy(update={"r": 31}), workers=2)


def test_a_process_stops_when_the_one_that_asked_is_gone(monkeypatch):
    monkeypatch.setattr(study_module, "run_share", lambda material, names, threads, advance: advance(1))
    assert study_module._numbered(3, None, ("erm",), os.getppid()) == (3, None)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    study_module._numbered(3, None, ("erm",), -1)
    assert ended == [1]


def test_a_held_out_subject_is_in_no_training_row(data):
    """Copies of the held-out pairs in train would make any probe look good on random labels."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(200, 300)), rng.integers(0, 2, 200)
    train = item_rows(X, y, np.zeros(200), "t")
    pairs = pair_rows(
        "copies", X[:100], X[:100] + 1e-3 * rng.normal(size=(100, 300)), y[:100], train.ids[:100]
    )
    others = pair_rows("others", pairs.a, pairs.b, pairs.labels, [f"x{i}" for i in range(100)])
    assert 0.35 < held_out_average(train, pairs) < 0.65
    assert held_out_average(train, others) > 0.95


def held_out_average(train, pairs):
    coding, fold = Coding.of(train), pairs.folds(5, 0)
    judge = PairJudge(pairs, 1)
    for number, directions in enumerate(fold_directions(pairs, fold, 1)):
        data = fold_data(coding, train, pairs, fold == number, directions)
        judge.add(
            fold == number,
            fold == number,
            Predictor(ERM().fit(data, [Setting("erm", 0, 100.0)], [0]), coding),
        )
    return judge.scores().average[0]


def test_auto_ranks_stay_within_the_folds_rank(data):
    train, test, good, _ = data
    few = pair_rows("few", good.a[:6], good.b[:6], good.labels[:6], list(good.subject_a[:6]))
    study = run_study(train, test, [few], ProbeConfig(C=(1.0,), seeds=(0,), folds=3))
    assert max(row["r"] for row in study.grid) == 4


def test_errors(data):
    train, test, good, _ = data
    with pytest.raises(
        DataError, match="r is over the rank of pair set 'good': got r = 31, expected at most 30"
    ):
        run_study(train, test, [good], ProbeConfig(r=31))
    with pytest.raises(DataError, match="ncm needs a pair set"):
        run_study(train, test, [], ProbeConfig())
    nothing = pair_rows("none", good.a[:0], good.b[:0], good.labels[:0], [])
    with pytest.raises(DataError, match="no usable pair"):
        run_study(train, test, [nothing], ProbeConfig())
    one = ItemRows(train.ids, train.X, train.y * 0, train.env, train.subject)
    with pytest.raises(DataError, match="one class"):
        run_study(one, test, [good], ProbeConfig(r=1))
    none = ItemRows([], train.X[:0], train.y[:0], train.env[:0], train.subject[:0])
    with pytest.raises(DataError, match="the test split has no item"):
        run_study(train, none, [good], ProbeConfig(r=1))
    alone = run_study(train, test, [], ProbeConfig(methods=("erm",), seeds=(0,)))
    assert {r["selection"] for r in alone.results} == {"in-domain", "leave-one-env-out", "oracle"}


def test_auto_stays_within_the_highest_rank_but_for_the_ceiling(data):
    """The limit is that of the label guard and the rank anchor; the curve alone goes further."""
    train, test, good, _ = data
    config = ProbeConfig(methods=("ncm", "ncm-whitened"), C=(1.0,), seeds=(0,), folds=3)
    free, held = (run_study(train, test, [good], config, highest=h) for h in ({}, {"good": 2}))
    assert max(find(free, method="ncm", selection=s, seed=None)["r"] for s in ("pairs", "oracle")) > 2
    assert {row["r"] for row in held.results if row["selection"] != "oracle"} <= {1, 2}
    assert max(row["r"] for row in held.results if row["selection"] == "oracle") > 2
    assert max(row["r"] for row in held.curves) > 2
    named = run_study(train, test, [good], config.model_copy(update={"r": (4,)}), highest={"good": 2})
    assert {row["r"] for row in named.results} == {4}
    # What is set within the limit are r and ridge: no test label, no group of the validation split.
    other = ItemRows(test.ids, test.X, 1 - test.y, test.env, test.subject)
    again = run_study(train, other, [good], config, highest={"good": 2})
    for row in held.results:
        if row["selection"] == "pairs" and row["seed"] == 0:
            same = find(again, method=row["method"], selection="pairs", seed=0)
            assert (row["r"], json.loads(row["params"])["C"]) == (same["r"], json.loads(same["params"])["C"])


def test_methods_without_pairs_are_judged_by_fits_that_have_not_seen_a_subject(data):
    """Labels at random: a probe that had seen the rows it judges would know them."""
    rng = np.random.default_rng(1)
    X, y = rng.normal(size=(200, 300)), rng.integers(0, 2, 200)
    y[:2] = 0, 1
    train = item_rows(X, y, np.zeros(200), "t")
    zero = np.zeros(100, np.int64)
    # Every pair joins two subjects, so that its sides may be judged by two fits.
    across = PairRows(
        "across", "across", X[:100], X[100:], y[:100].astype(np.int64), zero, zero + 1, train.subject[:100],
        train.subject[100:],
    )  # fmt: skip
    config = ProbeConfig(methods=("erm",), C=(100.0,), seeds=(0,), selection=("pairs",))
    (row,) = (r for r in run_study(train, train, [across], config).results if r["seed"] == 0)
    assert row["average"] > 0.95
    own = run_study(train, train, [pair_rows("own", X[:100], X[:100], y[:100], train.ids[:100])], config)
    (alone,) = (r for r in own.results if r["seed"] == 0)
    assert json.loads(alone["params"])["score"] < 0.65 and alone["flip_rate"] == 0.0
    assert 0.2 < row["flip_rate"] < 0.8
