"""Rows of a probe run's tables: every fit, every choice, means over seeds, and tests against ERM."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cfpairs.metrics import Evaluation, Groups, evaluate, group_accuracies, worst_group_gain
from cfpairs.probes.candidates import Candidates
from cfpairs.probes.crossfit import Coding, ItemRows
from cfpairs.probes.fits import LinearFits, decide
from cfpairs.probes.method import Setting
from cfpairs.selection import Choice, choose_by_pairs

__all__ = ["Recorder", "Study"]

Array = NDArray[np.floating[Any]]

REFERENCE = "erm"
"""The method that all others are tested against."""

_AVERAGED = ("worst_group", "worst_group_low", "worst_group_high", "average", "adjusted")
_Key = tuple[str | None, str, str]


@dataclass
class Study:
    """What a probe run found.

    Attributes
    ----------
    results : list of dict
        Rows of ``RESULTS``: the setting that each rule chose, by seed, then the mean over seeds.
    grid : list of dict
        One row a fit: pair_set, method, r, C, other hyperparameters, seed, figures on test, what every rule
        scored it.
    curves : list of dict
        Test figures at every rank, the rest chosen by held-out pairs at that rank.
    predictions : list of pyarrow.Table
        Test predictions of every chosen setting, one table each.
    coefficients : dict of str to ndarray
        ``pair_set/method/selection/seed/{coef,intercept}``, for preprocessed embeddings.
    notes : list of str
        What the user should know.
    right : dict of (pair_set, method, selection) to list of ndarray of bool, shape (n_test,)
        Which test items the chosen setting of every seed gets right.
    """

    results: list[dict[str, Any]] = field(default_factory=list)
    grid: list[dict[str, Any]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    predictions: list[pa.Table] = field(default_factory=list)
    coefficients: dict[str, NDArray[Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    right: dict[_Key, list[NDArray[np.bool_]]] = field(default_factory=dict)

    @classmethod
    def join(cls, parts: Sequence[Study], order: Callable[[str | None, str], Any]) -> Study:
        """The studies of several shares of the methods as one.

        Parameters
        ----------
        parts : sequence of Study
        order : callable
            Where rows of a pair set and a method belong. Rows of the same place keep their order.
        """

        def sorted_rows(name: str) -> list[dict[str, Any]]:
            rows = [row for part in parts for row in getattr(part, name)]
            return sorted(rows, key=lambda row: order(row["pair_set"], row["method"]))

        tables = [table for part in parts for table in part.predictions]
        return cls(
            sorted_rows("results"),
            sorted_rows("grid"),
            sorted_rows("curves"),
            sorted(tables, key=lambda t: order(t["pair_set"][0].as_py(), t["method"][0].as_py())),
            {key: values for part in parts for key, values in part.coefficients.items()},
            list(dict.fromkeys(note for part in parts for note in part.notes)),
            {key: values for part in parts for key, values in part.right.items()},
        )

    def summarise(self, codes: NDArray[np.int64]) -> None:
        """Add the means over seeds, each tested against ERM chosen by the same rule.

        Parameters
        ----------
        codes : ndarray of int, shape (n_test,)
            Group of every test item.
        """
        means = _means_over_seeds(self.results)
        for row in means:
            own = self.right[row["pair_set"], row["method"], row["selection"]]
            reference = self.right.get((row["pair_set"], REFERENCE, row["selection"]))
            if reference is None:
                reference = self.right.get((None, REFERENCE, row["selection"]))
            row |= dict.fromkeys(("gain", "gain_low", "gain_high", "gain_p"))
            if reference is not None and row["method"] != REFERENCE:
                row |= worst_group_gain(np.mean(own, axis=0), np.mean(reference, axis=0), codes)
        self.results.extend(means)


class Recorder:
    """Turns fits and choices into the rows of a study.

    Parameters
    ----------
    test : ItemRows
        In principal axes.
    groups : Groups
        Of train and test together.
    train_counts : ndarray
        Training items of every group.
    axes : ndarray of shape (d, d)
        Principal axes; weights are stored in the user's own.
    coding : Coding
    """

    def __init__(
        self, test: ItemRows, groups: Groups, train_counts: NDArray[np.int64], axes: Array, coding: Coding
    ) -> None:
        self.test, self.groups, self.train_counts = test, groups, train_counts
        self.axes, self.coding = axes, coding
        self.codes = groups.codes(test.y, test.env)
        self.study = Study()

    def grid(self, name: str | None, each: Candidates) -> None:
        """One row for every fit of a method on all training items."""
        if each.fits is None or each.test is None:
            return
        predicted = each.test_labels(self.coding)
        accuracy = group_accuracies(predicted, self.test.y, self.codes, len(self.groups))
        average = (predicted == self.test.y[:, None]).mean(axis=0)
        seeds = each.seeds if each.method.stochastic else each.seeds[:1]
        for seed in seeds:
            for i, setting in enumerate(each.settings):
                place = each.place(seed, i)
                scores = {
                    f"score_{rule.replace('-', '_')}": float(values[i])
                    for (rule, of), values in each.scores.items()
                    if of == seed and rule != "oracle"
                }
                self.study.grid.append(
                    {
                        "pair_set": name,
                        "method": setting.method,
                        "r": setting.r,
                        "C": setting.C,
                        "params": json.dumps(dict(setting.params)),
                        "seed": seed if each.method.stochastic else None,
                        "worst_group": float(np.nanmin(accuracy[place])),
                        "average": float(average[place]),
                        "iterations": int(each.fits.iterations[place]),
                        "gradient_norm": float(each.fits.gradient_norm[place]),
                        **scores,
                    }
                )

    def curve(self, name: str, each: Candidates, seed: int) -> None:
        """Test figures of ERM and at every rank of a method; the rest is chosen by held-out pairs."""
        if seed not in each.by_pairs or not (each.method.ranks or each.method.name == REFERENCE):
            return
        scores = each.by_pairs[seed]
        predicted = each.of_seed(each.test_labels(self.coding), seed, axis=1)
        for r in sorted({s.r for s in each.settings}):
            of = np.array([i for i, s in enumerate(each.settings) if s.r == r])
            C = np.array([each.settings[i].C for i in of])
            best = int(of[choose_by_pairs(scores.take(of), np.full(len(of), r), C).index])
            found = evaluate(self.test.y, predicted[:, best], self.test.env, groups=self.groups)
            self.study.curves.append(
                {
                    "pair_set": name,
                    "method": each.method.name,
                    "r": r,
                    "C": each.settings[best].C,
                    "worst_group": found.worst_group,
                    "worst_group_low": found.worst_group_low,
                    "worst_group_high": found.worst_group_high,
                    "average": found.average,
                }
            )

    def chosen(
        self,
        name: str | None,
        each: Candidates,
        rule: str,
        seed: int,
        choice: Choice,
        fits: LinearFits,
        logits: Array,
        *,
        n_pairs: int | None,
    ) -> None:
        """A chosen setting, alone in `fits` and `logits`: its row, its predictions, its weights."""
        setting = each.settings[choice.index]
        predicted = self.coding.labels(decide(logits[:, 0]))
        result = evaluate(
            self.test.y, predicted, self.test.env, groups=self.groups, train_counts=self.train_counts
        )
        scores = each.by_pairs.get(seed)
        self.study.results.append(
            _result_row(
                name, setting, rule, seed, choice, result, each,
                gradient_norm=float(fits.gradient_norm[0]),
                flip_rate=None if scores is None else _known(scores.flip_rate[choice.index]),
                logit_change=None if scores is None else _known(scores.logit_change[choice.index]),
                n_pairs=None if name is None else n_pairs,
            )
        )  # fmt: skip
        self.study.right.setdefault((name, setting.method, rule), []).append(predicted == self.test.y)
        self.study.predictions.append(
            _prediction_table(self.test, predicted, logits[:, 0], name, setting, rule, seed)
        )
        key = f"{name or 'none'}/{setting.method}/{rule}/{seed}"
        self.study.coefficients[f"{key}/coef"] = np.ascontiguousarray(fits.coef[0] @ self.axes.T)
        self.study.coefficients[f"{key}/intercept"] = np.ascontiguousarray(fits.intercept[0])


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _means_over_seeds(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row a (pair set, method, rule): means over seeds, the rank that was chosen most often."""
    together: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        together.setdefault((row["pair_set"], row["method"], row["selection"]), []).append(row)
    means = []
    for same in together.values():
        every = [json.loads(row["params"]) for row in same]
        ranks = Counter(row["r"] for row in same)
        r = min(ranks, key=lambda rank: (-ranks[rank], rank))
        of_r = [p for p, row in zip(every, same, strict=True) if row["r"] == r]
        worst = np.array([row["worst_group"] for row in same])
        flips = [row["flip_rate"] for row in same if row["flip_rate"] is not None]
        params = of_r[0] | {
            "score": float(np.mean([p["score"] for p in every])),
            "seeds": [row["seed"] for row in same],
            "r_by_seed": [row["r"] for row in same],
            "C_by_seed": [p["C"] for p in every],
            "worst_group_sd": float(worst.std(ddof=1)) if len(worst) > 1 else 0.0,
        }
        means.append(
            same[0]
            | {key: float(np.mean([row[key] for row in same])) for key in _AVERAGED}
            | {
                "r": r,
                "seed": None,
                "flip_rate": float(np.mean(flips)) if flips else None,
                "params": json.dumps(params),
            }
        )
    return means


