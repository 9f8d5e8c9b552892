"""Any table of items: columns found or named, ids, splits, paths, and what is refused."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import png

from cfpairs.datasets.columns import Fractions, codes, hashed_splits
from cfpairs.datasets.files import notes_of
from cfpairs.datasets.listing import Table, TableOptions
from cfpairs.errors import CfpairsError
from cfpairs.tables import MANIFEST
from cfpairs.workspace import Workspace

HEADER = ["filename", "y", "place", "split"]
ROWS = [
    ["a.png", "1", "land", "train"],
    ["b.png", "0", "water", "train"],
    ["sub/c.png", "10", "land", "val"],
    ["d.png", "9", "water", "test"],
]


def write_images(root: Path, rows: list[list[str]] = ROWS) -> None:
    for i, row in enumerate(rows):
        file = root / row[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(np.full((4, 5 + i, 3), i, np.uint8)))


def write_csv(
    root: Path,
    rows: list[list[str]] = ROWS,
    header: list[str] = HEADER,
    *,
    name: str = "items.csv",
    by: str = ",",
) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    text = "".join(by.join(row) + "\n" for row in [header, *rows])
    file = root / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return file


def table(**options: Any) -> Table:
    return Table(TableOptions.model_validate(options))


def listed(root: Path, **options: Any) -> pa.Table:
    found = table(**options).manifest(root, Workspace(root.parent / "work"), 0)
    assert found.equals(MANIFEST.validate(found))
    return found


def refusal(root: Path, **options: Any) -> str:
    with pytest.raises(CfpairsError) as caught:
        listed(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_images(tmp_path / "data")
    return tmp_path / "data"


def test_a_csv_becomes_a_manifest(root: Path) -> None:
    write_csv(root)
    found = listed(root)
    assert found["item_id"].to_pylist() == [row[0] for row in ROWS]
    assert found["path"].to_pylist() == [(root / row[0]).as_posix() for row in ROWS]
    assert found["label"].to_pylist() == [1, 0, 3, 2]  # 0, 1, 9, 10 as numbers
    assert found["label_name"].to_pylist() == ["1", "0", "10", "9"]
    assert found["env"].to_pylist() == [0, 1, 0, 1]
    assert found["env_name"].to_pylist() == ["land", "water", "land", "water"]
    assert found["split"].to_pylist() == ["train", "train", "val", "test"]
    assert (found["width"].to_pylist(), found["height"].to_pylist()) == ([5, 6, 7, 8], [4] * 4)
    assert found["mask_path"].null_count == found["subject"].null_count == 4
    assert notes_of(found) == []


@pytest.mark.parametrize(
    ("name", "by"), [("x.csv", ";"), ("x.tsv", "\t"), ("x.csv", "|"), ("x.csv.gz", ","), ("x.parquet", "")]
)
def test_every_kind_of_table_says_the_same(root: Path, tmp_path: Path, name: str, by: str) -> None:
    write_csv(root)
    plain = listed(root)
    (root / "items.csv").unlink()
    if by:
        write_csv(root, name=name, by=by)
    else:
        columns = {h: [row[i] for row in ROWS] for i, h in enumerate(HEADER)}
        kinds = {
            "y": pa.array([1.0, 0.0, 10.0, 9.0]),
            "place": pa.array(columns["place"]).dictionary_encode(),
        }
        pq.write_table(pa.table(columns | kinds), root / name)
    assert listed(root).equals(plain)


def test_quotes_marks_and_blanks_of_spreadsheets(root: Path) -> None:
    text = '\ufeffFile Name,Label,Domain,Set\n"a.png", cat ,"field, wet",train\n\nb.png,dog,hall, test\n'
    (root / "sheet.csv").write_text(text, encoding="utf-8")
    found = listed(root)
    assert found["label_name"].to_pylist() == ["cat", "dog"]
    assert found["env_name"].to_pylist() == ["field, wet", "hall"]
    assert found["split"].to_pylist() == ["train", "test"]


def test_columns_may_be_named(root: Path) -> None:
    header = ["filename", "y", "place", "kind", "hospital 2", "who", "cut"]
    rows = [[*row[:3], f"k{i % 2}", "AB"[i // 2], f"p{i}", row[3]] for i, row in enumerate(ROWS)]
    write_csv(root, rows, header)
    chosen = {"label": "kind", "env": "hospital 2", "subject": "who", "split": "cut", "item_id": "who"}
    found = listed(root, columns=chosen)
    assert found["label_name"].to_pylist() == ["k0", "k1", "k0", "k1"]
    assert found["env_name"].to_pylist() == ["A", "A", "B", "B"]
    assert found["subject"].to_pylist() == found["item_id"].to_pylist() == ["p0", "p1", "p2", "p3"]


def test_a_column_that_is_not_there_is_named_with_its_neighbours(root: Path) -> None:
    write_csv(root)
    line = refusal(root, columns={"label": "plaace"})
    assert "no column 'plaace'" in line and "'filename', 'y', 'place'" in line and "perhaps 'place'" in line
    assert "--set columns.label=" in line


@pytest.mark.parametrize(("role", "header"), [("label", 1), ("env", 2)])
def test_the_columns_are_listed_where_none_fits(root: Path, role: str, header: int) -> None:
    names = [*HEADER[:header], "odd", *HEADER[header + 1 :]]
    write_csv(root, header=names)
    line = refusal(root)
    assert all(repr(name) in line for name in names)
    assert "path: 'filename'" in line and f"--set columns.{role}=" in line


def test_one_column_cannot_be_label_and_environment(root: Path) -> None:
    write_csv(root)
    assert "one column" in refusal(root, columns={"label": "y", "env": "y"})


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["10", "9", "-1"], [2, 1, 0]),
        (["b", "a", "b"], [1, 0, 1]),
        (["10", "9", "x"], [0, 1, 2]),
    ],
)
def test_numbers_are_ordered_as_numbers_and_names_as_names(values: list[str], expected: list[int]) -> None:
    assert codes(values)[0] == expected
    assert codes(values[::-1])[0] == expected[::-1]


@pytest.mark.parametrize(
    "words",
    [
        ("train", "valid", "test"),
        ("Training", "validation", "Testing"),
        ("0", "1", "2"),
        ("0.0", "1.0", "2.0"),
    ],
)
def test_split_words(root: Path, words: tuple[str, str, str]) -> None:
    rows = [[*row[:3], words[i]] for row, i in zip(ROWS, (0, 0, 1, 2), strict=True)]
    write_csv(root, rows)
    assert listed(root)["split"].to_pylist() == ["train", "train", "val", "test"]


def test_other_split_words_are_refused_or_explained(root: Path) -> None:
    write_csv(root, [[*row[:3], "id_" + row[3]] for row in ROWS])
    line = refusal(root)
    assert "'id_test', 'id_train', 'id_val'" in line and "--set splits." in line
    words = {"id_test": "test", "id_train": "train", "id_val": "val"}
    assert listed(root, splits=words)["split"].to_pylist() == ["train", "train", "val", "test"]


def test_a_table_needs_items_to_train_on_and_to_test_on(root: Path) -> None:
    write_csv(root, [[*row[:3], "0" if row[3] == "train" else "1"] for row in ROWS])
    assert "no test item: got 2 train, 2 val" in refusal(root)
    assert listed(root, splits={"1": "test"})["split"].to_pylist() == ["train", "train", "test", "test"]


def test_without_a_split_column_a_hash_decides(tmp_path: Path) -> None:
    root = tmp_path / "data"
    rows = [[f"i{i}.png", str(i % 2), "ab"[i // 2 % 2], f"p{i // 4}"] for i in range(80)]
    write_images(root, rows)
    write_csv(root, rows, ["path", "label", "env", "patient"])
    found = listed(root)
    split = dict(zip(found["item_id"].to_pylist(), found["split"].to_pylist(), strict=True))
    assert any("split by a hash of column 'patient'" in note for note in notes_of(found))
    for start in range(0, 80, 4):
        assert len({split[f"i{i}.png"] for i in range(start, start + 4)}) == 1
    write_csv(root, rows[::-1][:60], ["path", "label", "env", "patient"])
    again = listed(root)
    assert all(
        split[i] == s for i, s in zip(again["item_id"].to_pylist(), again["split"].to_pylist(), strict=True)
    )


def test_hashed_splits_keep_to_their_fractions() -> None:
    made = hashed_splits([f"item {i}" for i in range(4000)], Fractions(train=0.5, val=0.2, test=0.3))
    shares = [made.count(split) / 4000 for split in ("train", "val", "test")]
    assert np.allclose(shares, [0.5, 0.2, 0.3], atol=0.03)


@pytest.mark.parametrize("empty", ["", " ", "nan"])
@pytest.mark.parametrize("column", ["y", "place", "split", "filename"])
def test_empty_values_are_refused_or_left_out(root: Path, column: str, empty: str) -> None:
    rows = [list(row) for row in [*ROWS, ["e.png", "1", "land", "test"]]]
    write_images(root, rows)
    rows[1][HEADER.index(column)] = empty
    write_csv(root, rows)
    line = refusal(root)
    assert f"column {column!r}" in line and "1 of 5: items.csv line 3" in line and "drop_missing" in line
    found = listed(root, drop_missing=True)
    assert found["path"].to_pylist() == [(root / row[0]).as_posix() for row in rows if row is not rows[1]]
    assert "1 of 5 rows" in notes_of(found)[0]


def test_rows_that_all_lack_a_label_are_refused_even_so(root: Path) -> None:
    write_csv(root, [[row[0], "", *row[2:]] for row in ROWS])
    assert "4 of 4" in refusal(root, drop_missing=True)


def test_an_id_that_repeats_is_refused(root: Path) -> None:
    write_csv(root, [[*ROWS[0], "7"], [*ROWS[1], "8"], [*ROWS[2], "7"], [*ROWS[3], "9"]], [*HEADER, "id"])
    line = refusal(root)
    assert "'7' in items.csv line 2 and items.csv line 4" in line and "columns.item_id" in line
    assert listed(root, columns={"item_id": ""})["item_id"][0].as_py() == "a.png"


def test_a_path_that_repeats_is_refused(root: Path) -> None:
    write_csv(root, [*ROWS, ROWS[0]])
    assert "'a.png' in items.csv line 2 and items.csv line 6" in refusal(root)


@pytest.mark.parametrize("kind", ["up", "absolute", "file link", "folder link"])
def test_paths_that_leave_the_root(root: Path, kind: str) -> None:
    outside = root.parent / "elsewhere"
    write_images(outside)
    name = {
        "up": "../elsewhere/a.png",
        "absolute": str(outside / "a.png"),
        "file link": "link.png",
        "folder link": "folder/a.png",
    }[kind]
    if kind == "file link":
        (root / name).symlink_to(outside / "a.png")
    if kind == "folder link":
        (root / "folder").symlink_to(outside)
    write_csv(root, [[name, *ROWS[0][1:]], *ROWS[1:]])
    line = refusal(root)
    assert "items.csv line 2: a path leaves the data folder" in line and "--set outside=allow" in line
    found = listed(root, outside="allow")
    assert Path(found["path"][0].as_py()).samefile(outside / "a.png")
    assert found["width"][0].as_py() == 5
    assert listed(root, outside="ignore")["path"].to_pylist()[0] == ""


def test_absolute_paths_below_the_root_are_fine(root: Path) -> None:
    write_csv(root, [[str(root / row[0]), *row[1:]] for row in ROWS])
    assert listed(root)["width"].to_pylist() == [5, 6, 7, 8]


def test_paths_may_start_in_a_folder_and_masks_stand_beside(tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_images(root / "images")
    write_csv(root, [[*row, row[0] if i else ""] for i, row in enumerate(ROWS)], [*HEADER, "mask"])
    found = listed(root, images="images")
    assert found["width"].to_pylist() == [5, 6, 7, 8]
    assert found["mask_path"].to_pylist() == [None, *((root / "images" / r[0]).as_posix() for r in ROWS[1:])]


def test_a_few_missing_images_are_noted_and_many_refused(root: Path) -> None:
    write_csv(root)
    (root / "a.png").unlink()
    found = listed(root)
    assert found["width"].to_pylist() == [0, 6, 7, 8]
    assert "1 of 4 images are missing" in notes_of(found)[0]
    write_csv(root, [["x" + row[0], *row[1:]] for row in ROWS])
    assert "too many images are missing" in refusal(root)


def test_a_table_without_images_or_embeddings_is_refused(root: Path) -> None:
    write_csv(root, [row[1:] for row in ROWS], HEADER[1:])
    assert "neither a column of images nor embeddings" in refusal(root)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"filename,y,place,split\n", "has no row"),
        (b"a.png\n", "no column that looks like the label"),
        (b"filename,y,place,split\na.png,1\n", "cannot be read as a table"),
        (b"\xff\xfe\x00a\x00,\x00", "no UTF-8 text"),
        (b"filename,y,y,place\na.png,1,1,x\n", "two columns of one name: got 'y'"),
        (b"filename,y,place,split\n" + 9000 * b"a.png,1,x,test\n" + b"\xff", "cannot be read as a table"),
        (b"filename,y,place,split\n\xff.png,1,x,test\n", "no UTF-8 text"),
    ],
)
def test_damaged_tables(root: Path, content: bytes, said: str) -> None:
    (root / "items.csv").write_bytes(content)
    assert said in refusal(root)


def test_a_damaged_parquet_file(root: Path) -> None:
    (root / "items.parquet").write_bytes(b"PAR1 and nothing else")
    assert "cannot be read as Parquet" in refusal(root)


@pytest.mark.parametrize("values", [[[1]], [{"bytes": b"1"}], [b"1"]])
def test_a_column_of_other_than_text_and_numbers_is_no_label(root: Path, values: list[Any]) -> None:
    pq.write_table(pa.table({"path": ["a.png"], "label": values, "env": ["x"]}), root / "items.parquet")
    assert "no column that looks like the label: got columns 'path', 'env'" in refusal(root)


def test_which_table(root: Path) -> None:
    assert "no table in the folder" in refusal(root)
    write_csv(root, name="one.csv")
    write_csv(root, [["1", "2"]], ["a", "b"], name="other.csv")
    assert len(listed(root)) == 4  # the other has no label
    write_csv(root, ROWS[::-1], name="two.csv")
    line = refusal(root)
    assert "unclear which table" in line and "one.csv, two.csv" in line and "--set table=" in line
    assert listed(root, table="two.csv")["item_id"][0].as_py() == "d.png"
    write_csv(root, ROWS[::-1], name="metadata.csv")
    assert listed(root)["item_id"][0].as_py() == "d.png"
    assert "there is no such file" in refusal(root, table="none.csv")
    assert "another kind" in refusal(root, table="items.xlsx")


def test_a_folder_of_parts_is_one_table(root: Path) -> None:
    for i, row in enumerate(ROWS):
        write_csv(root / "parts", [row], name=f"part_{8 + i}.csv")
    assert listed(root, table="parts")["item_id"].to_pylist() == [row[0] for row in ROWS]


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    assert "no data folder" in refusal(tmp_path / "none")
    with pytest.raises(CfpairsError, match="no data folder"):
        table().starting(tmp_path / "none")


def test_starting_writes_out_what_was_found(root: Path) -> None:
    write_csv(root)
    found = table().starting(root)
    columns = {"path": "filename", "label": "y", "env": "place", "split": "split"}
    assert found == {"data": {"options": {"table": "items.csv", "columns": columns}}}
    assert listed(root, **found["data"]["options"]).equals(listed(root))


def test_the_digest_follows_the_table_and_the_options(root: Path) -> None:
    write_csv(root)
    first = table().digest(root, 0)
    assert table().digest(root, 1) == first
    assert table(drop_missing=True).digest(root, 0) != first
    os.utime(root / "items.csv", ns=(1, 1))
    assert table().digest(root, 0) == first
    write_csv(root, [*ROWS[:3], ["d.png", "9", "water", "train"]])
    assert table().digest(root, 0) != first
