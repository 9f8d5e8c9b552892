"""Accuracy of every group, its interval, and the figures made of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm

from cfpairs.errors import DataError
from cfpairs.notebook import html_table

__all__ = [
    "Evaluation",
    "GroupAccuracy",
    "Groups",
    "evaluate",
    "flip_rate",
    "group_accuracies",
    "wilson_interval",
    "worst_group_difference",
    "worst_group_gain",
]

Array = NDArray[np.float64]


def wilson_interval(correct: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Array, Array]:
    """Score interval of a proportion (Wilson 1927).

    Parameters
    ----------
    correct, n : array-like
        Successes and trials; ``n = 0`` gives (0, 1).
    level : float
        Confidence level.

    Returns
    -------
    low, high : ndarray

    Examples
    --------
    >>> [round(float(v), 3) for v in wilson_interval(8, 10)]
    [0.49, 0.943]
    """
    z = float(norm.ppf(0.5 + level / 2))
    c = np.asarray(correct, np.float64)
    m = np.asarray(n, np.float64)
    safe = np.where(m > 0, m, 1.0)
    p = c / safe
    centre = (p + z * z / (2 * safe)) / (1 + z * z / safe)
    half = z / (1 + z * z / safe) * np.sqrt(p * (1 - p) / safe + z * z / (4 * safe * safe))
    low = np.where(m > 0, np.clip(centre - half, 0.0, 1.0), 0.0)
    high = np.where(m > 0, np.clip(centre + half, 0.0, 1.0), 1.0)
    return low, high


class Groups:
    """Groups of items: every label crossed with every environment.

    Parameters
    ----------
    labels : array-like
        All labels that exist; repeats do no harm.
    environments : array-like
        All environments that exist.

    Notes
    -----
    The group of (label i, environment j) has the code ``i * len(environments) + j``.
    """

    def __init__(self, labels: ArrayLike, environments: ArrayLike) -> None:
        self.labels = np.unique(np.asarray(labels))
        self.environments = np.unique(np.asarray(environments))

    def __len__(self) -> int:
        return len(self.labels) * len(self.environments)

    def codes(self, y: ArrayLike, env: ArrayLike) -> NDArray[np.int64]:
        """Group code of every row, shape (n,).

        Raises
        ------
        DataError
            If a label or environment is unknown.
        """
        return np.asarray(
            self._position(self.labels, y, "label") * len(self.environments)
            + self._position(self.environments, env, "environment"),
            np.int64,
        )

    def counts(self, y: ArrayLike, env: ArrayLike) -> NDArray[np.int64]:
        """Number of rows in every group, shape (len(self),)."""
        return np.bincount(self.codes(y, env), minlength=len(self))

    def pair(self, code: int) -> tuple[int, int]:
        """(label, environment) of a group code."""
        i, j = divmod(int(code), len(self.environments))
        return int(self.labels[i]), int(self.environments[j])

    @staticmethod
    def _position(known: NDArray[Any], values: ArrayLike, what: str) -> NDArray[np.int64]:
        values = np.asarray(values)
        place = np.searchsorted(known, values).clip(max=max(len(known) - 1, 0))
        if len(values) and (len(known) == 0 or (known[place] != values).any()):
            wrong = values if len(known) == 0 else values[known[place] != values]
            raise DataError(
                f"unknown {what}", got=wrong[0], expected="one of " + ", ".join(str(v) for v in known)
            )
        return np.asarray(place, np.int64)


@dataclass(frozen=True)
class GroupAccuracy:
    """One group's test rows: ``accuracy`` is nan where there are none."""

    label: int
    env: int
    n: int
    correct: int
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """What a probe does on one split.

    Attributes
    ----------
    groups : tuple of GroupAccuracy
        Every label x environment, empty ones too.
    worst_group, worst_group_low, worst_group_high : float
        Lowest accuracy over the groups that have rows, with that group's Wilson interval at 95 %.
    worst : GroupAccuracy
        The group it was met in; among equals the first.
    average : float
        Share of all rows that are right.
    adjusted : float
        Group accuracies weighted by the training counts of the groups (those without test rows left out);
        equal to ``average`` where no training counts are given.
    environments : dict of int to float
        Accuracy in every environment that has rows.
    """

    groups: tuple[GroupAccuracy, ...]
    worst: GroupAccuracy
    average: float
    adjusted: float
    environments: dict[int, float]

    @property
    def worst_group(self) -> float:
        """Lowest accuracy over the groups that have rows."""
        return self.worst.accuracy

    @property
    def worst_group_low(self) -> float:
        """Lower end of the worst group's interval."""
        return self.worst.low

    @property
    def worst_group_high(self) -> float:
        """Upper end of the worst group's interval."""
        return self.worst.high

    @property
    def empty_groups(self) -> list[tuple[int, int]]:
        """(label, environment) of the groups without a row."""
        return [(g.label, g.env) for g in self.groups if g.n == 0]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "worst_group": self.worst_group,
            "worst_group_low": self.worst_group_low,
            "worst_group_high": self.worst_group_high,
            "average": self.average,
            "adjusted": self.adjusted,
            "environments": {str(k): v for k, v in self.environments.items()},
            "empty_groups": [list(g) for g in self.empty_groups],
            "groups": [asdict(g) | {"accuracy": g.accuracy if g.n else None} for g in self.groups],
        }

    def _repr_html_(self) -> str:
        """Table of groups for notebooks, the worst first."""
        rows = [
            (
                f"label {g.label}, environment {g.env}",
                f"{g.accuracy:.3f}" if g.n else "no row",
                f"{g.low:.3f} to {g.high:.3f}" if g.n else "",
                g.n,
            )
            for g in sorted(self.groups, key=lambda g: (g.n == 0, g.accuracy if g.n else 0.0))
        ]
        caption = (
            f"worst group {self.worst_group:.3f}, average {self.average:.3f}, adjusted {self.adjusted:.3f}"
        )
        return html_table(rows, ("group", "accuracy", "95 %", "rows"), caption)


