"""Decisions in the pair set: whole or not at all, to be taken back, carried over to a rebuilt set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfpairs.errors import CfpairsError, DataError, WorkspaceError
from cfpairs.review import decisions
from cfpairs.review.decisions import (
    PairSheet,
    carry_over,
    decisions_in,
    dropped_by_hand,
    read_waiting,
    write_waiting,
)
from cfpairs.tables import PAIRS, make_table, read_table, write_table


def row(i: int, status: str = "ok", reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "pair_id": f"p{i}", "a_id": f"a{i}", "b_id": f"b{i}", "method": "m", "label": i % 2, "env_a": 0,
        "env_b": 1, "score": i / 7, "seed": 0, "status": status, "reason": reason, "own": i, **more,
    }  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    rows = [
        *(row(i) for i in range(6)),
        row(6, "dropped", "beyond the limit"),
        row(7, "rejected", "bad edit"),
    ]
    file = tmp_path / "pairs.parquet"
    write_table(file, make_table(rows, PAIRS), PAIRS, {"fingerprint": "f"})
    return file


def states(path: Path) -> list[tuple[str, str | None, str | None, str | None]]:
    return [
        (r["status"], r["reason"], r.get("decision"), r.get("note"))
        for r in read_table(path, PAIRS).to_pylist()
    ]


def test_a_decision_is_on_disk_when_the_call_returns(path: Path) -> None:
    sheet = PairSheet(path)
    sheet.decide(1, "drop", "blurred", "dropped in review: outlier")
    sheet.decide(2, "keep", None)
    sheet.decide(6, "keep", "fine")
    found = states(path)
    assert found[1] == ("dropped", "dropped in review: outlier", "drop", "blurred")
    assert found[2] == ("ok", None, "keep", None)
    assert found[6] == ("ok", None, "keep", "fine")
    assert found[0] == ("ok", None, None, None)
    assert pq.read_schema(path).metadata[b"fingerprint"] == b"f"
    assert dropped_by_hand(read_table(path, PAIRS)) == 1  # not what the builder has dropped
    assert PairSheet(path).row(1) == sheet.row(1)


def test_taking_everything_back_gives_the_same_bytes(path: Path) -> None:
    before = path.read_bytes()
    sheet = PairSheet(path)
    for i, decision in ((1, "drop"), (6, "keep"), (1, "keep"), (6, "drop"), (3, None)):
        sheet.decide(i, decision, "note")
    assert path.read_bytes() != before
    for i in (1, 3, 6):
        sheet.decide(i, None, None)
    assert path.read_bytes() == before


def test_the_version_follows_what_is_said(path: Path) -> None:
    sheet = PairSheet(path)
    first = sheet.version(0)
    sheet.decide(1, "drop", None)
    assert sheet.version(0) == first
    sheet.decide(0, None, "a note")
    assert sheet.version(0) != first
    assert PairSheet(path).version(0) == sheet.version(0)
    sheet.decide(0, None, None)
    assert sheet.version(0) == first


@pytest.mark.parametrize(
    ("index", "decision", "note", "words"),
    [
        (0, "destroy", None, "no such decision: got 'destroy'"),
        (0, "drop", "x" * 2001, "the note is too long: got 2001"),
        (0, "drop", "\ud800", "characters that are no text"),
        (7, "keep", None, "was rejected when it was built"),
    ],
)
def test_what_cannot_be_decided_changes_nothing(
    path: Path, index: int, decision: str, note: str | None, words: str
) -> None:
    before = path.read_bytes()
    sheet = PairSheet(path)
    with pytest.raises(DataError, match=words):
        sheet.decide(index, decision, note)
    assert path.read_bytes() == before and sheet.row(index)["decision"] is None


def test_a_write_that_fails_leaves_file_and_memory_as_they_were(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet, before = PairSheet(path), path.read_bytes()

    def refuse(*_args: Any) -> None:
        raise WorkspaceError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(decisions, "write_table", refuse)
        with pytest.raises(WorkspaceError, match="full"):
            sheet.decide(0, "drop", "n")
    assert path.read_bytes() == before and sheet.row(0)["status"] == "ok"
    sheet.decide(0, "drop", "n")
    assert states(path)[0][0] == "dropped"


def test_a_file_that_someone_else_has_changed_is_not_overwritten(path: Path) -> None:
    sheet, other = PairSheet(path), PairSheet(path)
    other.decide(0, "drop", "theirs")
    with pytest.raises(WorkspaceError, match="changed by something else"):
        sheet.decide(1, "drop", "ours")
    assert [s[2] for s in states(path)[:2]] == ["drop", None]
    path.unlink()
    with pytest.raises(CfpairsError, match="is gone"):
        sheet.decide(1, "drop", None)


def test_decisions_follow_their_pairs(path: Path, tmp_path: Path) -> None:
    sheet = PairSheet(path)
    sheet.decide(0, "drop", "zero", "dropped in review: outlier")
    sheet.decide(1, "keep", None)
    sheet.decide(2, "drop", "two")
    sheet.decide(3, None, "only a note")
    sheet.decide(4, "drop", None)
    said = decisions_in(read_table(path, PAIRS))
    assert [d.pair_id for d in said] == ["p0", "p1", "p2", "p3", "p4"]
    # p1 is gone, p2 joins other items, the builder rejects p4 now
    new = [row(9), row(3), row(2, b_id="other"), row(0), row(4, "rejected", "bad")]
    table, left = carry_over(make_table(new, PAIRS), said)
    table = PAIRS.validate(table)
    assert [d.pair_id for d in left] == ["p1", "p2", "p4"]
    found = {r["pair_id"]: r for r in table.to_pylist()}
    assert (found["p0"]["status"], found["p0"]["note"]) == ("dropped", "zero")
    assert found["p0"]["reason"] == "dropped in review: outlier" and found["p0"]["built_status"] == "ok"
    assert (found["p3"]["decision"], found["p3"]["note"]) == (None, "only a note")
    assert found["p2"]["status"] == "ok" and found["p4"]["status"] == "rejected"
    waiting = tmp_path / "decisions.parquet"
    write_waiting(waiting, left)
    assert read_waiting(waiting) == left
    table, left = carry_over(make_table([row(1), row(2)], PAIRS), read_waiting(waiting))
    assert [d.pair_id for d in left] == ["p4"]
    write_waiting(waiting, [])
    assert not waiting.exists() and read_waiting(waiting) == []


def test_a_pair_set_without_a_decision_gets_no_column() -> None:
    table = make_table([row(0), row(1)], PAIRS)
    carried, left = carry_over(table, [])
    assert carried.equals(table) and left == [] and isinstance(carried, pa.Table)