def _result_row(
    name: str | None,
    setting: Setting,
    rule: str,
    seed: int,
    choice: Choice,
    result: Evaluation,
    each: Candidates,
    *,
    gradient_norm: float,
    flip_rate: float | None,
    logit_change: float | None,
    n_pairs: int | None,
) -> dict[str, Any]:
    params = {
        "C": setting.C,
        **dict(setting.params),
        "setting": dict(setting.params),
        "score": choice.score,
        "best_score": choice.best_score,
        "standard_error": choice.standard_error,
        "settings_tried": len(each.settings),
        "fits": each.n_fits,
        "looks_at": sorted(each.method.needs),
        "gradient_norm": gradient_norm,
        "logit_change": logit_change,
        "worst_label": result.worst.label,
        "worst_env": result.worst.env,
        "worst_n": result.worst.n,
    }
    return {
        "pair_set": name,
        "method": setting.method,
        "r": setting.r,
        "selection": rule,
        "seed": seed,
        "worst_group": result.worst_group,
        "worst_group_low": result.worst_group_low,
        "worst_group_high": result.worst_group_high,
        "average": result.average,
        "adjusted": result.adjusted,
        "flip_rate": flip_rate,
        "n_pairs": n_pairs,
        "seconds": each.seconds,
        "params": json.dumps(params),
    }


def _prediction_table(
    test: ItemRows,
    predicted: NDArray[Any],
    logits: Array,
    name: str | None,
    setting: Setting,
    rule: str,
    seed: int,
) -> pa.Table:
    """Test predictions of one chosen setting, one row an item; `logits` is (n, c)."""
    n, c = logits.shape
    flat = np.ascontiguousarray(logits, np.float64).reshape(-1)
    return pa.table(
        {
            "item_id": pa.array(test.ids, pa.string()),
            "pair_set": pa.array([name] * n, pa.string()),
            "method": pa.array([setting.method] * n, pa.string()),
            "selection": pa.array([rule] * n, pa.string()),
            "seed": pa.array([seed] * n, pa.int64()),
            "r": pa.array([setting.r] * n, pa.int32()),
            "C": pa.array([setting.C] * n, pa.float64()),
            "label": pa.array(test.y, pa.int32()),
            "predicted": pa.array(predicted, pa.int32()),
            "logits": pa.FixedSizeListArray.from_arrays(pa.array(flat), c),
        }
    )
