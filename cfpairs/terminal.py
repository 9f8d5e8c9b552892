"""What the user sees on a terminal: progress bars, lines, tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from cfpairs.progress import Advance

__all__ = [
    "RichProgress",
    "cells_view",
    "group_view",
    "make_console",
    "results_view",
    "size_text",
    "state_view",
]

STATE_STYLE = {"done": "green", "stale": "yellow", "missing": "red", "unknown": "red"}

FOLD = 20
"""Rows of a table of groups or cells before the others are folded into one."""


def make_console(*, stderr: bool = False) -> Console:
    """A console that does not wrap lines where the output is no terminal."""
    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console = Console(stderr=stderr, highlight=False, width=200)
    return console


class RichProgress:
    """Bars with rate and time left on standard error, on a terminal only.

    Parameters
    ----------
    quiet : bool
        Show nothing and say nothing.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = make_console(stderr=True)
        self.quiet = quiet

    @contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        """Show a bar until the block ends."""
        if self.quiet or not self.console.is_terminal:
            yield lambda _step: None
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as bars:
            task = bars.add_task(description, total=total, rate="")

            def advance(step: int) -> None:
                speed = bars.tasks[0].speed
                bars.update(task, advance=step, rate=f"{speed:.0f}/s" if speed and speed >= 1 else "")

            yield advance

    def say(self, line: str) -> None:
        """Print a line on standard error."""
        if not self.quiet:
            self.console.print(Text(line), soft_wrap=True)


def group_view(rows: Sequence[dict[str, Any]], most: int = FOLD) -> Table:
    """Table of group sizes: a row a label and environment, a column a split.

    Of more than `most` groups the smallest are shown, those of the first split leading, and the others in a
    line of their own.
    """
    splits = list(dict.fromkeys(row["split"] for row in rows))
    table = _table("items in every group", ("label", "environment"), splits)
    sizes: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        group = sizes.setdefault((row["label_name"], row["env_name"]), [0] * len(splits))
        group[splits.index(row["split"])] = row["n"]
    shown = set(sorted(sizes, key=lambda group: sizes[group])[: _unfolded(len(sizes), most)])
    for label, env in sizes:
        if (label, env) in shown:
            counts = (Text(f"{n:,}", style="bold red" if n == 0 else "") for n in sizes[label, env])
            table.add_row(Text(label), Text(env), *counts)
    left = [size for group, size in sizes.items() if group not in shown]
    if left:
        table.add_section()
        table.add_row(
            f"{len(left)} larger groups", "", *(_span(column) for column in zip(*left, strict=True))
        )
    return table


def cells_view(rows: Sequence[dict[str, Any]], most: int = FOLD) -> Table:
    """Table of the pairs of every cell: a row a label and two environments, a column a status.

    Of more than `most` cells those are shown that have no usable pair, then those with the most rejected
    and the fewest usable ones; the sums of the others stand in a line of their own.

    Parameters
    ----------
    rows : sequence of dict
        ``label_name, env_a_name, env_b_name, ok, rejected, dropped``.
    """
    statuses = ["ok", "rejected", *(["dropped"] if any(row["dropped"] for row in rows) else [])]
    table = _table("pairs of every cell", ("label", "from", "to"), statuses)
    ranked = sorted(range(len(rows)), key=lambda i: _notable(rows[i]))
    shown = set(ranked[: _unfolded(len(rows), most)])
    for i, row in enumerate(rows):
        if i in shown:
            names = (
                "not known" if row[n] is None else row[n] for n in ("label_name", "env_a_name", "env_b_name")
            )
            style = {
                "ok": "bold red" if row["ok"] == 0 else "",
                "rejected": "yellow" if row["rejected"] else "",
            }
            counts = (Text(f"{row[s]:,}", style=style.get(s, "")) for s in statuses)
            table.add_row(*map(Text, names), *counts)
    left = [row for i, row in enumerate(rows) if i not in shown]
    if left:
        table.add_section()
        sums = (f"{sum(row[s] for row in left):,}" for s in statuses)
        table.add_row(f"{len(left)} more cells", "", "", *sums)
    return table


def _unfolded(rows: int, most: int) -> int:
    """How many rows are shown: folding a single one would save nothing."""
    return rows if rows <= most + 1 else most


