"""The study of coloured images on a few tiny ones: table, figure, and that nothing is fitted twice."""

from __future__ import annotations

import csv

import pytest
from idx_files import write_idx

from pipelines import colored_mnist as study_of

SMALL = """\
data: {preset: colored-mnist}
encoder: {spec: lite, runtime: torch}
probe: {C: [0.01], seeds: [0], folds: 2, budget: 2}
"""


@pytest.mark.study
def test_the_study_says_its_data_and_is_not_run_twice(tmp_path, capsys, monkeypatch):
    root, config, out = write_idx(tmp_path / "idx"), tmp_path / "small.yaml", tmp_path / "out"
    config.write_text(SMALL)
    monkeypatch.setattr(study_of, "WITHOUT_PAIRS", ("erm", "irm"))
    given = ["--root", str(root), "--config", str(config), "--out", str(out), "--pairs", "4", "8"]
    assert study_of.main(given) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    kinds = {(row["pairs"], row["k"], row["method"]) for row in rows}
    wanted = {("none", "0", "irm"), ("edit", "4", "ncm"), ("edit", "8", "matchdg"), ("nearest", "8", "ncm")}
    assert wanted <= kinds and ("all", "72", "ceiling") in kinds
    said = capsys.readouterr()
    assert "idx, 72 train, 40 test images, lite" in said.out and "about 10 %" in said.out
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (out / name).stat().st_size > 100
    assert study_of.main(given) == 0
    again = capsys.readouterr()
    assert again.out == said.out and " s\n" not in again.err


@pytest.mark.parametrize("more", [["--root", "nowhere"], ["--encoder", "no-such"]])
def test_wrong_input_is_one_line(tmp_path, capsys, more):
    root = write_idx(tmp_path / "idx")
    assert study_of.main(["--root", str(root), "--out", str(tmp_path / "out"), "--pairs", "8", *more]) == 1
    said = capsys.readouterr()
    assert not said.out and more[1] in said.err.strip().splitlines()[-1] and "Traceback" not in said.err


def test_few_pairs_allow_few_ranks():
    assert study_of.ranks_of(512) == study_of.RANKS
    assert study_of.ranks_of(8) == (2, 4, 6)
    assert study_of.ranks_of(2) == (1,)
