"""Pairs that are broken on purpose: what is broken, what cannot be, and wrong input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fakes import fake_workspace

from cfpairs.config import Config
from cfpairs.errors import DataError
from cfpairs.probes.crossfit import ItemRows, PairRows
from cfpairs.workflow.inputs import ProbeInputs
from pipelines import break_pairs


def inputs(labels: list[int], train_labels: list[int]) -> ProbeInputs:
    """Pairs into one environment, whose b sides are 10, 11, ...; training items are 100, 101, ..."""
    k, n = len(labels), len(train_labels)
    ids = np.array([f"s{i}" for i in range(k)], dtype=object)
    zero = np.zeros(k, np.int64)
    a, b = np.arange(k)[:, None] * 1.0, 10.0 + np.arange(k)[:, None]
    pairs = PairRows("own", "own", a, b, np.array(labels), zero, zero + 1, ids, ids)
    names = [f"t{i}" for i in range(n)]
    train = ItemRows(
        names, 100.0 + np.arange(n)[:, None], np.array(train_labels), np.ones(n, np.int64),
        np.array(names, dtype=object),
    )  # fmt: skip
    return ProbeInputs("e", train, train, train, {"own": pairs}, {}, {"own": list(ids)}, [], {})


def test_each_kind_of_fault_is_what_it_says_and_the_rest_is_whole() -> None:
    given = inputs([0, 1] * 10, [0, 1])
    changed, rows = break_pairs.broken(given, "own", 0.6, 0)
    pairs, before = changed.pairs["own"], given.pairs["own"]
    assert [len(part) for part in rows.values()] == [4, 4, 4]
    source = (pairs.b[:, 0] - 10).astype(int)
    for row in rows["label"]:
        assert pairs.labels[source[row]] != pairs.labels[row]
    for row in rows["match"]:
        assert source[row] != row and pairs.labels[source[row]] == pairs.labels[row]
    np.testing.assert_array_equal(pairs.b[rows["no edit"]], pairs.a[rows["no edit"]])
    rest = np.setdiff1d(np.arange(20), np.concatenate(list(rows.values())))
    np.testing.assert_array_equal(pairs.b[rest], before.b[rest])


def test_what_has_nothing_to_be_swapped_with_stays_whole_and_is_not_counted() -> None:
    _, rows = break_pairs.broken(inputs([0] * 6, [0, 0]), "own", 0.9, 0)
    assert [len(part) for part in rows.values()] == [0, 2, 1]
    _, rows = break_pairs.broken(inputs([0, 1], [0, 1, 2]), "own", 0.9, 0)
    assert [len(part) for part in rows.values()] == [1, 0, 0]
    from_items, rows = break_pairs.broken(inputs([0] * 6, [0, 1]), "own", 0.9, 0)
    assert [len(part) for part in rows.values()] == [2, 2, 1]
    np.testing.assert_array_equal(from_items.pairs["own"].b[rows["label"]], [[101.0]] * 2)
    with pytest.raises(DataError, match=r"no pair of 'own' was broken: got a share of 0.1 of 4"):
        break_pairs.broken(inputs([0] * 4, [0, 1]), "own", 0.1, 0)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["-c", "nope.yaml"], "nope.yaml"),
        (["-c", "c.yaml", "--pair-set", "nope"], "no such pair set: got 'nope'"),
        (["-c", "c.yaml", "--share", "0"], "share of pairs to break cannot be used: got 0.0"),
        (["-c", "c.yaml", "--share", "1.5"], "share of pairs to break cannot be used: got 1.5"),
        (["-c", "c.yaml", "--share", "nan"], "share of pairs to break cannot be used: got nan"),
        (["-c", "c.yaml", "--seeds", "0", "-1"], "seed cannot be used: got -1"),
    ],
)
def test_wrong_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    args: list[str], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    fake_workspace(tmp_path / Config().workspace.name, {("train", 0, 0): 1}, size=8)
    (tmp_path / "c.yaml").write_text("seed: 0\n")
    assert break_pairs.main(args) == 1
    found = capsys.readouterr()
    assert not found.out and len(found.err.strip().splitlines()) == 1 and said in found.err
