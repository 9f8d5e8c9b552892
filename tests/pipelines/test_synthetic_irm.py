"""The study of IRM and NCM, at a size that fits a test."""

from __future__ import annotations

import csv

import numpy as np

from pipelines import synthetic_irm as study_of


def test_pairs_reach_the_oracle_where_environments_are_too_few(tmp_path, capsys):
    assert study_of.main(["--out", str(tmp_path), "--quick"]) == 0
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    test = {(row["method"], int(row["number"])): float(row["test"]) for row in rows}
    assert test["ncm", 8] > test["oracle", 0] - 0.03
    assert test["ncm", 2] < test["ncm", 8] - 0.03
    assert test["irm", 2] < test["oracle", 0] - 0.03
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (tmp_path / name).stat().st_size > 100
    assert "irm, 9 environments" in capsys.readouterr().out


def test_the_sides_of_a_pair_differ_in_the_spurious_block_alone():
    study = study_of.read_study(study_of.CONFIG)
    world = study_of.World(study, 0)
    a, b = world.pairs(16)
    parts = (a - b) @ world.mixing
    np.testing.assert_allclose(parts[:, : study.dim - study.spurious], 0, atol=1e-12)
    assert np.linalg.matrix_rank(a - b) == study.spurious
    x, y, logits = world.rows(None, 4000)
    block = (x @ world.mixing)[:, -study.spurious :] * (2 * y - 1)[:, None]
    np.testing.assert_allclose(block.mean(axis=0), -world.common, atol=0.1)
    assert np.mean((logits > 0) == y) > 0.7


def test_a_wrong_setting_is_one_line(tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(study_of.CONFIG.read_text().replace("dim: 30", "dim: 8"))
    assert study_of.main(["--config", str(wrong)]) == 1
    error = capsys.readouterr().err
    assert "the study cannot be made so" in error and len(error.strip().splitlines()) == 1
