"""Two workspaces side by side: what differs, which one is better, and whether that is more than chance."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cfpairs.metrics import worst_group_difference, worst_group_gain
from cfpairs.report.assess import recommended
from cfpairs.report.html import make_environment, page_parts
from cfpairs.report.model import Result
from cfpairs.report.values import count, jsonable, number, per_cent, range_text, share
from cfpairs.report.words import join, probe_name, rule, sentence, set_name

__all__ = [
    "SCHEMA_VERSION",
    "Comparison",
    "RunInput",
    "compare_runs",
    "comparison_json",
    "render_comparison",
    "rows_of",
]

SCHEMA_VERSION = 1
"""As for ``report.json``."""


@dataclass(frozen=True)
class RunInput:
    """One workspace's probe run as the workflow hands it over.

    Attributes
    ----------
    name : str
        How it is called in the comparison.
    results : list of dict
        Rows of ``results.parquet``.
    selection : str
        Its primary selection rule.
    levels : mapping of str to (str or None)
        Quality level of each pair set.
    facts : mapping of str to str
        What the run depends on, by name, in the order of the table: data, encoder, pairs, and so on.
    right : mapping
        Pair set, method and rule -> test item -> share of seeds that classify it rightly; empty or partial.
    groups : mapping of str to tuple
        Test item -> its label and environment, by name.
    """

    name: str
    results: list[dict[str, Any]]
    selection: str
    levels: Mapping[str, str | None]
    facts: Mapping[str, str]
    right: Mapping[tuple[str | None, str, str], Mapping[str, float]]
    groups: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class Side:
    """One workspace: its name, the result that it recommends and that of its plain probe."""

    name: str
    best: Result | None
    baseline: Result | None


@dataclass(frozen=True)
class Difference:
    """One thing that a run depends on, in both workspaces."""

    name: str
    first: str
    second: str

    @property
    def same(self) -> bool:
        """Whether both agree."""
        return self.first == self.second


@dataclass(frozen=True)
class Comparison:
    """Two workspaces side by side.

    Attributes
    ----------
    facts : tuple of Difference
        All that the runs depend on.
    gain : dict of str to float, or None
        Second worst group minus first: ``gain``, ``gain_low``, ``gain_high``, ``gain_p``, for the test
        items; None where it cannot be told.
    paired : bool
        Whether both were measured on the same test items.
    better : str or None
        Name of the better one; None where the difference may be chance or is not known.
    text : str
        The conclusion.
    """

    first: Side
    second: Side
    facts: tuple[Difference, ...]
    gain: dict[str, float] | None
    paired: bool
    better: str | None
    text: str


def compare_runs(first: RunInput, second: RunInput) -> Comparison:
    """Compare what two probe runs recommend.

    The difference is tested for the test items that were drawn: with a paired bootstrap where both runs
    have the same ones, else with one for each.
    """
    if first.name == second.name:
        first, second = (
            replace(r, name=f"{r.name} ({place})") for r, place in ((first, "first"), (second, "second"))
        )
    sides = tuple(
        Side(run.name, *recommended(run.results, run.selection, run.levels)) for run in (first, second)
    )
    names = list(dict.fromkeys([*first.facts, *second.facts]))
    facts = tuple(Difference(n, first.facts.get(n, "none"), second.facts.get(n, "none")) for n in names)
    gain, paired = _test(first, second, sides[0].best, sides[1].best)
    better = None
    if gain is not None and gain["gain_low"] > 0:
        better = second.name
    elif gain is not None and gain["gain_high"] < 0:
        better = first.name
    text = _text(sides[0], sides[1], facts, gain, paired, better)
    return Comparison(sides[0], sides[1], facts, gain, paired, better, text)


def _test(
    first: RunInput, second: RunInput, ours: Result | None, theirs: Result | None
) -> tuple[dict[str, float] | None, bool]:
    """The difference of the worst groups on test, and whether the items are the same."""
    a, b = _right(first, ours), _right(second, theirs)
    if not a or not b:
        return None, False
    same = set(a) == set(b) and all(first.groups[i] == second.groups[i] for i in a)
    items, others = sorted(a), sorted(b)
    codes, other_codes = _codes(first, items), _codes(second, others)
    old, new = [a[i] for i in items], [b[i] for i in others]
    if same:
        return worst_group_gain(new, old, codes), True
    return worst_group_difference(new, other_codes, old, codes), False


def _right(run: RunInput, best: Result | None) -> Mapping[str, float]:
    if best is None:
        return {}
    known = run.right.get((best.pair_set, best.method, best.selection), {})
    return {item: value for item, value in known.items() if item in run.groups}


def _codes(run: RunInput, items: Sequence[str]) -> Any:
    place = {group: i for i, group in enumerate(sorted({run.groups[item] for item in items}))}
    return np.array([place[run.groups[item]] for item in items], np.int64)


def _text(
    first: Side,
    second: Side,
    facts: Iterable[Difference],
    gain: Mapping[str, float] | None,
    paired: bool,
    better: str | None,
) -> str:
    differing = [fact.name for fact in facts if not fact.same]
    said = f"They differ in {join(differing)}." if differing else "They have the same settings and inputs."
    if gain is None:
        return f"The two cannot be compared: one has no chosen probe with predictions on test. {said}"
    points = share(abs(gain["gain"]))
    between = range_text(gain["gain_low"], gain["gain_high"])
    items = "the same test items" if paired else "two different sets of test items"
    if better is None:
        low = f"{second.name} minus {first.name}: {share(gain['gain'])} points, 95 % interval {between}"
        head = f"Neither is clearly better: the worst groups differ by {points} points, which may be chance"
        head += f" ({low})"
    else:
        low, high = sorted(abs(gain[end]) for end in ("gain_low", "gain_high"))  # type: ignore[assignment]
        head = (
            f"{better} is better: its worst group is {points} points more accurate "
            f"(95 % interval {range_text(low, high)}, p {number(gain['gain_p'], 2)})"  # type: ignore[arg-type]
        )
    return f"{head}, measured on {items}. {said}"


def rows_of(comparison: Comparison) -> list[tuple[str, str, str]]:
    """The figures of both sides: name, first, second."""
    both = (comparison.first, comparison.second)

    def row(name: str, read: Any) -> tuple[str, str, str]:
        return (name, *(read(side) for side in both))

    def of_best(read: Any) -> Any:
        return lambda side: "n/a" if side.best is None else read(side.best)

    return [
        row("Worst group", of_best(_worst)),
        row("Worst group, plain probe", lambda s: per_cent(s.baseline and s.baseline.worst_group)),
        row("Average", of_best(lambda r: per_cent(r.average))),
        row("Flip rate", of_best(lambda r: per_cent(r.flip_rate))),
        row("Pair set", of_best(lambda r: set_name(r.pair_set))),
        row("Probe", of_best(lambda r: probe_name(r.method))),
        row("r", of_best(lambda r: count(r.r))),
        row("C", of_best(lambda r: number(r.C))),
        row("Pairs", of_best(lambda r: count(r.n_pairs))),
        row("Chosen by", of_best(lambda r: rule(r.selection).title)),
    ]  # fmt: skip


def _worst(row: Result) -> str:
    ends = range_text(row.worst_group_low, row.worst_group_high)
    return per_cent(row.worst_group) + (f" ({ends})" if ends else "")


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison for programs; ``docs/report-json.md`` says what it holds."""
    plain = asdict(comparison)
    plain["facts"] = [{**asdict(fact), "same": fact.same} for fact in comparison.facts]
    found: dict[str, Any] = jsonable({"schema_version": SCHEMA_VERSION, **plain})
    return found


def render_comparison(comparison: Comparison) -> str:
    """One self-contained page; the same comparison gives the same bytes."""
    head, _, rest = comparison.text.partition(": ")
    template = make_environment().get_template("compare.html")
    return template.render(
        comparison=comparison, headline=head, rest=sentence(rest), rows=rows_of(comparison), **page_parts()
    )