def _notable(cell: dict[str, Any]) -> tuple[bool, int, int]:
    return cell["ok"] > 0, -cell["rejected"], cell["ok"]


def _span(sizes: Sequence[int]) -> str:
    low, high = min(sizes), max(sizes)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _table(title: str, names: Sequence[str], numbers: Sequence[str]) -> Table:
    """A table whose names give way to its numbers where the terminal is narrow."""
    table = Table(title=title, title_justify="left")
    for name in names:
        table.add_column(name, overflow="fold")
    for name in numbers:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def state_view(states: Sequence[Any]) -> Table:
    """Table of stages with their state, number of rows, size on disk, when they were made, and why."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name, side in (("stage", "left"), ("state", "left"), ("rows", "right"), ("size", "right")):
        table.add_column(name, justify="right" if side == "right" else "left", no_wrap=side == "right")
    table.add_column("time", no_wrap=True)
    table.add_column("why", overflow="fold")
    for state in states:
        table.add_row(
            Text(state.stage),
            Text(state.state, style=STATE_STYLE[state.state]),
            "" if state.rows is None else f"{state.rows:,}",
            "" if state.size is None else size_text(state.size),
            "" if state.time is None else _local_time(state.time),
            Text(state.detail),
        )
    return table


def size_text(size: int) -> str:
    """A number of bytes for people.

    Examples
    --------
    >>> size_text(999), size_text(20480), size_text(3 * 2**30)
    ('999 B', '20.0 KiB', '3.0 GiB')
    """
    if size < 1024:
        return f"{size} B"
    value, units = float(size), ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while value >= 1024 and power < len(units) - 1:
        value, power = value / 1024, power + 1
    return f"{value:.1f} {units[power]}"


def _local_time(iso: str) -> str:
    return datetime.fromisoformat(iso).astimezone().strftime("%Y-%m-%d %H:%M")


def results_view(rows: Sequence[dict[str, Any]], rule: str | None = None) -> Table:
    """Table of the means over seeds of what one rule chose, by pair set and the rule's own score.

    Parameters
    ----------
    rows : sequence of dict
        Rows of ``RESULTS`` with ``params`` as a mapping.
    rule : str, optional
        Default: the rule of the first row.
    """
    means = [row for row in rows if row["seed"] is None]
    rule = rule or (means[0]["selection"] if means else "")
    marked = " (uses test labels)" if rule == "oracle" else ""
    names = ("probe", "r", "worst (95 %)", "vs erm", "avg", "flips", "tried", "fits", "s")
    table = Table(*names, title=f"test accuracy, settings chosen by {rule}{marked}", title_justify="left")
    table.box, table.pad_edge, table.padding = SIMPLE_HEAD, False, (0, 1, 0, 0)
    for column in table.columns[1:]:
        # Where room is short, names are folded, figures never.
        column.justify, column.no_wrap = "right", True
    chosen = [row for row in means if row["selection"] == rule]
    sets = list(dict.fromkeys(row["pair_set"] for row in chosen))
    for number, name in enumerate(sets):
        if number:
            table.add_section()
        own = [row for row in chosen if row["pair_set"] == name]
        table.add_row(Text(f"pairs {name}" if name else "all pair sets", style="bold"))
        for row in sorted(own, key=lambda row: -float(row["params"].get("score", 0.0))):
            table.add_row(*_result_cells(row))
    return table


def _result_cells(row: dict[str, Any]) -> list[Text | str]:
    params = row["params"]
    gain = row.get("gain")
    sure = gain is not None and row["gain_low"] * row["gain_high"] > 0
    return [
        Text(row["method"]),
        str(row["r"]),
        f"{row['worst_group']:.3f} {row['worst_group_low']:.2f}-{row['worst_group_high']:.2f}",
        ""
        if gain is None
        else Text(f"{gain:+.2f}{'*' if sure else ''}", style="green" if sure and gain > 0 else ""),
        f"{row['average']:.3f}",
        "-" if row["flip_rate"] is None else f"{row['flip_rate']:.2f}",
        str(params.get("settings_tried", "")),
        str(params.get("fits", "")),
        f"{row['seconds']:.1f}",
    ]
