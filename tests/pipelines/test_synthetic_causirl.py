"""The study of CausIRL, at a size that fits a test."""

from __future__ import annotations

import csv

import numpy as np

from pipelines import synthetic_causirl as study_of


def test_the_penalty_takes_the_environment_away(tmp_path, capsys):
    assert study_of.main(["--out", str(tmp_path), "--quick"]) == 0
    rows = {
        float(row["lambda"]): row
        for row in csv.DictReader((tmp_path / "results.csv").read_text().splitlines())
    }
    free, held = rows[0.0], rows[10.0]
    assert float(free["adversary"]) > 0.7 and float(free["target"]) > 0.7
    assert float(held["adversary"]) < float(free["adversary"]) - 0.1
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (tmp_path / name).stat().st_size > 100
    assert "adversary, lambda = 10" in capsys.readouterr().out


def test_the_factors_are_those_of_the_equations():
    sample = study_of.draw_sample(20000, np.random.default_rng(0))
    for y, d in ((0, 0), (0, 1), (1, 0), (1, 1)):
        own = sample.X[(sample.y == y) & (sample.d == d)]
        np.testing.assert_allclose(own.mean(axis=0), [y, 2 * y + 2 * d, d], atol=0.1)
        np.testing.assert_allclose(own.std(axis=0), 1, atol=0.1)


def test_a_wrong_setting_is_one_line(tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(study_of.CONFIG.read_text().replace("batch: 64", "batch: 1"))
    assert study_of.main(["--config", str(wrong)]) == 1
    assert "a setting of the study cannot be used: batch" in capsys.readouterr().err