def evaluate(
    y: ArrayLike,
    predicted: ArrayLike,
    env: ArrayLike,
    *,
    groups: Groups | None = None,
    train_counts: ArrayLike | None = None,
) -> Evaluation:
    """Group accuracies of predictions.

    Parameters
    ----------
    y, predicted, env : array-like of shape (n,)
        True labels, predicted labels, environments.
    groups : Groups, optional
        All groups that exist, so that empty ones are named; by default those met in `y` and `env`.
    train_counts : array-like of shape (len(groups),), optional
        Training rows of every group, for the adjusted average (Sagawa et al. 2020).

    Raises
    ------
    DataError
        If there is no row, or shapes differ.

    Examples
    --------
    >>> result = evaluate([0, 0, 1, 1], [0, 0, 1, 0], env=[0, 1, 0, 1])
    >>> result.worst_group, result.average
    (0.0, 0.75)
    """
    y, predicted, env = np.asarray(y), np.asarray(predicted), np.asarray(env)
    if not (y.shape == predicted.shape == env.shape) or y.ndim != 1:
        raise DataError(
            "labels, predictions and environments differ in shape",
            got=f"{y.shape}, {predicted.shape}, {env.shape}",
        )
    if len(y) == 0:
        raise DataError("there is no row to evaluate", remedy="check that the split has items")
    groups = groups or Groups(y, env)
    codes = groups.codes(y, env)
    right = (y == predicted).astype(np.float64)
    n = np.bincount(codes, minlength=len(groups))
    correct = np.bincount(codes, weights=right, minlength=len(groups))
    low, high = wilson_interval(correct, n)
    accuracy = np.divide(correct, n, out=np.full(len(groups), np.nan), where=n > 0)
    rows = tuple(
        GroupAccuracy(
            *groups.pair(g), int(n[g]), int(correct[g]), float(accuracy[g]), float(low[g]), float(high[g])
        )
        for g in range(len(groups))
    )
    weights = n.astype(np.float64) if train_counts is None else np.asarray(train_counts, np.float64)
    weights = np.where(n > 0, weights, 0.0)
    total = weights.sum()
    average = float(right.mean())
    return Evaluation(
        groups=rows,
        worst=rows[int(np.nanargmin(accuracy))],
        average=average,
        adjusted=float(np.nansum(weights * np.nan_to_num(accuracy)) / total) if total else average,
        environments={int(e): float(right[env == e].mean()) for e in np.unique(env)},
    )


def flip_rate(predicted_a: ArrayLike, predicted_b: ArrayLike) -> float:
    """Share of pairs whose two sides get different predictions; nan without pairs."""
    a, b = np.asarray(predicted_a), np.asarray(predicted_b)
    if a.shape != b.shape:
        raise DataError("the two sides of the pairs differ in shape", got=f"{a.shape} and {b.shape}")
    return float((a != b).mean()) if a.size else float("nan")


