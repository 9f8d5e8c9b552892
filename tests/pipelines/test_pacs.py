"""The study that leaves each domain out, on folders of tiny images."""

from __future__ import annotations

import csv

import pytest
from dataset_fakes import fake_folders

from pipelines import pacs as study_of

SMALL = """\
data: {preset: folders}
pairs: [{method: random, pairs: 8}]
encoder: {spec: lite, runtime: torch}
probe: {methods: [erm, ncm], r: [1, 2], C: [0.01], seeds: [0], folds: 2}
"""


@pytest.mark.study
def test_every_domain_is_left_out_once(tmp_path, capsys):
    root, config, out = fake_folders(tmp_path / "styles", each=6), tmp_path / "small.yaml", tmp_path / "out"
    config.write_text(SMALL)
    given = ["--root", str(root), "--config", str(config), "--out", str(out)]
    assert study_of.main(given) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    chosen = [row for row in rows if row["selection"] == "in-domain" and row["method"] == "ncm"]
    assert [row["left_out"] for row in chosen] == ["art_painting", "photo", "sketch"]
    assert {row["pair_set"] for row in chosen} == {"random"}
    said = capsys.readouterr()
    assert "styles, 36 images, lite" in said.out
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (out / name).stat().st_size > 100
    assert study_of.main(given) == 0
    assert capsys.readouterr().out == said.out


def test_wrong_input_is_one_line(tmp_path, capsys):
    assert study_of.main(["--root", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
