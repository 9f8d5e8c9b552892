"""The studies of fair representations on a small made-up table: the penalty's effect, wrong input."""

from __future__ import annotations

import csv
from pathlib import Path

import fair_data
import fair_tables
import numpy as np
import pytest
import yaml

from pipelines import adult, german


def write_people(path: Path, n: int = 400, *, seed: int = 0) -> Path:
    """People whose job gives the sex away for nine in ten, and whose income and sex tell the credit."""
    rng = np.random.default_rng(seed)
    sex = rng.integers(0, 2, n)
    credit = np.where(rng.random(n) < 0.8, sex, 1 - sex)
    job = np.where(rng.random(n) < 0.9, sex, 1 - sex)
    income = 2 * credit + rng.normal(size=n)
    lines = ["sex, job, income, credit, city"]
    lines += [f"{'mf'[sex[i]]}, {'ab'[job[i]]}, {income[i]:.3f}, {credit[i] + 1}, ?" for i in range(n)]
    path.write_text("\n".join([*lines, "m, ?, 1.0, 1, x", "m, a, , 2, x", ""]))
    return path


def write_config(path: Path, **changes: object) -> Path:
    """German credit's settings for the table above, small."""
    found = yaml.safe_load(fair_tables.config_of("german").read_text())
    small = {
        "names": None, "separator": ",", "target": {"column": "credit"}, "sensitive": {"column": "sex"},
        "numeric": ["income"], "categorical": ["job"], "runs": 1, "weights": [0, 3], "hidden": [10],
        "features": 3, "epochs": 40, "rate": 0.01, "decay": 0.0001, "target_epochs": 15,
        "adversary_epochs": 15, "judge_rate": 0.01,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(found | small | changes))
    return path


def test_the_penalty_takes_the_attribute_away_and_nothing_is_run_twice(tmp_path, capsys, monkeypatch):
    given = [
        "--data", str(write_people(tmp_path / "people.csv")), "--out", str(tmp_path / "out"),
        "--config", str(write_config(tmp_path / "c.yaml")),
    ]  # fmt: skip
    assert german.main(given) == 0
    with (tmp_path / "out" / "results.csv").open() as handle:
        rows = {
            row["lambda"]: {k: float(v) for k, v in row.items() if k != "lambda"}
            for row in csv.DictReader(handle)
        }
    free, held, inputs = rows["0.0"], rows["3.0"], rows["inputs"]
    assert inputs["adversary"] > 0.85 and free["adversary_last"] > 0.7 and free["target_last"] > 0.8
    assert held["adversary_last"] < free["adversary_last"] - 0.1 and held["target_last"] < free["target"]
    assert all(row["target"] >= row["target_last"] for row in rows.values())
    said = capsys.readouterr().out
    assert "80.3 % (lambda = 1)" in said and "people.csv, 280 + 120 rows, 1 run" in said
    for name in ("figure.svg", "figure.png", "comparison.csv"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    monkeypatch.setattr(fair_tables, "train_causal", None)
    assert german.main(given) == 0 and capsys.readouterr().out == said


def test_files_of_the_published_layout_are_read(tmp_path):
    study = fair_tables.read_settings(fair_data.Study, fair_tables.config_of("adult"))
    line = "{}, Private, 77516, Bachelors, 13, Divorced, Sales, Husband, White, {}, 0, 0, 40, {}, {}"
    rows = [(20 + i, ("Male", "Female")[i % 2], "Cuba", ("<=50K", ">50K")[i // 2 % 2]) for i in range(40)]
    train, test = tmp_path / "adult.data", tmp_path / "adult.test"
    gone = line.format(30, "Male", "?", ">50K")
    train.write_text("\n".join([*(line.format(*row) for row in rows), gone, ""]))
    test.write_text("\n".join(["|1x3 Cross validator", *(line.format(*row) + "." for row in rows[:8]), ""]))
    tables = [fair_data.read_table(path, study) for path in (train, test)]
    own, other = fair_data.split(tables[0], tables[1], study, 0)
    assert own.X.shape == (40, 13) and other.X.shape == (8, 13)
    np.testing.assert_array_equal(own.y, 1 - np.arange(40) // 2 % 2)
    np.testing.assert_array_equal(own.s, 1 - np.arange(40) % 2)
    np.testing.assert_allclose(own.X[:, 0].std(), 1)


@pytest.mark.parametrize(
    ("changes", "text", "expected"),
    [
        ({"numeric": ["age"]}, None, "has no column 'age'"),
        ({}, "", "is empty"),
        ({}, "sex,job,income,credit\n" + "m,a,1,1\nf,b,2,1\n" * 30, "column 'credit' cannot be told apart"),
        ({}, "sex,job,income,credit\n" + "m,a,1,1\nm,b,2,2\n" * 30, "column 'sex' cannot be told apart"),
        ({}, "sex,job,income,credit\nm,a,1,1\n", "too few whole rows"),
        ({"numeric": ["job"]}, None, "column 'job' is not numeric"),
        ({"numeric": ["credit"]}, None, "the target is among the inputs"),
        ({"target": {"column": "credit", "values": {"1": "good"}}}, None, "does not name: got '2'"),
        ({}, "sex,job\nm,a\nf,b,1,1,1\n", "cannot be read as a table"),
        ({"numeric": [], "categorical": []}, None, "no column is an input"),
        ({"weights": [-1]}, None, "a setting of the study cannot be used: weights.0"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, changes, text, expected):
    data = write_people(tmp_path / "people.csv", 60)
    if text is not None:
        data.write_text(text)
    config = write_config(tmp_path / "c.yaml", **changes)
    given = ["--data", str(data), "--out", str(tmp_path / "out"), "--config", str(config)]
    assert adult.main(given) == 1
    said = capsys.readouterr()
    assert not said.out and len(said.err.strip().splitlines()) == 1 and expected in said.err


def test_a_file_that_is_not_there_is_one_line(tmp_path, capsys):
    assert adult.main(["--data", str(tmp_path / "none.csv")]) == 1
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
