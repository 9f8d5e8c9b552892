"""The study of VIAE on a few tiny images: worlds, figures, and a run that is not made twice."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from idx_files import write_idx

from cfpairs.pairs.transfer import training
from pipelines import viae_mnist as study_of

TINY = {"rows": 80, "test_rows": 40, "square": 3, "epochs": 1, "width": 4, "hidden": 8, "inv_dim": 2}


def test_squares_and_channels_tell_the_environment():
    grey, env = np.full((4, 9, 9), 0.5, np.float32), np.arange(4)
    drawn = study_of.draw_world("smnist", grey, env, 3)
    corners = [drawn[e, 0][rows, columns].mean() for e, (rows, columns) in enumerate(
        [(slice(3), slice(3)), (slice(-3, None), slice(-3, None)), (slice(3), slice(-3, None)),
         (slice(-3, None), slice(3))])]  # fmt: skip
    assert corners == [1, 1, 1, 1] and ((drawn == 1).sum(axis=(1, 2, 3)) == 9).all()
    coloured = study_of.draw_world("scmnist", grey[:3], env[:3], 3)
    assert (coloured.sum(axis=(2, 3)) > 0).astype(int).tolist() == np.eye(3, dtype=int).tolist()


def test_the_study_runs_says_its_data_and_is_not_run_twice(tmp_path, capsys, monkeypatch):
    root, out = write_idx(tmp_path / "idx"), tmp_path / "out"
    config = tmp_path / "tiny.yaml"
    lines = study_of.CONFIG.read_text().splitlines()
    kept = [line for line in lines if line.split(":")[0] not in TINY]
    config.write_text("\n".join([*kept, *(f"{name}: {value}" for name, value in TINY.items())]))
    given = ["--root", str(root), "--out", str(out), "--runs", "1", "--config", str(config)]
    assert study_of.main(given) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["set"] for row in rows] == ["smnist", "scmnist"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in study_of.TASKS)
    assert f"IDX files of {root}" in capsys.readouterr().out
    for name in ("figure-4.png", "figure-6.png", "comparison.csv"):
        assert (out / name).stat().st_size > 100
    monkeypatch.setattr(training, "_epoch", None)
    assert study_of.main(given) == 0


def test_validation_looks_at_no_test_image(tmp_path):
    root = write_idx(tmp_path / "idx")
    study = study_of.read_settings(study_of.Study, study_of.CONFIG, square=3)
    whole, held = study_of.read_grey(root, study), study_of.read_grey(root, study, validate=True)
    last = len(held.test)
    assert "held-out" in held.name and "held-out" not in whole.name and last == len(whole.train) // 6
    assert (held.train == whole.train[:-last]).all() and (held.test == whole.train[-last:]).all()
    assert (held.test_labels == whole.train_labels[-last:]).all()


def test_a_network_sees_what_no_linear_classifier_does():
    rng, env = np.random.default_rng(0), np.arange(1000) % 2
    z = rng.normal(size=(1000, 2)) * (1 + 4 * env[:, None])
    codes = {("inv", part): z for part in ("train", "test")}
    assert study_of.network(codes, {("env", part): env for part in ("train", "test")}) > 0.8
    codes = {("inv", part): z / (1 + 4 * env[:, None]) for part in ("train", "test")}
    assert study_of.network(codes, {("env", part): env for part in ("train", "test")}) < 0.65


@pytest.mark.parametrize("more", [["--runs", "0"], ["--root", "nowhere"]])
def test_wrong_input_is_one_line(tmp_path, capsys, more):
    root = write_idx(tmp_path / "idx", 20, 20, side=30)
    assert study_of.main(["--root", str(root), "--out", str(tmp_path / "out"), *more]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
