"""What the user sees on a terminal: progress bars, lines, tables."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

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

__all__ = ["RichProgress", "group_view", "make_console", "results_view", "state_view"]

STATE_STYLE = {"done": "green", "stale": "yellow", "missing": "red", "unknown": "red"}


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


def group_view(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of group sizes: a row a label and environment, a column a split."""
    splits = list(dict.fromkeys(row["split"] for row in rows))
    table = Table("label", "environment", *splits, title="items in every group", title_justify="left")
    for column in table.columns[2:]:
        column.justify = "right"
    groups = dict.fromkeys((row["label_name"], row["env_name"]) for row in rows)
    for label, env in groups:
        sizes = [
            next((r["n"] for r in rows if (r["split"], r["label_name"], r["env_name"]) == (s, label, env)), 0)
            for s in splits
        ]
        cells = [Text(str(n), style="bold red" if n == 0 else "") for n in sizes]
        table.add_row(Text(label), Text(env), *cells)
    return table


def state_view(states: Sequence[Any]) -> Table:
    """Table of stages with their state, number of rows and reason."""
    table = Table("stage", "state", "rows", "why")
    table.columns[2].justify = "right"
    for state in states:
        rows = "" if state.rows is None else f"{state.rows:,}"
        table.add_row(
            Text(state.stage), Text(state.state, style=STATE_STYLE[state.state]), rows, Text(state.detail)
        )
    return table


def results_view(rows: Sequence[dict[str, Any]]) -> Table:
    """Table of the means over seeds, one row a pair set, probe and selection rule."""
    table = Table("pair set", "probe", "chosen by", "r", "worst group (95 %)", "average", "flips")
    for column in table.columns[3:]:
        column.justify = "right"
    for row in rows:
        if row["seed"] is not None:
            continue
        interval = f"({row['worst_group_low']:.3f}-{row['worst_group_high']:.3f})"
        rule = row["selection"] + (" (uses test labels)" if row["selection"] == "oracle" else "")
        table.add_row(
            Text(row["pair_set"] or "-"),
            Text(row["method"]),
            Text(rule),
            str(row["r"]),
            f"{row['worst_group']:.3f} {interval}",
            f"{row['average']:.3f}",
            "-" if row["flip_rate"] is None else f"{row['flip_rate']:.3f}",
        )
    return table
