"""Two runs side by side: which is better, whether that may be chance, and what differs."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from cfpairs.report.compare import RunInput, compare_runs, comparison_json, render_comparison
from cfpairs.report.terminal import render_comparison_terminal
from tests.report.sample import result_rows

GROUPS = {f"t{i:03d}": (f"digit {i % 2}", f"place {i // 2 % 2}") for i in range(400)}


def run(name: str, right_of: int, **changes: Any) -> RunInput:
    """A run whose chosen probe is right on `right_of` tenths of each group."""
    share = {item: float(i // 4 % 10 < right_of) for i, item in enumerate(GROUPS)}
    given: dict[str, Any] = {
        "name": name, "results": result_rows(), "selection": "pairs", "levels": {"edit": "good"},
        "facts": {"encoder": name, "preprocessing": "normalize l2"}, "groups": GROUPS,
        "right": {("edit", "ncm", "pairs"): share},
    }  # fmt: skip
    return RunInput(**(given | changes))


def test_the_better_one_is_named_on_the_same_items_and_what_differs_is_said() -> None:
    found = compare_runs(run("one", 5), run("two", 8))
    assert found.better == "two" and found.paired and found.gain is not None
    assert found.gain["gain"] == pytest.approx(0.3) and found.gain["gain_low"] > 0.1
    assert found.text.startswith(
        "two is better: its worst group is 30.0 points more accurate (95 % interval "
    )
    assert found.text.endswith("measured on the same test items. They differ in encoder.")
    assert compare_runs(run("two", 8), run("one", 5)).better == "two"


def test_a_difference_that_may_be_chance_names_neither() -> None:
    found = compare_runs(run("one", 5), run("two", 5))
    assert found.better is None and "Neither is clearly better" in found.text


def test_other_test_items_are_compared_without_pairing() -> None:
    groups = {f"other {item}": group for item, group in GROUPS.items()}
    right = {("edit", "ncm", "pairs"): {f"other {i}": v for i, v in _only(run("two", 8)).items()}}
    found = compare_runs(run("one", 5), run("two", 8, groups=groups, right=right))
    assert not found.paired and found.better == "two"
    assert "two different sets of test items" in found.text


def _only(given: RunInput) -> Any:
    return given.right["edit", "ncm", "pairs"]


def test_without_predictions_it_says_so() -> None:
    found = compare_runs(run("one", 5), run("two", 8, right={}))
    assert found.gain is None and found.better is None and "cannot be compared" in found.text


def test_page_terminal_and_json_say_the_same_and_escape() -> None:
    evil = "<script>alert(1)</script>"
    found = compare_runs(run("one", 5), run(evil, 8, facts={"pairs": "x" * 200}))
    page = render_comparison(found)
    assert page == render_comparison(found) and page.count("<script") == 1 and "&lt;script&gt;" in page
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(render_comparison_terminal(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, text.splitlines())) <= 80 and "encoder differs" in text
    plain = comparison_json(found)
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert [fact["same"] for fact in plain["facts"]] == [False] * 3
    assert plain["second"]["best"]["worst_group"] == pytest.approx(0.70)


def test_two_of_one_name_are_told_apart_and_a_run_without_ncm_has_its_best_probe() -> None:
    erm = [row for row in result_rows() if row["method"] == "erm"]
    plain = run("one", 5)
    found = compare_runs(plain, replace(plain, results=erm))
    assert (found.first.name, found.second.name) == ("one (first)", "one (second)")
    assert found.second.best is not None and found.second.best.method == "erm"
