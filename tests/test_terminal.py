"""Tables on a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from cfpairs.terminal import FOLD, cells_view, group_view, results_view, state_view
from cfpairs.workflow.stages import StageState


def drawn(table: Any, width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    return lines


def cell(label: str | None = "dog", ok: int = 5, rejected: int = 0, dropped: int = 0) -> dict[str, Any]:
    names = {"label_name": label, "env_a_name": "photo", "env_b_name": "sketch"}
    return {**names, "ok": ok, "rejected": rejected, "dropped": dropped}


def words(lines: list[str]) -> list[list[str]]:
    return [[w.strip() for w in line.strip("│").split("│")] for line in lines if line.startswith("│")]


def test_a_row_a_cell() -> None:
    lines = drawn(cells_view([cell(), cell("cat", 1200, 3), cell(None, 0, 2)]))
    assert "dropped" not in "".join(lines)
    assert words(lines) == [
        ["dog", "photo", "sketch", "5", "0"],
        ["cat", "photo", "sketch", "1,200", "3"],
        ["not known", "photo", "sketch", "0", "2"],
    ]
    assert "dropped" in "".join(drawn(cells_view([cell(dropped=1)])))


def test_of_many_cells_the_notable_are_shown_and_the_others_summed() -> None:
    rows = [cell(f"L{i}", ok=10 + i) for i in range(84)]
    rows[50], rows[60] = cell("none", ok=0), cell("most", ok=90, rejected=40)
    found = words(drawn(cells_view(rows)))
    assert len(found) == FOLD + 1
    assert [row[0] for row in found[:18]] == [f"L{i}" for i in range(18)]
    assert [row[0] for row in found[18:20]] == ["none", "most"]
    assert found[20] == [
        "64 more cells",
        "",
        "",
        f"{sum(r['ok'] for r in rows) - sum(range(10, 28)) - 90:,}",
        "0",
    ]


@pytest.mark.parametrize("n", [FOLD, FOLD + 1])
def test_a_single_row_is_not_folded(n: int) -> None:
    assert len(words(drawn(cells_view([cell(f"L{i}") for i in range(n)])))) == n
    assert len(words(drawn(group_view(groups(n, 1))))) == n


def test_long_names_are_folded_and_numbers_are_not() -> None:
    name = "a_class_with_a_name_that_goes_on_and_on_and_on"
    rows = [{**cell(name, 123456, 7), "env_a_name": name, "env_b_name": f"[red]{name}"}]
    lines = drawn(cells_view(rows))
    assert "123,456" in "".join(lines)
    assert "".join(row[0] for row in words(lines)) == name
    assert "".join(row[2] for row in words(lines)) == f"[red]{name}"


def groups(labels: int, envs: int) -> list[dict[str, Any]]:
    return [
        {"split": split, "label_name": f"L{y}", "env_name": f"E{e}", "n": size * (10 * y + e)}
        for split, size in (("train", 1), ("test", 100))
        for y in range(labels)
        for e in range(envs)
    ]


def test_of_many_groups_the_smallest_are_shown() -> None:
    found = words(drawn(group_view(groups(7, 4))))
    assert len(found) == FOLD + 1
    assert found[0] == ["L0", "E0", "0", "0"] and found[19] == ["L4", "E3", "43", "4,300"]
    assert found[20] == ["8 larger groups", "", "50 to 63", "5,000 to 6,300"]


def test_names_are_no_markup() -> None:
    rows = [{"split": "train", "label_name": "[bold]x", "env_name": "[/]", "n": 3}]
    assert words(drawn(group_view(rows))) == [["[bold]x", "[/]", "3"]]


def result(
    method: str, worst: float, score: float, *, rule: str = "pairs", seed: int | None = None
) -> dict[str, Any]:
    better = worst - 0.2
    return {
        "pair_set": "edit", "method": method, "selection": rule, "seed": seed, "r": 8,
        "worst_group": worst, "worst_group_low": worst - 0.05, "worst_group_high": worst + 0.05,
        "average": 0.8, "flip_rate": None if rule == "oracle" else 0.25, "seconds": 1.25,
        "gain": None if method == "erm" else better,
        "gain_low": None if method == "erm" else better - 0.1,
        "gain_high": None if method == "erm" else better + 0.1,
        "params": {"score": score, "settings_tried": 90, "fits": 1350},
    }  # fmt: skip


def test_results_show_one_rule_by_its_own_score_never_by_test_figures() -> None:
    rows = [
        result("erm", 0.2, 0.3), result("random-projection", 0.25, 0.35), result("ncm", 0.7, 0.6),
        result("ncm", 0.1, 0.9, seed=0), result("ncm", 0.75, 0.7, rule="oracle"),
    ]  # fmt: skip
    lines = drawn(results_view(rows))
    assert "chosen by pairs" in lines[0]
    found = [line.split() for line in lines if "0.8" in line]
    assert [row[0] for row in found] == ["ncm", "random-projection", "erm"]
    assert found[0][1:] == ["8", "0.700", "0.65-0.75", "+0.50*", "0.800", "0.25", "90", "1350", "1.2"]
    assert found[1][4] == "+0.05" and found[2][4] == "0.800"
    assert "uses test labels" in drawn(results_view(rows, "oracle"))[0]


def test_a_table_of_stages() -> None:
    states = [
        StageState("manifest", "done", "", 2940, 39_936, "2026-01-02T03:04:05+00:00"),
        StageState("pairs:edit", "stale", "its settings changed; 12 dropped by hand", 241, 4_700_000),
        StageState("report", "missing", ""),
    ]
    lines = drawn(state_view(states))
    assert "2,940  39.0 KiB  2026-01-0" in lines[3]
    assert (
        "stale" in lines[4]
        and "4.5 MiB" in lines[4]
        and "12 dropped by hand" in " ".join("".join(lines).split())
    )
    assert lines[-2].split() == ["report", "missing"]
