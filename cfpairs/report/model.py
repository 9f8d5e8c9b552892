"""The findings as plain typed data: what the page, the terminal and the JSON file are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "LEVELS",
    "CellView",
    "Curve",
    "CurvePoint",
    "FlagView",
    "GroupView",
    "Item",
    "KeyNumber",
    "MapCell",
    "MapView",
    "PairGroup",
    "PairSetInput",
    "PairSetView",
    "PairView",
    "ReportData",
    "Result",
    "RuleView",
    "Step",
    "Verdict",
]

LEVELS = ("good", "usable", "needs_pairs", "fix_pairs", "changes_label")
"""Verdicts on a pair set, best first."""


@dataclass(frozen=True)
class PairSetInput:
    """One pair set as the workflow hands it over.

    Attributes
    ----------
    name, method : str
    counts : dict of str to int
        Number of pairs by status.
    quality : dict or None
        ``PairQuality.to_dict()``; any field may be absent or None.
    pairs : list of dict
        Rows of ``pairs.parquet``, those with status ``ok`` first.
    card : str
        The data card, Markdown.
    """

    name: str
    method: str
    counts: dict[str, int]
    quality: dict[str, Any] | None
    pairs: list[dict[str, Any]]
    card: str


@dataclass(frozen=True)
class Result:
    """One row of results; accuracies are shares of 1 on test, None where they were not measured.

    Attributes
    ----------
    score : float or None
        Validation score under the row's selection rule; never a test accuracy, except under ``oracle``.
    spread : float or None
        Standard deviation of the worst-group accuracy over seeds; None with fewer than two.
    ranks : tuple of int
        In a mean over seeds that chose different r: each of them once, ascending. Otherwise empty.
    others : tuple of (str, value)
        The other hyperparameters, by name.
    tried, fits : int or None
        Settings that the rule chose among, and fits that all rules together took.
    seconds : float or None
        Of those fits, on one core.
    gain, gain_low, gain_high, gain_p : float or None
        Worst group minus that of ERM chosen by the same rule, its interval and its p value.
    """

    pair_set: str | None
    method: str
    r: int | None
    selection: str
    seed: int | None
    worst_group: float | None
    worst_group_low: float | None
    worst_group_high: float | None
    average: float | None
    adjusted: float | None
    flip_rate: float | None
    n_pairs: int | None
    C: float | None
    score: float | None
    spread: float | None = None
    ranks: tuple[int, ...] = ()
    others: tuple[tuple[str, float | int | str | bool], ...] = ()
    tried: int | None = None
    fits: int | None = None
    seconds: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    gain_p: float | None = None
    average_low: float | None = None
    average_high: float | None = None


@dataclass(frozen=True)
class RuleView:
    """The results that one selection rule chose, in the order of the table."""

    name: str
    results: tuple[Result, ...]


@dataclass(frozen=True)
class CurvePoint:
    """Test accuracy at one r, with 95 % intervals."""

    r: int
    C: float | None
    worst_group: float
    low: float | None
    high: float | None
    average: float | None
    average_low: float | None = None
    average_high: float | None = None


@dataclass(frozen=True)
class Curve:
    """Worst-group accuracy of one probe on one pair set against r, in ascending order of r."""

    pair_set: str | None
    method: str
    points: tuple[CurvePoint, ...]
    chosen_r: int | None


@dataclass(frozen=True)
class MapCell:
    """Test accuracy at one r and one ridge strength C; None where no such probe was fitted."""

    r: int
    C: float
    worst_group: float | None
    average: float | None


@dataclass(frozen=True)
class MapView:
    """Worst-group accuracy of NCM on test over r and C, for one pair set.

    Attributes
    ----------
    rows : tuple of tuple of MapCell
        One row an r, ascending; one cell a C, from the strongest ridge (smallest C) on.
    chosen : tuple of int and float, or None
        The r and C that the primary rule chose.
    """

    pair_set: str
    rows: tuple[tuple[MapCell, ...], ...]
    chosen: tuple[int, float] | None


@dataclass(frozen=True)
class Item:
    """One side of a pair; ``path`` is None where the item has no image."""

    item_id: str
    path: Path | None
    env_name: str


@dataclass(frozen=True)
class FlagView:
    """What looks wrong with a pair; `severity` is how far beyond its limit, 1 at the limit."""

    name: str
    reason: str
    score: float | None
    severity: float | None


@dataclass(frozen=True)
class PairView:
    """One pair of the gallery; ``notes`` and ``flags`` say why it was set apart."""

    pair_id: str
    label_name: str
    a: Item
    b: Item
    score: float | None
    status: str
    notes: tuple[str, ...] = ()
    flags: tuple[FlagView, ...] = ()


@dataclass(frozen=True)
class PairGroup:
    """Pairs that were set apart for one reason: a flag, or their status.

    Attributes
    ----------
    meaning : str
        The reason in plain words; may be empty.
    pairs : tuple of PairView
        The gravest first; a sample.
    n : int
        How many there are.
    """

    name: str
    meaning: str
    pairs: tuple[PairView, ...]
    n: int


@dataclass(frozen=True)
class CellView:
    """How many pairs lead from one environment to another within one label.

    Attributes
    ----------
    n_items : int or None
        Training items that already show the label in the environment that the pairs lead to.
    covered : float or None
        Share of this cell's mean difference that the pairs of the other cells show too.
    """

    label_name: str
    env_a_name: str
    env_b_name: str
    n_pairs: int
    n_items: int | None
    covered: float | None


@dataclass(frozen=True)
class PairSetView:
    """One pair set with what was found about it.

    Attributes
    ----------
    level : str or None
        Verdict of its quality, one of `LEVELS`.
    r : int or None
        The number of directions to mark: chosen by the primary rule, else recommended by the quality.
    r_chosen : bool
        Whether ``r`` was chosen by the primary rule.
    gallery : tuple of PairView
        A sample of the sound pairs.
    set_apart : tuple of PairGroup
        Those that were flagged, rejected or dropped, by reason.
    n_sound, n_apart : int
        How many there are of each.
    steps : tuple of Step
        What its quality advises.
    """

    name: str
    method: str
    counts: Mapping[str, int]
    quality: Mapping[str, Any]
    level: str | None
    r: int | None
    r_chosen: bool
    cells: tuple[CellView, ...]
    gallery: tuple[PairView, ...]
    set_apart: tuple[PairGroup, ...]
    n_sound: int
    n_apart: int
    card: str
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class GroupView:
    """One group: a label in an environment, with its number of items in each split."""

    label_name: str
    env_name: str
    counts: Mapping[str, int]


@dataclass(frozen=True)
class KeyNumber:
    """A number that the verdict rests on, with its meaning in words."""

    value: str
    name: str
    meaning: str


@dataclass(frozen=True)
class Step:
    """One thing to do, in the imperative, and the command for it where there is one."""

    text: str
    command: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What was found and what to do next.

    Attributes
    ----------
    level : str
        One of `LEVELS`.
    headline : str
        What to do, in one clause without a full stop.
    evidence : str
        The measured gain, in words that need no other page.
    reason : str
        What is known of the pairs; may be empty.
    next_steps : tuple of Step
        The most important first.
    numbers : tuple of KeyNumber
    """

    level: str
    headline: str
    evidence: str
    reason: str
    next_steps: tuple[Step, ...]
    numbers: tuple[KeyNumber, ...]
    pair_set: str | None
    recommended_r: int | None

    @property
    def finding(self) -> str:
        """What was found, as one paragraph."""
        first = f"{self.headline}: {self.evidence}" if self.evidence else f"{self.headline}."
        return f"{first} {self.reason}".strip()

    @property
    def text(self) -> str:
        """The whole verdict as one paragraph: what was found, and what to do first."""
        following = self.next_steps[0].text if self.next_steps else ""
        return f"{self.finding} {following}".strip()


