"""Each level for its reason, and in the order of what matters most."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cfpairs.quality.curves import LabelCheck
from cfpairs.quality.evidence import Evidence
from cfpairs.quality.labels import LabelKept
from cfpairs.quality.more import NOTHING
from cfpairs.quality.partners import Partners
from cfpairs.quality.result import CellRow, FlagRow, ForecastRow, SplitHalf, Systematics, TradeoffRow
from cfpairs.quality.verdict import judge
from cfpairs.quality.words import percent

KEPT = LabelCheck(np.array([0.02, 0.05]), LabelKept(0.05, 0.1))
GOOD = Evidence(
    n_pairs=200,
    n_sources=200,
    dim=500,
    rank=2,
    core=1,
    recommended_r=2,
    confident=True,
    split_half=SplitHalf(1, 0.98, 0.14, 0.1, 0.01, (0.98,), 10),
    misalignment=0.1,
    tradeoff=(
        TradeoffRow(1, 0.96, 0.5, 0.02, 0.3, 0.9),
        TradeoffRow(2, 0.98, 0.5, 0.05, 0.4, 0.8),
    ),
    labels=KEPT,
    partners=Partners(0.9, 0.02),
    bend=0.05,
    edge_rank=3,
    systematics=Systematics(0.1, 0.5, None, ()),
    more=NOTHING,
    has_labels=True,
    has_environments=True,
    forecast=(ForecastRow(200, 0.1, 0.05, 0.15), ForecastRow(400, 0.07, 0.02, 0.12)),
    flags=(),
    cells=(),
)


def row(**changes: float | None) -> tuple[TradeoffRow, ...]:
    return tuple(replace(r, **changes) for r in GOOD.tradeoff)


FAR = replace(GOOD, misalignment=0.5)
WORSE: list[tuple[str, str, Evidence]] = [
    ("needs_pairs", "no pairs", replace(GOOD, n_pairs=0, rank=0)),
    ("changes_label", "different labels", replace(GOOD, labels=LabelCheck(None, LabelKept(0.9, 0.1)))),
    ("changes_label", "30 % of the label", replace(GOOD, tradeoff=row(label_removed_deconfounded=0.3))),
    (
        "fix_pairs",
        "30 of 200",
        replace(GOOD, flags=tuple(FlagRow(str(i), "outlier", 6.0, "far") for i in range(30))),
    ),
    ("needs_pairs", "stands above the noise", replace(GOOD, rank=0)),
    ("needs_pairs", "cannot tell signal", replace(GOOD, rank=0, confident=False)),
    ("fix_pairs", "making a pair", replace(GOOD, systematics=Systematics(0.1, 0.5, 0.9, ()))),
    ("fix_pairs", "miss the environment", replace(GOOD, tradeoff=row(environment_removed=0.2))),
    ("fix_pairs", "5.0 times", replace(GOOD, tradeoff=row(environment_left=5.0))),
    ("needs_pairs", "may halve that", replace(GOOD, tradeoff=row(environment_left=3.5))),
    ("needs_pairs", "cannot tell how reliable", replace(GOOD, misalignment=None)),
    ("needs_pairs", "only 50 sources", replace(FAR, n_sources=50)),
    (
        "needs_pairs",
        "about 800 pairs",
        replace(FAR, forecast=(ForecastRow(400, 0.4, 0.3, 0.5), ForecastRow(800, 0.25, 0.2, 0.3))),
    ),
    ("usable", "would help little", replace(FAR, forecast=(ForecastRow(800, 0.4, 0.3, 0.5),))),
    ("usable", "more than the environment", replace(GOOD, partners=Partners(0.52, 0.02))),
    ("usable", "2.5 times", replace(GOOD, tradeoff=row(environment_left=2.5))),
    ("usable", "cannot be told apart", replace(GOOD, tradeoff=row(label_removed_deconfounded=None))),
    ("usable", "15 % of the label", replace(GOOD, tradeoff=row(label_removed_deconfounded=0.15))),
]
IMPERATIVES = {"Make", "Drop", "Look", "Mend", "Edit", "Check"}


def test_nothing_wrong_is_good() -> None:
    verdict, advice, remarks = judge(GOOD)
    assert verdict.level == "good"
    assert verdict.recommended_r == 2
    assert "96 %" in verdict.text and "2 %" in verdict.text
    assert advice == () and [row.about for row in remarks] == ["removal", "removal", "noise"]
    assert remarks[0].text == (
        "Removing r = 2 takes away 98 % of the environment's shift and 5 % of the label signal; "
        "the environments stay 0.8 times as far apart as the labels."
    )


@pytest.mark.parametrize(("level", "said", "seen"), WORSE, ids=[said for _, said, _ in WORSE])
def test_each_fault_has_its_level_and_says_why(level: str, said: str, seen: Evidence) -> None:
    verdict, advice, remarks = judge(seen)
    assert verdict.level == level
    assert said in verdict.text
    assert verdict.recommended_r == (0 if level == "changes_label" or seen.rank == 0 else 2)
    assert all(row.text.endswith(".") and not row.text[0].islower() for row in (*advice, *remarks))
    assert level in ("usable", "good") or advice
    assert {row.text.partition(" ")[0] for row in advice} <= IMPERATIVES
    assert not any(row.text.startswith(tuple(IMPERATIVES)) for row in remarks)


@pytest.mark.parametrize(
    ("rank", "said"),
    [
        (2, "which of the 2 directions are its long axes cannot be told"),
        (1, "whether the one direction found is its long axis cannot be told"),
    ],
)
def test_uneven_noise_is_spoken_of_in_the_number_of_its_directions(rank: int, said: str) -> None:
    verdict = judge(replace(GOOD, uneven=True, rank=rank))[0]
    assert verdict.level == "needs_pairs" and said in verdict.text
    assert "uneven" not in judge(GOOD)[0].text


def test_weak_evidence_of_a_changed_label_is_no_verdict() -> None:
    assert judge(replace(GOOD, labels=LabelCheck(None, LabelKept(0.9, 0.6))))[0].level == "good"
    some = judge(replace(GOOD, labels=LabelCheck(None, LabelKept(0.45, 0.1))))
    assert some[0].level == "good"
    assert (
        some[1][0].text.startswith("Drop pairs that change the label: on average")
        and "45 %" in some[1][0].text
    )


def test_what_only_one_cell_shows_is_said() -> None:
    cells = (CellRow(1, 0, 1, 20, 30, 0.3), CellRow(0, 0, 1, 0, 12, None))
    advice = judge(replace(GOOD, cells=cells))[1]
    assert [(row.kind, row.label, row.env_a, row.env_b) for row in advice] == [
        ("cover", 0, 0, 1), ("cover", 1, 0, 1),
    ]  # fmt: skip
    assert "for label 0 between environments 0 and 1: there is none" in advice[0].text
    assert "the 20 pairs there show a shift that the others show only to 30 %" in advice[1].text


def test_what_matters_most_is_advised_first() -> None:
    few = tuple(FlagRow(str(i), "outlier", 6.0, "far") for i in range(3))
    forecast = (ForecastRow(400, 0.4, 0.3, 0.5), ForecastRow(800, 0.25, 0.2, 0.3))
    far = judge(replace(FAR, flags=few, forecast=forecast))[1]
    assert [(row.kind, row.n_pairs) for row in far] == [("add", 800), ("review", None)]
    assert "800 pairs like these instead of 200" in far[0].text and "3 flagged pairs" in far[1].text
    many = tuple(FlagRow(str(i // 2), ("outlier", "duplicate")[i % 2], 6.0, "far") for i in range(60))
    broken = judge(replace(FAR, flags=many, forecast=forecast))[1]
    assert [row.kind for row in broken] == ["review", "add"]
    assert "30 flagged pairs" in broken[0].text and "duplicate (30) and outlier (30)" in broken[0].text
    assert judge(replace(GOOD, rank=0))[1][1].n_pairs is None


def test_shares_are_never_rounded_to_all_or_nothing() -> None:
    assert [percent(s) for s in (0.0, 0.001, 0.5, 0.999, 1.0)] == [
        "0 %",
        "under 1 %",
        "50 %",
        "over 99 %",
        "100 %",
    ]