def group_accuracies(
    predicted: NDArray[Any], y: NDArray[Any], codes: NDArray[np.int64], n_groups: int
) -> Array:
    """Accuracy of many fits in every group at once.

    Parameters
    ----------
    predicted : ndarray of shape (n, f)
        Predicted labels, one column a fit.
    y, codes : ndarray of shape (n,)
        True labels and group codes.

    Returns
    -------
    ndarray of shape (f, n_groups)
        nan where a group has no row.
    """
    member = np.zeros((n_groups, len(y)))
    member[codes, np.arange(len(y))] = 1.0
    n = member.sum(axis=1)
    right = member @ (predicted == y[:, None])
    accuracy: Array = np.divide(right, n[:, None], out=np.full(right.shape, np.nan), where=n[:, None] > 0)
    return accuracy.T


def worst_group_gain(
    right: ArrayLike, reference: ArrayLike, codes: NDArray[np.int64], draws: int = 1000, seed: int = 0
) -> dict[str, float]:
    """How much better one probe's worst group is than another's on the same rows, by a paired bootstrap.

    Parameters
    ----------
    right, reference : array-like of shape (n,)
        Whether each row is classified rightly; a share between 0 and 1 where several seeds are averaged.
    codes : ndarray of shape (n,)
        Group of every row.
    draws : int
        Bootstrap samples; rows are drawn anew within each group, the same rows for both probes.
    seed : int

    Returns
    -------
    dict
        ``gain``: the difference of the worst-group accuracies; ``gain_low``, ``gain_high``: its 95 %
        percentile interval; ``gain_p``: twice the smaller share of draws on either side of 0, at least
        ``1 / draws``.

    Notes
    -----
    The worst group may be another one in every draw, as it may be in new data (Efron and Tibshirani 1993,
    chapter 16).
    """
    ours, theirs = np.asarray(right, np.float64), np.asarray(reference, np.float64)
    rng = np.random.default_rng([seed, 7])
    worst = np.full((2, draws + 1), np.inf)
    for group in np.unique(codes):
        both = np.stack([ours[codes == group], theirs[codes == group]])
        n = both.shape[1]
        # The mean of n rows drawn anew, for each distinct pair of values as often as a multinomial says.
        values, counts = np.unique(both, axis=1, return_counts=True)
        drawn = rng.multinomial(n, counts / n, size=draws)
        means = np.concatenate([both.mean(axis=1)[:, None], values @ drawn.T / n], axis=1)
        worst = np.minimum(worst, means)
    return _gain(worst[0] - worst[1], draws)


def worst_group_difference(
    right: ArrayLike,
    codes: NDArray[np.int64],
    reference: ArrayLike,
    reference_codes: NDArray[np.int64],
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """How much better one probe's worst group is than another's on other rows, by a bootstrap of each.

    Parameters
    ----------
    right, reference : array-like of shape (n,) and (m,)
        Whether each row is classified rightly, or the share of seeds that do.
    codes, reference_codes : ndarray of shape (n,) and (m,)
        Group of every row; the two need not have the same groups.
    draws : int
        Bootstrap samples; rows are drawn anew within each group.
    seed : int

    Returns
    -------
    dict
        As `worst_group_gain`, whose paired test is the sharper one where the rows are the same.

    Examples
    --------
    >>> found = worst_group_difference([1] * 90, np.arange(90) % 2, [1, 0] * 50, np.zeros(100, int))
    >>> found["gain"], found["gain_low"] > 0.3
    (0.5, True)
    """
    ends = []
    for number, (values, groups) in enumerate(((right, codes), (reference, reference_codes))):
        given = np.asarray(values, np.float64)
        rng = np.random.default_rng([seed, 8, number])
        worst = np.full(draws + 1, np.inf)
        for group in np.unique(groups):
            own = given[groups == group]
            levels, counts = np.unique(own, return_counts=True)
            drawn = rng.multinomial(len(own), counts / len(own), size=draws)
            worst = np.minimum(worst, np.concatenate([[own.mean()], drawn @ levels / len(own)]))
        ends.append(worst)
    return _gain(ends[0] - ends[1], draws)


def _gain(gain: Array, draws: int) -> dict[str, float]:
    """The measured difference, which stands first, and what the draws behind it say of it."""
    low, high = np.quantile(gain[1:], [0.025, 0.975])
    share = min((gain[1:] <= 0).mean(), (gain[1:] >= 0).mean())
    return {
        "gain": float(gain[0]),
        "gain_low": float(low),
        "gain_high": float(high),
        "gain_p": float(min(1.0, max(2 * share, 1 / draws))),
    }
