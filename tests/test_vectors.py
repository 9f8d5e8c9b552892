"""Embeddings on disk and keyed by item."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cfpairs import tables
from cfpairs.errors import DataError, WorkspaceError
from cfpairs.tables import embedding_schema, file_metadata
from cfpairs.vectors import Embeddings, contents_digest, part_files, read_embeddings, write_vectors


def write(folder: Path, number: int, matrix: np.ndarray, first: int = 0) -> None:
    ids = [f"i{first + row}" for row in range(len(matrix))]
    write_vectors(folder / f"part-{number:05d}.parquet", ids, matrix, ["h"] * len(ids), {"k": "v"})


def test_embeddings_join_by_id(tmp_path):
    matrix = np.arange(6, dtype=np.float32).reshape(3, 2)
    write(tmp_path, 0, matrix[:2])
    write(tmp_path, 1, matrix[2:], first=2)
    found = read_embeddings(tmp_path)
    assert found.rows(["i2", "i0"]).tolist() == [[4, 5], [0, 1]]
    assert found.rows(pa.array(["i1"])).tolist() == [[2, 3]] and found.rows([]).shape == (0, 2)
    assert found.metadata == {"k": "v"} and found.item_ids == ["i0", "i1", "i2"]
    assert "i1" in found and "i9" not in found and len(found) == 3 and found.dim == 2
    with pytest.raises(DataError, match="got 2, such as 'i9'"):
        found.rows(["i0", "i9", "i8"])


def test_embeddings_that_contradict_each_other(tmp_path):
    with pytest.raises(DataError, match="two embeddings"):
        Embeddings(["a", "a"], np.zeros((2, 1)))
    with pytest.raises(DataError, match="do not match"):
        Embeddings(["a"], np.zeros((2, 1)))
    for number in range(2):
        write(tmp_path, number, np.ones((1, 2), np.float32))
    with pytest.raises(DataError, match="two embeddings"):
        read_embeddings(tmp_path)


def test_the_digest_of_contents(tmp_path):
    def digest(wanted, *parts):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        for number, rows in enumerate(parts):
            vectors = np.full((len(rows), 2), number, np.float32)
            write_vectors(folder / f"part-{number:05d}.parquet", list(rows), vectors, rows.values(), {})
        return contents_digest(folder, pa.array(wanted))

    first = digest("ab", {"a": "1", "b": "2", "c": "3"})
    assert digest("ba", {"b": "2"}, {"c": "9", "a": "1"}) == first, "order, division and other items"
    others = [
        digest("ab", {"a": "1", "b": "3"}),
        digest("ab", {"a": "1"}),
        digest("ab"),
        digest("b", {"b": "2"}),
    ]
    assert len({first, *others}) == 5


def test_no_embeddings(tmp_path):
    with pytest.raises(WorkspaceError, match="cfpairs embed"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_one_part_is_viewed_where_arrow_read_it(tmp_path, kind):
    matrix = np.random.default_rng(0).normal(size=(50, 8)).astype(kind)
    write(tmp_path, 0, matrix)
    found = read_embeddings(tmp_path).matrix
    np.testing.assert_array_equal(found, matrix)
    assert found.dtype == kind and not found.flags.owndata and not found.flags.writeable
    table = pq.read_table(part_files(tmp_path)[0])
    assert table.schema.field("embedding").type == pa.list_(pa.from_numpy_dtype(kind), 8)


def test_row_groups_can_be_streamed(tmp_path, monkeypatch):
    from cfpairs import vectors

    monkeypatch.setattr(vectors, "ROW_GROUP_BYTES", 1000)
    write(tmp_path, 0, np.ones((100, 8), np.float32))
    groups = pq.ParquetFile(part_files(tmp_path)[0]).metadata
    assert groups.num_row_groups == 4 and groups.row_group(0).num_rows == 1000 // 32
    vector_column = groups.row_group(0).column(1)
    assert vector_column.compression == "UNCOMPRESSED" and "PLAIN" in vector_column.encodings
    assert vector_column.total_uncompressed_size < 1200
    assert read_embeddings(tmp_path).matrix.shape == (100, 8)


def test_a_part_is_what_the_schema_says(tmp_path):
    write(tmp_path, 0, np.ones((3, 4), np.float32))
    table = tables.read_table(part_files(tmp_path)[0], embedding_schema(4))
    assert table.column_names == ["item_id", "embedding", "content_hash"]
    assert file_metadata(part_files(tmp_path)[0]) == {"k": "v"}
    with pytest.raises(DataError, match="more than once"):
        write_vectors(tmp_path / "part-00001.parquet", ["a", "a"], np.ones((2, 4), "f4"), ["h", "h"], {})
    assert len(part_files(tmp_path)) == 1


def test_parts_that_differ_are_told(tmp_path):
    write(tmp_path, 0, np.ones((3, 4), np.float32))
    write(tmp_path, 1, np.ones((3, 5), np.float16), first=3)
    with pytest.raises(DataError, match="differ in dimension or type: got 4 x float32 and 5 x float16"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("fault", ["cut", "other columns"])
def test_a_damaged_part_is_one_line(tmp_path, parts, fault):
    for number in range(parts):
        write(tmp_path, number, np.ones((3, 4), np.float32), first=3 * number)
    file = part_files(tmp_path)[-1]
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    else:
        pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(DataError, match=f"{file.name} cannot be read as embeddings") as caught:
        read_embeddings(tmp_path)
    assert "\n" not in str(caught.value)
