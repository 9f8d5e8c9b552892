"""The study of Waterbirds-CF on a few tiny images in the published layout."""

from __future__ import annotations

import csv

import pytest
from dataset_fakes import fake_waterbirds

from pipelines import waterbirds_cf as study_of

SMALL = """\
data: {preset: waterbirds, train_with: [edit]}
pairs:
- {method: edit, options: {choose: minority, checks: {label: null, embedding: false}}}
- {method: random, options: {differ: [env, subject]}}
encoder: {spec: lite, runtime: torch}
probe: {C: [0.01], seeds: [0], folds: 2, budget: 3}
"""


@pytest.mark.study
def test_the_study_takes_its_numbers_from_the_folder(tmp_path, capsys, monkeypatch):
    root, config, out = (
        fake_waterbirds(tmp_path / "birds", masks="masks"),
        tmp_path / "c.yaml",
        tmp_path / "out",
    )
    config.write_text(SMALL)
    monkeypatch.setattr(study_of, "PLAIN", ("erm",))
    given = ["--root", str(root), "--config", str(config), "--out", str(out)]
    assert study_of.main(given) == 0, capsys.readouterr().err
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert {(row["method"], row["pair_set"]) for row in rows} == {
        ("erm", ""),
        ("ncm", "edit"),
        ("ncm", "random"),
    }
    assert {row["pair_set"] for row in csv.DictReader((out / "curve.csv").read_text().splitlines())} == {
        "edit",
        "random",
    }
    said = capsys.readouterr()
    assert "birds, 26 train, 8 test images, lite" in said.out and "81.2 %" in said.out
    assert "pairs random: 5 ok" in said.err
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (out / name).stat().st_size > 100


def test_wrong_input_is_one_line(tmp_path, capsys):
    assert study_of.main(["--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
