import os
from pathlib import Path

import pyarrow as pa
import pytest

from cfpairs import tables
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.tables import FAILURES, MANIFEST, Schema


def failure(**more):
    return {"item_id": "a", "path": "p", "error": "e"} | more


def test_round_trip_with_metadata(tmp_path):
    path = tmp_path / "deep" / "t.parquet"
    table = tables.make_table([failure(), failure(item_id="b")], FAILURES)
    tables.write_table(path, table, FAILURES, {"fingerprint": "f"})
    assert tables.read_table(path, FAILURES).to_pylist() == table.to_pylist()
    assert tables.file_metadata(path) == {"fingerprint": "f"}


def test_same_table_same_bytes(tmp_path):
    table = tables.make_table([failure()], FAILURES)
    for name in ("a", "b"):
        tables.write_table(tmp_path / name, table, FAILURES, {"z": "1", "a": "2"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([failure(), failure()], "more than once"),
        ([failure(error=None)], "empty values"),
    ],
)
def test_bad_rows(rows, message):
    with pytest.raises(DataError, match=message):
        tables.make_table(rows, FAILURES)


def test_missing_column_and_wrong_type():
    with pytest.raises(DataError, match="no column 'path'"):
        FAILURES.validate(pa.table({"item_id": ["a"]}))
    schema = Schema("numbers", (pa.field("n", pa.int32()),))
    with pytest.raises(DataError, match="wrong type"):
        schema.validate(pa.table({"n": ["x"]}))
    assert schema.validate(pa.table({"n": pa.array([1], pa.int64())})).schema.field("n").type == pa.int32()


def test_values_outside_the_allowed():
    row = dict.fromkeys((f.name for f in MANIFEST.fields), "x") | dict.fromkeys(
        ("label", "env", "width", "height"), 1
    )
    good = row | {"split": "train", "origin": "source"}
    assert tables.make_table([good], MANIFEST).num_rows == 1
    with pytest.raises(DataError, match="got 'dev', expected one of train, val, test"):
        tables.make_table([good | {"split": "dev"}], MANIFEST)


def test_extra_columns_are_kept_behind():
    table = tables.make_table([failure(size=3)], FAILURES)
    assert table.column_names == ["item_id", "path", "error", "size"]


def test_absent_and_broken_files(tmp_path):
    with pytest.raises(WorkspaceError, match="is missing"):
        tables.read_table(tmp_path / "none.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        tables.read_table(broken)
    assert tables.file_metadata(broken) == {}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "f"
    tables.write_bytes(path, b"old")

    def no_space(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", no_space)
    with pytest.raises(WorkspaceError, match="No space left"):
        tables.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkspaceError, match="cannot make the folder"):
        tables.write_bytes(tmp_path / "file" / "below", b"")


def test_fingerprint_tells_settings_apart():
    assert tables.fingerprint({"a": 1, "b": 2}) == tables.fingerprint({"b": 2, "a": 1})
    assert tables.fingerprint({"a": 1}) != tables.fingerprint({"a": "1"})