@dataclass(frozen=True)
class ReportData:
    """Everything that a rendering needs; made by `cfpairs.report.assess.assess`.

    Attributes
    ----------
    selection : str or None
        The primary selection rule; None without results.
    rules : tuple of RuleView
        The primary rule first, ``oracle`` last.
    best, baseline : Result or None
        The result that the verdict recommends, and the ERM result that it is compared with.
    warnings : tuple of str
        Groups that are empty or too small to be measured.
    results, group_rows, curve_rows : tuple of dict
        The rows as they came in, for the JSON file.
    comparison : tuple of dict
        Rows of `cfpairs.quality.ComparisonRow`, the best pair set first.
    maps : tuple of MapView
        The recommended pair set first.
    commands : tuple of str
        Lines for a shell that make the findings and the page again.
    configuration : str
        The configuration that they need, YAML; may be empty.
    """

    title: str
    verdict: Verdict
    selection: str | None
    rules: tuple[RuleView, ...]
    best: Result | None
    baseline: Result | None
    curves: tuple[Curve, ...]
    pair_sets: tuple[PairSetView, ...]
    splits: tuple[str, ...]
    groups: tuple[GroupView, ...]
    warnings: tuple[str, ...]
    data: Mapping[str, Any]
    provenance: Mapping[str, Any]
    results: tuple[Mapping[str, Any], ...] = field(repr=False)
    group_rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    curve_rows: tuple[Mapping[str, Any], ...] = field(repr=False)
    comparison: tuple[Mapping[str, Any], ...] = ()
    maps: tuple[MapView, ...] = ()
    commands: tuple[str, ...] = ()
    configuration: str = ""
