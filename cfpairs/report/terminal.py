"""The findings in a terminal, 80 columns wide or more."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from cfpairs.report.compare import Comparison, rows_of
from cfpairs.report.model import ReportData, Result, RuleView, Step
from cfpairs.report.values import count, range_text, share
from cfpairs.report.words import LEVEL_NAMES, probe_name, rule, set_name

__all__ = ["print_report", "render_comparison_terminal", "render_terminal"]

COLOURS = {
    "good": "green",
    "usable": "green",
    "needs_pairs": "yellow",
    "fix_pairs": "red",
    "changes_label": "red",
}

MOST_STEPS = 3


def render_terminal(data: ReportData) -> RenderableType:
    """The verdict and what to do, then the results that the primary rule chose, then warnings."""
    verdict = data.verdict
    line = Text()
    line.append(f"{LEVEL_NAMES[verdict.level]}. ", style=f"bold {COLOURS[verdict.level]}")
    line.append(verdict.finding)
    parts: list[RenderableType] = [line, *_steps(verdict.next_steps)]
    if data.rules:
        parts += [Text(), _table(data.rules[0], data.best), _legend(data.rules[0])]
    if len(data.rules) > 1:
        parts += [Text(), _rules_table(data.rules, data.best)]
    parts += [Padding(Text(f"! {warning}", style="yellow"), (0, 0)) for warning in data.warnings]
    return Group(*parts)


def _steps(steps: Sequence[Step]) -> list[RenderableType]:
    """The first things to do, numbered, each with its command below; the page has the others."""
    if not steps:
        return []
    rows = Table.grid(padding=(0, 1, 0, 0))
    for number, step in enumerate(steps[:MOST_STEPS], 1):
        text = Text(step.text)
        if step.command:
            text.append(f"\n$ {step.command}", style="cyan")
        rows.add_row(f"{number}.", text)
    return [Text(), Text("What to do next", style="bold"), rows]


def render_comparison_terminal(comparison: Comparison) -> RenderableType:
    """Two workspaces side by side: the conclusion, their figures, and the inputs in which they differ."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("", overflow="ellipsis", no_wrap=True, max_width=24)
    for side in (comparison.first, comparison.second):
        table.add_column(Text(side.name), overflow="fold", max_width=26)
    for name, first, second in rows_of(comparison):
        table.add_row(Text(name), Text(first), Text(second))
    differing = [fact for fact in comparison.facts if not fact.same]
    if differing:
        table.add_section()
        for fact in differing:
            table.add_row(Text(f"{fact.name} differs"), Text(fact.first), Text(fact.second))
    return Group(Text(comparison.text, style="bold" if comparison.better else ""), Text(), table)


def print_report(data: ReportData, console: Console) -> None:
    """Write `render_terminal` to a console."""
    console.print(render_terminal(data))


def _table(view: RuleView, best: Result | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    table.add_column("Pair set", overflow="ellipsis", no_wrap=True, max_width=20)
    table.add_column("Probe", overflow="ellipsis", no_wrap=True, max_width=12)
    table.add_column("Worst group, %", justify="left", no_wrap=True)
    for name in ("Average", "Flips", "r"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in view.results:
        name = set_name(row.pair_set)
        probe = probe_name(row.method) + ("" if row.seed is None else f" #{row.seed}")
        table.add_row(
            Text(name),
            Text(probe),
            _worst(row),
            share(row.average),
            share(row.flip_rate),
            count(row.r),
            style="bold" if row == best else "",
        )
    return table


def _rules_table(rules: Sequence[RuleView], best: Result | None) -> Group:
    """Worst group on test of what every rule would have chosen, on the pair set of the verdict.

    Rules that judge a probe without pairs say the same for every pair set.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    shown = next((row.pair_set for row in (best, *rules[0].results) if row and row.pair_set), None)
    title = Text(f"Worst group, %, had the rule been ({set_name(shown)})", style="dim")
    table.add_column("Probe", overflow="ellipsis", no_wrap=True, max_width=17)
    worst: dict[str, dict[str, Result]] = {}
    for view in rules:
        marked = "*" if rule(view.name).test_labels else ""
        table.add_column(Text(f"{rule(view.name).short}{marked}"), justify="right", no_wrap=True)
        for row in view.results:
            if row.pair_set in (None, shown):
                worst.setdefault(row.method, {}).setdefault(view.name, row)
    for method, by_rule in worst.items():
        found = [by_rule.get(view.name) for view in rules]
        cells = ["" if row is None else share(row.worst_group) for row in found]
        table.add_row(Text(probe_name(method)), *cells)
    if any(rule(view.name).test_labels for view in rules):
        return Group(title, table, Text("* looks at test labels: a ceiling", style="dim"))
    return Group(title, table)


def _worst(row: Result) -> Text:
    interval = range_text(row.worst_group_low, row.worst_group_high)
    text = Text(f"{share(row.worst_group):>5}")
    if interval:
        text.append(f" ({interval})", style="dim")
    return text


def _legend(view: RuleView) -> Text:
    words = rule(view.name)
    marked = ", with test labels: a ceiling" if words.test_labels else ""
    return Text(
        f"Test accuracy with 95 % intervals; r directions removed, chosen by {words.title}{marked}. "
        "Flips: pairs whose two sides are classified differently.",
        style="dim",
    )
