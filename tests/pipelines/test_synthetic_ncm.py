"""The synthetic study of NCM, at a size that fits a test."""

from __future__ import annotations

import csv
import io
from itertools import pairwise

import pytest

from cfpairs import CfpairsError
from pipelines import synthetic_ncm as study_of

RANKS = (5, 10, 15, 18, 20, 22, 25, 50)


@pytest.fixture(scope="module")
def study():
    changes = {**study_of.QUICK, "seeds": 2, "noises": (0, 1, 5), "pairs": (10, 20, 50, 100), "ranks": RANKS}
    return study_of.read_study(study_of.CONFIG, **changes)


@pytest.fixture(scope="module")
def table(study):
    return study_of.summarise(row for seed in range(study.seeds) for row in study_of.measure(study, seed))


def level(table, name):
    return study_of.curve(table, name)[0]["test_mean"]


def test_twenty_exact_pairs_reach_the_oracle_and_ten_do_not(table):
    points = {row["k"]: row["test_mean"] for row in study_of.curve(table, "a", 0)}
    assert all(points[k] > level(table, "oracle") - 0.01 for k in (20, 50, 100))
    assert points[10] < level(table, "oracle") - 0.2
    assert level(table, "erm") < level(table, "oracle") - 0.2


@pytest.mark.parametrize("eps", [1, 5])
def test_accuracy_in_r_is_an_arch_with_its_top_at_the_size_of_the_block(table, eps):
    points = study_of.curve(table, "b", eps)
    assert [row["r"] for row in points] == list(RANKS)
    assert study_of.best_rank(table, eps) == 20
    top = RANKS.index(20)
    accuracy = [row["test_mean"] for row in points]
    assert accuracy[0] < accuracy[top] - 0.2
    assert accuracy[top:] == sorted(accuracy[top:], reverse=True)
    assert accuracy[-1] < accuracy[top] - 0.1


def test_in_domain_accuracy_only_falls_with_r(table):
    inside = [row["in_domain_mean"] for row in study_of.curve(table, "b", 1)]
    assert all(later <= earlier + 0.005 for earlier, later in pairwise(inside))


def test_exact_pairs_stop_at_their_rank_and_noise_costs_accuracy(table):
    assert max(row["r"] for row in study_of.curve(table, "b", 0)) == 20
    at = [next(r for r in study_of.curve(table, "b", eps) if r["r"] == 20)["test_mean"] for eps in (0, 1, 5)]
    assert at[2] < at[1] - 0.01
    assert at[1] < at[0] + 0.005


def test_the_directions_of_exact_pairs_are_the_spurious_block(study):
    world = study_of.World(study, 0)
    assert world.distance(20, 0.0) < 1e-8
    assert world.distance(100, 0.0) < 1e-8
    assert world.distance(20, 1.0) > 0.05


def test_table_and_figures(study, table):
    read = list(csv.DictReader(io.StringIO(study_of.as_csv(table).decode())))
    assert len(read) == len(table)
    assert float(read[0]["test_mean"]) == pytest.approx(table[0]["test_mean"], abs=1e-6)
    drawing = study_of.draw(table, study, "svg")
    assert drawing == study_of.draw(table, study, "svg")
    assert b"<svg" in drawing
    lines = study_of.comparison(table, study, 0.0)
    assert ("(b) best r, eps = 1", "near 20", "20", "k = 100") in lines


def test_settings_that_cannot_be_used_are_told_in_a_line(tmp_path, capsys):
    with pytest.raises(CfpairsError, match="cannot be used: seeds"):
        study_of.read_study(study_of.CONFIG, seeds=0)
    with pytest.raises(CfpairsError, match="cannot be read"):
        study_of.read_study(tmp_path / "none.yaml")
    with pytest.raises(CfpairsError, match="does not fit"):
        study_of.read_study(study_of.CONFIG, pairs=(10,))
    assert study_of.main(["--seeds", "0", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())
