"""The study of PICA, at a size that fits a test."""

from __future__ import annotations

import csv

import pytest

from pipelines import synthetic_pica as study_of


def test_one_component_has_one_distribution_and_pcas_has_not(tmp_path, capsys):
    assert study_of.main(["--out", str(tmp_path), "--seeds", "2"]) == 0
    rows = list(csv.DictReader((tmp_path / "results.csv").read_text().splitlines()))
    assert len(rows) == 2
    for row in rows:
        assert float(row["pica_held_out"]) == pytest.approx(1, abs=0.25)
        assert float(row["pca_held_out"]) > 3
        assert float(row["noise"]) == pytest.approx(0.025, abs=0.005)
        assert 0.2 <= float(row["default_variance_2"]) < 0.4
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (tmp_path / name).stat().st_size > 100
    printed = capsys.readouterr().out
    assert "paper" in printed and "variance ratio, PICA" in printed


def test_a_wrong_setting_is_one_line(tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(study_of.CONFIG.read_text().replace("tol: 0.05", "tol: -1"))
    assert study_of.main(["--config", str(wrong), "--out", str(tmp_path)]) == 1
    assert "a setting of the study cannot be used: tol" in capsys.readouterr().err
