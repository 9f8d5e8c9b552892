"""What the typed findings hold: groups, gallery, curves; and the JSON file."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cfpairs.metrics import wilson_interval
from cfpairs.quality import PairQuality
from cfpairs.report.as_json import QUALITY_FIELDS, render_json
from cfpairs.report.assess import assess
from cfpairs.report.captions import (
    cells_caption,
    forecast_caption,
    scree_caption,
    tradeoff_caption,
)
from cfpairs.report.groups import TINY
from cfpairs.report.model import CellView, PairSetInput, PairSetView, ReportData
from cfpairs.report.probe_captions import curve_caption, map_caption
from cfpairs.report.values import jsonable
from cfpairs.tables import RESULTS
from tests.report.sample import RANKS


def test_the_sample_says_what_it_was_made_to_say(data: ReportData) -> None:
    assert (data.verdict.level, data.verdict.pair_set, data.verdict.recommended_r) == ("good", "edit", 4)
    assert data.best is not None and data.best.worst_group == pytest.approx(0.70)
    assert data.baseline is not None and data.baseline.worst_group == pytest.approx(0.09)


def test_json_has_the_agreed_keys_and_nothing_that_json_cannot_hold(data: ReportData) -> None:
    found = render_json(data)
    assert set(found) == {
        "schema_version", "verdict", "figures", "pair_sets", "results", "curves", "maps", "groups",
        "comparison", "data", "provenance",
    }  # fmt: skip
    assert {"level", "text", "recommended_r"} <= set(found["verdict"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert set(found["pair_sets"]) == {"edit", "nearest", "random"}
    for quality in found["pair_sets"].values():
        assert set(quality) == {*QUALITY_FIELDS, "method", "counts"}
    assert {field.name for field in RESULTS.fields} == set(found["results"][0])
    assert found["results"][0]["params"]["C"] == 0.01
    assert found["curves"] and found["groups"]


def test_json_of_a_pair_set_without_quality_keeps_its_keys(given: dict[str, Any]) -> None:
    bare = PairSetInput("edit", "edit", {"ok": 1}, None, [], "")
    found = render_json(assess(**(given | {"pair_sets": [bare]})))
    assert set(found["pair_sets"]["edit"]) == {*QUALITY_FIELDS, "method", "counts"}
    assert found["pair_sets"]["edit"]["singular_values"] is None


def test_the_fields_of_a_pair_set_are_those_of_its_quality() -> None:
    assert set(QUALITY_FIELDS) == {field.name for field in fields(PairQuality)}


def test_jsonable_turns_what_json_cannot_hold() -> None:
    given = {"a": np.float32("nan"), 1: np.arange(2), "p": Path("x"), "s": {"b", "a"}, "t": (True, None, 2)}
    assert jsonable(given) == {"a": None, "1": [0, 1], "p": "x", "s": ["a", "b"], "t": [True, None, 2]}


def groups(**counts: tuple[int, ...]) -> list[dict[str, Any]]:
    cells = [(y, e) for y in (0, 1) for e in (0, 1)]
    return [
        {
            "split": split,
            "label": y,
            "label_name": "cat" if y else "dog",
            "env": e,
            "env_name": "ab"[e],
            "n": n,
        }
        for split, ns in counts.items()
        for (y, e), n in zip(cells, ns, strict=True)
        if n  # a group without items has no row
    ]


def warnings_of(given: dict[str, Any], **counts: tuple[int, ...]) -> tuple[str, ...]:
    return assess(**(given | {"groups": groups(**counts)})).warnings


def test_empty_and_tiny_groups_are_warned_of_and_others_are_not(given: dict[str, Any]) -> None:
    assert warnings_of(given, train=(90, TINY, 90, 90), test=(90, 90, 90, 90)) == ()
    (tiny,) = warnings_of(given, train=(90, TINY - 1, 90, 90), test=(90, 90, 90, 90))
    assert tiny.startswith("Fewer than 20 train items in dog in b (19)")
    (empty,) = warnings_of(given, train=(90, 90, 90, 90), test=(90, 90, 0, 90))
    assert empty.startswith("No test item in cat in a") and "left out of the worst group" in empty


def test_a_group_without_a_row_counts_zero(given: dict[str, Any]) -> None:
    found = assess(**(given | {"groups": groups(train=(9, 9, 9, 9), test=(9, 0, 9, 9))}))
    assert found.splits == ("train", "test")
    assert [g.counts["test"] for g in found.groups] == [9, 0, 9, 9]


def test_many_bad_groups_are_counted_not_listed(given: dict[str, Any]) -> None:
    rows = [
        {"split": "test", "label": y, "label_name": f"l{y}", "env": e, "env_name": f"e{e}", "n": 1}
        for y in range(3)
        for e in range(3)
    ]
    (warning,) = assess(**(given | {"groups": rows})).warnings
    assert "and 5 more groups" in warning


def test_the_gallery_keeps_flagged_and_rejected_pairs_apart(data: ReportData) -> None:
    edit = data.pair_sets[0]
    assert len(edit.gallery) == 12 and edit.n_sound == 36
    assert {p.status for p in edit.gallery} == {"ok"}
    assert [(g.name, g.n, [p.pair_id for p in g.pairs]) for g in edit.set_apart] == [
        ("outlier", 1, ["edit-011"]), ("duplicate", 1, ["edit-007"]),
        ("rejected", 1, ["edit-038"]), ("dropped", 1, ["edit-039"]),
    ]  # fmt: skip
    assert all(group.meaning for group in edit.set_apart)
    (flag,) = edit.set_apart[1].pairs[0].flags
    assert (flag.name, flag.reason, flag.score) == ("duplicate", "same difference as edit-003", 0.991)
    rejected = edit.set_apart[2].pairs[0]
    assert rejected.notes == ("the mask covers no pixel",)
    assert rejected.b.path is None and rejected.b.env_name == "gravel"


def test_a_gallery_of_zero_shows_nothing_and_still_counts(given: dict[str, Any]) -> None:
    edit = assess(**(given | {"gallery": 0})).pair_sets[0]
    assert (edit.gallery, edit.n_sound, edit.n_apart) == ((), 36, 4)
    assert [(group.pairs, group.n) for group in edit.set_apart] == [((), 1)] * 4


def test_every_reason_has_its_share_of_the_pairs_shown(given: dict[str, Any]) -> None:
    edit = assess(**(given | {"gallery": 3})).pair_sets[0]
    assert [len(group.pairs) for group in edit.set_apart] == [1, 1, 1, 0]


def test_the_map_has_every_fit_of_ncm_and_marks_the_choice(data: ReportData) -> None:
    edit = data.maps[0]
    assert (edit.pair_set, edit.chosen) == ("edit", (4, 1e-4))
    assert [row[0].r for row in edit.rows] == list(RANKS)
    assert [cell.C for cell in edit.rows[0]] == [1e-6, 1e-4, 1e-2]
    at = {(cell.r, cell.C): cell.worst_group for row in edit.rows for cell in row}
    assert at[0, 1e-2] == 0.09 and at[4, 1e-4] == 0.70 and at[64, 1e-2] is None
    assert "Highest at r = 8, C = 0.0001" in map_caption(edit)


def test_averages_have_wilson_intervals(data: ReportData) -> None:
    assert data.best is not None and data.best.average is not None
    low, high = wilson_interval(data.best.average * 1922, 1922)
    assert (data.best.average_low, data.best.average_high) == pytest.approx((float(low), float(high)))
    assert all(p.average_low < p.average < p.average_high for p in data.curves[0].points)  # type: ignore[operator]


def test_items_that_nobody_knows_do_not_stop_the_report(given: dict[str, Any]) -> None:
    def lost(item: str) -> Any:
        raise KeyError(item)

    first = assess(**(given | {"item_of": lost, "image_of": lost})).pair_sets[0].gallery[0]
    assert first.a.path is None
    assert (first.label_name, first.a.env_name) == ("digit 0 to 4", "grass")  # named by the groups' rows


def test_curves_are_sorted_and_begin_with_erm_where_ncm_starts_at_one(given: dict[str, Any]) -> None:
    rows = [row for row in given["curves"] if row["r"] > 0]
    erm = [row | {"method": "erm", "r": 0, "worst_group": 0.11} for row in rows if row["r"] == 1]
    (edit, *_rest) = assess(**(given | {"curves": [*reversed(rows), *erm]})).curves
    assert [p.r for p in edit.points] == list(RANKS)
    assert edit.points[0].worst_group == 0.11 and edit.chosen_r == 4
    (alone, *_rest) = assess(**(given | {"curves": rows})).curves
    assert [p.r for p in alone.points] == list(RANKS[1:])


def test_points_without_an_accuracy_are_left_out(given: dict[str, Any]) -> None:
    rows = [row | ({"worst_group": float("nan")} if row["r"] == 8 else {}) for row in given["curves"]]
    assert 8 not in [p.r for p in assess(**(given | {"curves": rows})).curves[0].points]


def view(**quality: Any) -> PairSetView:
    return PairSetView("edit", "edit", {}, quality, None, 4, True, (), (), (), 0, 0, "")


def test_the_scree_caption_counts_components_above_the_edge() -> None:
    values = [9.0, 8.0, 7.0, 6.0, 5.0, 1.0, 1.0]
    assert scree_caption(view(singular_values=values, noise_edge=2.0)).startswith(
        "5 of 7 components stand above"
    )
    assert "removes only the strongest" in scree_caption(view(singular_values=values, noise_edge=2.0))
    assert "removes all of them" in scree_caption(view(singular_values=values, noise_edge=5.5))
    assert "reaches 3 components into the noise" in scree_caption(
        view(singular_values=values, noise_edge=8.5)
    )
    assert "no direction beyond chance" in scree_caption(view(singular_values=values, noise_edge=10.0))
    assert "no noise edge" in scree_caption(view(singular_values=values, noise_edge=None))


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (2, "r = 4 goes beyond the 2 that are certain, into components that may hold more"),
        (4, "sure of 4 (95 % interval 4 to 5, shaded). r = 4 removes exactly these."),
        (5, "The count of what can be told is 5 (95 % interval 5 to 6, shaded). r = 4 removes only"),
    ],
)
def test_the_scree_caption_says_how_much_is_certain(rank: int, said: str) -> None:
    values = [9.0, 8.0, 7.0, 6.0, 5.0, 1.0, 1.0]
    known = {"singular_values": values, "noise_edge": 2.0, "rank": rank, "rank_interval": [rank, rank + 1]}
    assert said in scree_caption(view(**known))
    beyond = replace(view(**known), r=6)
    assert ("goes beyond" in scree_caption(beyond)) == (rank < 5)


@pytest.mark.parametrize(
    ("env", "label", "fair", "said"),
    [
        (0.95, 0.30, 0.03, "most of what looked like label was the shortcut"),
        (0.95, 0.05, 0.04, "Nearly all of the environment goes and the label hardly suffers."),
        (0.70, 0.16, 0.15, "noticeable but bearable price"),
        (0.95, 0.50, 0.40, "costs too much of the label"),
        (0.30, 0.05, 0.04, "Most of the environment stays"),
        (0.95, 0.50, None, "may be the shortcut itself"),
    ],
)
def test_the_tradeoff_caption_concludes(env: float, label: float, fair: float | None, said: str) -> None:
    rows = [
        {"r": 0, "environment_removed": 0.0, "label_removed": 0.0},
        {"r": 3, "environment_removed": env, "label_removed": label, "label_removed_deconfounded": fair},
        {"r": 8, "environment_removed": 1.0, "label_removed": 1.0},
    ]
    caption = tradeoff_caption(view(tradeoff=rows))
    assert caption.startswith("Removing r = 3 takes") and said in caption


def test_the_forecast_caption_looks_only_ahead() -> None:
    rows = [{"n_pairs": n, "misalignment": m} for n, m in ((100, 0.6), (400, 0.3), (800, 0.2))]
    now = {"n_pairs": 200, "misalignment": 0.45}
    assert forecast_caption(view(forecast=rows, **now)).startswith("With 400 pairs")
    assert "would help" in forecast_caption(view(forecast=rows, **now))
    assert "change little" in forecast_caption(view(forecast=rows, n_pairs=200, misalignment=0.32))
    few = forecast_caption(view(forecast=rows, n_sources=20, **now))
    assert "would help" not in few and "from new sources: these 200 rest on only 20." in few
    assert forecast_caption(view(forecast=rows[:1], **now)) == forecast_caption(view()) == ""


def test_cells_have_names_and_the_thinnest_is_named(data: ReportData) -> None:
    edit, nearest, _random = data.pair_sets
    assert [(c.label_name, c.env_a_name, c.env_b_name, c.n_pairs) for c in edit.cells][2] == (
        "digit 5 to 9", "grass", "gravel", 56,
    )  # fmt: skip
    assert cells_caption(edit) == (
        "Fewest for digit 5 to 9, grass to gravel: 56. The others show 90.0 % of that change too, so they "
        "can stand in."
    )
    assert nearest.cells == () and cells_caption(nearest) == ""


@pytest.mark.parametrize(
    ("n", "covered", "said"),
    [
        (3, 0.2, "The others show only 20.0 % of that change: make more of these."),
        (3, None, "Fewest for cat, snow to sand: 3."),
        (0, None, "A shortcut of this label between these two would not be seen."),
        (9, 0.9, "Both changes have 9 pairs each: none is neglected."),
    ],
)
def test_the_coverage_caption_concludes(n: int, covered: float | None, said: str) -> None:
    cells = (CellView("cat", "snow", "sand", n, 40, covered), CellView("cat", "sand", "snow", 9, 40, 0.9))
    assert cells_caption(replace(view(), cells=cells)).endswith(said)


def test_removing_nothing_is_said_in_words() -> None:
    rows = [{"r": 0, "environment_removed": 0.0, "label_removed": 0.0}]
    assert "nothing is removed" in tradeoff_caption(replace(view(tradeoff=rows), r=0))


def test_the_curve_caption_says_that_the_peak_was_not_used(given: dict[str, Any], data: ReportData) -> None:
    caption = curve_caption(data)
    assert "61.0 points above the plain probe" in caption
    assert "highest at r = 8 (71.0 %)" in caption and "not used to choose" in caption
    flat = [row for row in given["curves"] if row["r"] <= 4]
    assert "No other r on its curve is higher." in curve_caption(assess(**(given | {"curves": flat})))


def test_more_curves_than_can_be_told_apart_are_counted(given: dict[str, Any], data: ReportData) -> None:
    many = [row | {"pair_set": f"set {i}"} for row in given["curves"][: len(RANKS)] for i in range(9)]
    assert "Only 6 of 9 curves are drawn" in curve_caption(assess(**(given | {"curves": many})))
    assert "are drawn" not in curve_caption(data)


def test_the_report_loads_neither_torch_nor_matplotlib_before_it_draws() -> None:
    code = (
        "import sys, cfpairs.report.assess, cfpairs.report.html, cfpairs.report.terminal;"
        "print([m for m in ('torch', 'matplotlib', 'PIL.Image', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib"} & set(eval(done.stdout))
