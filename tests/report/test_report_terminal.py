"""The terminal's summary."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from cfpairs.report.assess import assess
from cfpairs.report.terminal import print_report


def printed(given: dict[str, Any], width: int = 80, **changes: Any) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    print_report(assess(**(given | changes)), console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_the_verdict_comes_first_and_the_table_fits(given: dict[str, Any]) -> None:
    text = printed(given)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("Good pairs. Use the edit pairs and remove r = 4 directions: ")
    table = [line.split() for line in lines if line.startswith(("edit", "nearest", "random"))]
    assert len(table) == 6
    assert table[1] == ["edit", "NCM", "70.0", "(65.9", "to", "74.1)", "79.5", "7.0", "4"]
    at = next(i for i, line in enumerate(lines) if "had the rule been (edit)" in line)
    by_rule = [line.split() for line in lines[at + 1 : at + 4]]
    assert by_rule[0] == ["Probe", "pairs", "domain", "oracle*"]
    assert by_rule[2] == ["NCM", "70.0", "66.0", "71.0"]
    assert "! Fewer than 20 val items in digit 5 to 9 in grass (12)" in text


def test_long_names_do_not_widen_it(given: dict[str, Any]) -> None:
    rows = [r | {"pair_set": "n" * 64, "method": "m" * 30} for r in given["results"]]
    assert max(map(len, printed(given, results=rows).splitlines())) <= 80


def test_names_in_brackets_are_not_markup(given: dict[str, Any]) -> None:
    rows = [r | {"pair_set": "[red]x[/red]"} for r in given["results"]]
    assert "[red]x[/red]" in printed(given, results=rows)


def test_without_results_there_is_a_verdict_and_no_table(given: dict[str, Any]) -> None:
    text = printed(given, results=[], curves=[])
    assert "cfpairs probe" in " ".join(text.split()) and "Worst group" not in text


def test_plain_text_is_enough_for_a_plain_terminal(given: dict[str, Any], tmp_path: Path) -> None:
    assert printed(given).isascii()
    data = assess(**given)
    assert replace(data.verdict, level="fix_pairs").text.isascii()
