"""The calibration of pair quality on a reduced grid, with fresh seeds."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines import validate_quality as study

SEEDS = (1, 2, 3)


def figures(case: study.Case) -> list[dict[str, float]]:
    return [study.measure(case, seed) for seed in SEEDS]


@pytest.mark.parametrize(
    ("case", "off"),
    [
        (study.Case("even", 256, 100, 10, 3.2, 6.0), 1),
        (study.Case("even", 256, 32, 5, 7.0, 13.5), 1),
        (study.Case("tails", 256, 300, 10, 3.2, 6.0), 2),
    ],
    ids=["even", "few", "tails"],
)
def test_rank_sigma_and_alignment_are_calibrated(case: study.Case, off: int) -> None:
    rows = figures(case)
    assert study.mean(rows, "rank") == pytest.approx(case.s, abs=off)
    assert study.mean(rows, "dist") == pytest.approx(study.mean(rows, "truth"), abs=0.06)
    if case.name == "even":
        assert study.mean(rows, "sigma") == pytest.approx(0.0, abs=0.03)
    else:
        assert study.mean(rows, "edge") > case.s + 5  # even noise would be taken for granted in vain


def test_noise_alone_has_no_direction_and_forecasts_hold() -> None:
    assert study.mean(figures(study.Case("even", 256, 60, 0, 0.0, 0.0)), "rank") <= 0.5
    rows = figures(study.Case("even", 400, 200, 8, 4.0, 8.0))
    for factor in (2, 4):
        assert study.mean(rows, f"forecast{factor}") == pytest.approx(
            study.mean(rows, f"truth{factor}"), abs=0.06
        )
    assert study.mean(rows, "covered") > 0.5


def test_broken_edits_are_found() -> None:
    rows = [study.break_pairs(0.3, 200, seed) for seed in SEEDS[:2]]
    assert study.mean(rows, "recall") > 0.9 and study.mean(rows, "precision") > 0.9
    assert study.mean(rows, "first") > 0.9


def test_rows_of_the_table() -> None:
    case = study.GRID[1]
    row = {"rank": 9.0, "edge": 10.0, "sigma": -0.01, "hit": 1.0, "covered": 0.0, "gavish_donoho": 5.0}
    cells = [cell.strip() for cell in study.line(case, [row | {"screenot": np.nan}]).strip("|").split("|")]
    assert len(cells) == len(study.HEAD)
    assert cells[:6] == ["even", "256", "100", "10", "-1.0 %", "9.0"]
