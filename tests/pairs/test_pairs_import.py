"""Pairs that people list in a file."""

from __future__ import annotations

import io
import os
import shutil
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import draw, fake_manifest, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfpairs.config import parse_options
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.importing import ImportBuilder, ImportOptions
from cfpairs.pairs.pair_file import read_pair_file
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, PAIRS
from cfpairs.workspace import Workspace

LG, LB, SG, SB = ([f"bar-train-{n:04d}" for n in r] for r in ((0, 1, 2), (10, 11), (12, 13), (14, 15, 16)))
"""Training items: lying on green, lying on brown, standing on green, standing on brown."""

GOOD = f"{LG[0]},{LB[0]}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    workspace = Workspace(tmp_path_factory.mktemp("template"))
    return workspace.root, fake_manifest(workspace, size=16)


@pytest.fixture
def inputs(tmp_path: Path, template: tuple[Path, pa.Table]) -> BuildInputs:
    workspace = Workspace(tmp_path / "work")
    shutil.copytree(template[0] / "data" / "images", workspace.root / "data" / "images")
    return BuildInputs(
        workspace,
        "import",
        template[1],
        240,
        0,
        source_file=tmp_path / "pairs.csv",
        root=workspace.root / "data",
        licence="CC0",
    )


def build(inputs: BuildInputs, text: str | bytes, **options: Any) -> PairSet:
    content = text.encode() if isinstance(text, str) else text
    Path(str(inputs.source_file)).write_bytes(content)
    return ImportBuilder(parse_options(ImportOptions, options, "options")).build(inputs)


def rows(made: PairSet) -> list[dict[str, Any]]:
    """The rows in the order of the file."""
    return sorted(PAIRS.validate(made.pairs).to_pylist(), key=lambda row: row["line"])


def reason(inputs: BuildInputs, bad: str, header: str = "a,b", **options: Any) -> str:
    """Why the second of two rows, the first of which is sound, is rejected."""
    extra = "," * header.count(",")
    first, second = rows(build(inputs, f"{header}\n{GOOD}{extra[1:]}\n{bad}\n", **options))
    assert first["status"] == "ok" and second["status"] == "rejected", second
    return str(second["reason"])


def photograph(inputs: BuildInputs, name: str, seed: int = 100, label: int = 0, env: int = 1) -> Path:
    """A new image under the root."""
    image, _ = draw(label, env, 20, np.random.default_rng(seed))
    path = Path(str(inputs.root)) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(image))
    return path


def test_ids_and_paths_name_the_same_items(inputs: BuildInputs) -> None:
    whole = Path(str(inputs.root)) / "images" / f"{LG[2]}.png"
    text = f"a,b\n{LG[0]},{LB[0]}\nimages/{LG[1]}.png,{LB[1]}\n{whole},./images/../images/{LB[0]}.png\n"
    made = build(inputs, text)
    assert [(r["a_id"], r["b_id"]) for r in rows(made)] == [
        (LG[0], LB[0]),
        (LG[1], LB[1]),
        (LG[2], LB[0]),
    ]
    for row in rows(made):
        assert (row["label"], row["env_a"], row["env_b"], row["status"]) == (0, 0, 1, "ok")
        assert row["method"] == "import" and row["seed"] == 0 and row["score"] is None
    assert made.items is None and made.notes == ()


def test_facts_are_checked_and_other_columns_carried(inputs: BuildInputs) -> None:
    text = (
        "a,b,label,env_a,env_b,score,who,line,status\n"
        f"{LG[0]},{LB[0]},lying,green,brown,0.5,Ada,x,new\n"
        f'{SB[0]},{SG[0]},1,1,0,,"Bo, jr",y,\n'
    )
    first, second = rows(build(inputs, text))
    assert (first["score"], first["who"], first["line"], first["file_line"]) == (0.5, "Ada", 2, "x")
    assert (first["file_status"], first["status"], second["file_status"]) == ("new", "ok", None)
    assert (second["score"], second["who"], second["label"], second["env_a"]) == (None, "Bo, jr", 1, 1)
    assert first["a"] == LG[0]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (f"bar-train-0999,{LB[0]}", "no such item or file: a is 'bar-train-0999', perhaps 'bar-train-00"),
        (f"{LG[1]},images/none.png", "no such item or file: b is 'images/none.png'"),
        (f"{LG[1]},{'x' * 300}.png", "no such item or file: b is"),
        (f"{LG[1]},a\x01b", "no such item or file: b is"),
        (f"{LG[1]},", "an item is left out: b is empty"),
        (f",{LG[1]}", "an item is left out: a is empty"),
        (f"{LG[1]},../../secret.png", "outside the data root: b is '../../secret.png'"),
        (f"{LG[1]},/etc/passwd", "outside the data root: b is '/etc/passwd'"),
        (f"{LG[1]},images", "no image: b is 'images', a folder"),
        (f"{LG[1]},{LG[1]}", f"a pair with itself: both are '{LG[1]}'"),
        (f"{LG[1]},images/{LG[1]}.png", f"a pair with itself: both are '{LG[1]}'"),
        (GOOD, "the same pair twice: first on line 2"),
        (f"{LB[0]},{LG[0]}", "the same pair twice: first on line 2"),
        (f"{LG[0]},{LG[1]}", "both sides in one environment: green"),
        (f"{LG[1]},{SB[0]}", "labels disagree: a says 'lying', b says 'standing'"),
        (f"{LG[1]},bar-val-0025", "an item of split val: b is 'bar-val-0025'"),
        (f"{LG[1]},bar-test-0033", "an item of split test"),
        (f"{LG[1]},{LB[0]},more", "more values than columns: 3 values, the header has 2"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(inputs: BuildInputs, bad: str, words: str) -> None:
    assert reason(inputs, bad).startswith(words)


@pytest.mark.parametrize(
    ("header", "bad", "words"),
    [
        (
            "a,b,label",
            f"{LG[1]},{LB[0]},standing",
            "labels disagree: a says 'lying', b says 'lying', the file",
        ),
        ("a,b,label", f"{LG[1]},{LB[0]},lyin", "no such label: 'lyin', perhaps 'lying'"),
        ("a,b,label", f"{LG[1]},{LB[0]},7", "no such label: '7', one of lying, standing"),
        ("a,b,env_b", f"{LG[1]},{LB[0]},browm", "no such environment: 'browm', perhaps 'brown'"),
        ("a,b,env_a", f"{LG[1]},{LB[0]},brown", "environments disagree: a is in 'green', env_a says 'brown'"),
        ("a,b,score", f"{LG[1]},{LB[0]},high", "score is no finite number: 'high'"),
        ("a,b,score", f"{LG[1]},{LB[0]},inf", "score is no finite number: 'inf'"),
    ],
)
def test_facts_that_are_wrong_say_why(inputs: BuildInputs, header: str, bad: str, words: str) -> None:
    assert reason(inputs, bad, header).startswith(words)


def test_every_row_is_kept_in_whatever_state(inputs: BuildInputs) -> None:
    bad = [f"x,{n}" for n in range(7)] + [",", "x,0", GOOD, GOOD]
    made = build(inputs, "\n".join(["a,b", *bad[:8], "", *bad[8:]]))
    found = rows(made)
    assert [r["line"] for r in found] == [*range(2, 9), 11, 12, 13]
    assert len({r["pair_id"] for r in found}) == 10 and made.counts() == {"ok": 1, "rejected": 9}
    assert made.pairs["status"].to_pylist()[0] == "ok"
    assert found[0]["a_id"] == "x" and found[0]["label"] is None
    assert made.notes[0].startswith("rejected 8, such as line 2: no such item or file: a is 'x'")


def test_a_pair_that_an_unused_row_names_first_is_no_duplicate(inputs: BuildInputs) -> None:
    first, second = rows(build(inputs, f"a,b,score\n{GOOD},high\n{GOOD},1\n"))
    assert (first["status"], second["status"]) == ("rejected", "ok")


def test_options_allow_other_splits_and_one_environment(inputs: BuildInputs) -> None:
    text = f"a,b\n{LG[0]},bar-val-0027\n{LG[0]},{LG[1]}\n"
    made = build(inputs, text, splits=["train", "val"], same_env="allow")
    assert made.counts() == {"ok": 2}
    assert "items of split val in the pairs: 1" in made.card
    assert made.notes == ("pairs within one environment, which show nothing of what changes: 1",)
    with pytest.raises(ConfigError, match="splits"):
        build(inputs, text, splits=["dev"])


def test_columns_may_have_other_names(inputs: BuildInputs) -> None:
    text = f"left,right,a\n{LG[0]},{LB[0]},x\n"
    (row,) = rows(build(inputs, text, a="left", b="right"))
    assert (row["a_id"], row["b_id"], row["a"], row["file_a"]) == (LG[0], LB[0], LG[0], "x")


def test_new_images_become_items(inputs: BuildInputs) -> None:
    photograph(inputs, "twice/one.png")
    text = f"a,b,env_b\n{LG[0]},twice/one.png,brown\n{LG[1]},twice/one.png,brown\n"
    made = build(inputs, text)
    assert made.items is not None
    (item,) = MANIFEST.validate(made.items).to_pylist()
    assert {
        k: item[k] for k in ("split", "label", "label_name", "env", "env_name", "origin", "pair_set")
    } == {
        "split": "train",
        "label": 0,
        "label_name": "lying",
        "env": 1,
        "env_name": "brown",
        "origin": "source",
        "pair_set": "import",
    }
    assert (item["width"], item["height"]) == (20, 20)
    assert item["path"] == "data/twice/one.png" and item["subject"] == "train-0-0"
    assert [r["b_id"] for r in rows(made)] == [item["item_id"]] * 2
    assert made.notes == ("images that were no items before, added in split train: 1",)
    assert not set(inputs.manifest["item_id"].to_pylist()) & {item["item_id"]}


def test_the_id_of_a_new_image_is_that_of_its_bytes(inputs: BuildInputs) -> None:
    def made_id(name: str, seed: int, pair_set: str = "import") -> str:
        photograph(inputs, name, seed)
        made = build(replace(inputs, name=pair_set), f"a,b,env_b\n{LG[0]},{name},brown\n")
        return str(rows(made)[0]["b_id"])

    first = made_id("one.png", 1)
    assert made_id("moved/one.png", 1) == first
    assert made_id("one.png", 2) != first
    assert made_id("one.png", 1, "other") != first, "two sets may hold the same image"


def test_two_new_images_need_label_and_environments(inputs: BuildInputs) -> None:
    photograph(inputs, "p.png", 1)
    photograph(inputs, "q.png", 2)
    assert reason(inputs, "p.png,q.png").startswith("label not known: both images are new")
    assert reason(inputs, "p.png,q.png,lying", "a,b,label").startswith("environment not known: a is new")
    header = "a,b,label,env_a,env_b"
    made = build(inputs, f"{header}\np.png,q.png,lying,green,brown\nq.png,p.png,lying,green,brown\n")
    assert made.items is not None and len(made.items) == 2
    subjects = set(made.items["subject"].to_pylist())
    assert len(subjects) == 1 and None not in subjects
    assert "environments disagree" in str(rows(made)[1]["reason"])
    assert rows(build(inputs, f"a,b\n{LG[0]},p.png\n", same_env="allow"))[0]["env_b"] == 0


def test_only_images_of_usable_pairs_become_items(inputs: BuildInputs) -> None:
    photograph(inputs, "p.png", 1)
    made = build(inputs, f"a,b,env_b\n{GOOD},\n{SG[0]},p.png,green\n")
    assert made.items is None and rows(made)[1]["status"] == "rejected"


def test_copies_of_one_image_are_one_item(inputs: BuildInputs) -> None:
    photograph(inputs, "p.png", 1)
    photograph(inputs, "copy.png", 1)
    line = "p.png,copy.png,lying,green,brown"
    assert reason(inputs, line, "a,b,label,env_a,env_b").startswith("a pair with itself")


def test_links_that_lead_out_are_refused_and_those_inside_are_not(
    inputs: BuildInputs, tmp_path: Path
) -> None:
    root = Path(str(inputs.root))
    inside = photograph(inputs, "p.png", 1)
    outside = tmp_path / "outside.png"
    outside.write_bytes(inside.read_bytes())
    (root / "out.png").symlink_to(outside)
    (root / "in.png").symlink_to(inside)
    (root / "circle.png").symlink_to(root / "circle.png")
    header = "a,b,env_b"
    assert "a link that leads out" in reason(inputs, f"{LG[1]},out.png,brown", header)
    assert "no such item or file" in reason(inputs, f"{LG[1]},circle.png,brown", header)
    assert rows(build(inputs, f"{header}\n{LG[1]},in.png,brown\n"))[0]["status"] == "ok"


def test_a_root_reached_by_a_link_knows_its_own_paths(inputs: BuildInputs, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(str(inputs.root))
    photograph(inputs, "p.png", 1)
    linked = replace(inputs, root=tmp_path / "link")
    real = Path(os.path.realpath(str(inputs.root))) / "p.png"
    assert rows(build(linked, f"a,b,env_b\n{LG[0]},{real},brown\n"))[0]["status"] == "ok"


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_file_that_is_no_image_is_a_rejected_pair(inputs: BuildInputs, content: bytes) -> None:
    photograph(inputs, "bad.png").write_bytes(content)
    assert reason(inputs, f"{LG[1]},bad.png,brown", "a,b,env_b").startswith("no image: b is 'bad.png'")


@pytest.mark.parametrize("side", [400, 30_000])
def test_a_huge_image_is_refused_from_its_header(inputs: BuildInputs, side: int) -> None:
    """A decompression bomb: a header that promises far more pixels than the file has."""
    header = png(np.zeros((4, 4), np.uint8))
    size = side.to_bytes(4, "big")
    ihdr = b"IHDR" + size + size + header[24:29]
    bomb = header[:12] + ihdr + zlib.crc32(ihdr).to_bytes(4, "big") + header[33:]
    photograph(inputs, "bomb.png").write_bytes(bomb)
    words = reason(inputs, f"{LG[1]},bomb.png,brown", "a,b,env_b", max_pixels=100_000)
    assert words.startswith("too large an image: b is 'bomb.png'") and "more than 100000 pixels" in words


def test_a_special_file_is_not_waited_on(inputs: BuildInputs) -> None:
    os.mkfifo(Path(str(inputs.root)) / "pipe.png")
    assert reason(inputs, f"{LG[1]},pipe.png,brown", "a,b,env_b").startswith("no image: b is 'pipe.png'")


def test_sizes_heed_the_orientation(inputs: BuildInputs) -> None:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 10)).save(file, "JPEG", exif=exif)
    photograph(inputs, "turned.jpg").write_bytes(file.getvalue())
    made = build(inputs, f"a,b,env_b\n{LG[0]},turned.jpg,brown\n")
    assert made.items is not None
    assert (made.items["width"].to_pylist(), made.items["height"].to_pylist()) == ([10], [30])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "pairs.csv is empty"),
        (b" \n\n", "pairs.csv is empty"),
        (b"a,b\n", "lists no pair: got a header alone"),
        (b"A,B\nx,y\n", "no column 'a' and no column 'b': got 'A', 'B'; .* --set a=A --set b=B"),
        (b"a,other,more\nx,y,z\n", "no column 'b'"),
        (b"a,b,a\nx,y,z\n", "column 'a' more than once"),
        ("a,b\ngr\xfcn,x\n".encode("latin-1"), "wrong encoding: got byte 0xfc on line 2, expected UTF-8"),
        ("a,b\nx,y\n".encode("utf-16"), "wrong encoding: got UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "not a CSV file: got bytes that are no text"),
        (b"PAR1\0\0PAR1", "not a CSV file: got Parquet"),
        (b'a,b\nx,y\n"x,y\nz,w\n', "begins on line 3; check the quotation marks"),
        (b'a,b\n"x"y,z\n', "begins on line 2"),
        (b"a,b\n" + b"x" * 140_000 + b",y\n", "field larger than field limit"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(inputs: BuildInputs, content: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        build(inputs, content)
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there_or_of_another_kind(inputs: BuildInputs, tmp_path: Path) -> None:
    builder = ImportBuilder(ImportOptions())
    for file, words in (
        (tmp_path / "none.csv", "cannot read .*none.csv: got No such file"),
        (tmp_path / "list.xlsx", "got ending '.xlsx', expected one of .csv, .tsv, .parquet"),
        (tmp_path / "list", "no ending"),
        (tmp_path, "no ending"),
    ):
        with pytest.raises(DataError, match=words):
            builder.build(replace(inputs, source_file=file))
    with pytest.raises(ConfigError, match="--from FILE"):
        builder.build(replace(inputs, source_file=None))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match=r"broken\.parquet is not a Parquet file"):
        builder.build(replace(inputs, source_file=tmp_path / "broken.parquet"))
    with pytest.raises(DataError, match="a column each"):
        build(inputs, "a,b\nx,y\n", b="a")


def test_no_usable_row_is_one_line_with_the_reasons(inputs: BuildInputs) -> None:
    with pytest.raises(DataError, match=r"no pair of pairs\.csv can be used: got 3 rows; 2, such as line 2"):
        build(inputs, f"a,b\nx,y\nx,z\n{LG[0]},{LG[0]}\n")


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_spreadsheets_in_their_ways(inputs: BuildInputs, separator: str) -> None:
    lines = [["a", "b", "note"], [LG[0], f' "{LB[0]}"'.strip(), '"two\nlines"'], [LG[1], LB[1], ""]]
    text = "\r\n".join(separator.join(line) for line in lines)
    found = rows(build(inputs, b"\xef\xbb\xbf" + text.encode()))
    assert [r["line"] for r in found] == [2, 4] and {r["status"] for r in found} == {"ok"}
    assert found[0]["note"] == "two\nlines"


def test_tsv_and_parquet_hold_the_same(inputs: BuildInputs, tmp_path: Path) -> None:
    (tmp_path / "p.tsv").write_text(f"a\tb\n{LG[0]}\t{LB[0]}\n")
    table = pa.table({"a": [LG[0], None], "b": [LB[0], "7"], "label": [0, 0], "when": [1.5, 2.5]})
    pq.write_table(table, tmp_path / "p.PARQUET")
    builder = ImportBuilder(ImportOptions())
    tsv = rows(builder.build(replace(inputs, source_file=tmp_path / "p.tsv")))
    parquet = rows(builder.build(replace(inputs, source_file=tmp_path / "p.PARQUET")))
    assert tsv[0]["pair_id"] == parquet[0]["pair_id"]
    assert [r["when"] for r in parquet] == [1.5, 2.5]
    assert parquet[1]["reason"] == "an item is left out: a is empty" and parquet[1]["line"] == 2
    pq.write_table(pa.table({"a": [1], "b": [["x"]]}), tmp_path / "odd.parquet")
    with pytest.raises(DataError, match="column 'b' has the wrong type"):
        builder.build(replace(inputs, source_file=tmp_path / "odd.parquet"))


def many(n: int = 12) -> str:
    pairs = [(a, b) for a in LG for b in LB] + [(a, b) for a in SG for b in SB]
    return "\n".join(["a,b", *(f"{a},{b}" for a, b in pairs[:n])])


def test_all_rows_are_taken_unless_a_limit_is_given(inputs: BuildInputs) -> None:
    made = build(replace(inputs, n_pairs=3), many())
    assert made.counts() == {"ok": 12}
    assert made.notes[0].startswith(
        "all 12 pairs of the file are taken; 'pairs' of the configuration, 3, does not cut"
    )
    assert "| pairs asked for | all that the file lists |" in made.card
    short = build(inputs, many(), limit=99)
    assert short.counts() == {"ok": 12}
    assert short.notes == ("asked for 99 pairs, made 12: the file has no more that can be used",)


def test_a_limit_is_spread_over_the_cells_and_a_larger_one_begins_with_the_smaller(
    inputs: BuildInputs,
) -> None:
    whole = build(inputs, many() + "\nx,y\n")
    ids = whole.pairs["pair_id"].to_pylist()
    for limit in (1, 4, 11):
        made = build(inputs, many() + "\nx,y\n", limit=limit)
        assert made.pairs["pair_id"].to_pylist() == ids
        assert made.pairs["status"].to_pylist() == ["ok"] * limit + ["dropped"] * (12 - limit) + ["rejected"]
    four = build(inputs, many(), limit=4).pairs.slice(0, 4)
    assert sorted(four["label"].to_pylist()) == [0, 0, 1, 1]


def test_the_same_file_gives_the_same_bytes(inputs: BuildInputs) -> None:
    photograph(inputs, "p.png", 1)
    text = many() + f"\nx,y\n{LG[0]},p.png\n"
    one, two = build(inputs, text, same_env="allow"), build(inputs, text, same_env="allow")
    assert one.pairs.equals(two.pairs) and one.card == two.card and one.notes == two.notes
    assert one.items is not None and one.items.equals(two.items)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60), head=st.sampled_from([b"", b"a,b\n", b"a;b\n", b'"a","b"\r\n']))
def test_no_bytes_end_in_anything_but_rows_or_one_line(tmp_path: Path, content: bytes, head: bytes) -> None:
    path = tmp_path / "any.csv"
    path.write_bytes(head + content)
    try:
        found = read_pair_file(path)
    except CfpairsError as error:
        assert "\n" not in str(error)
    else:
        assert found.rows and all(row.line >= 2 for row in found.rows)


def test_the_card_says_what_became_of_the_rows(inputs: BuildInputs) -> None:
    card = build(inputs, many() + "\nx,y\nx,z\n").card
    for words in (
        "Licence: CC0",
        "| file | pairs.csv |",
        "| rows | 14 |",
        "12 ok, 2 rejected. Yield: 12 of 14 tried, 85.7 %.",
        "| lying | green | brown | 6 | 0 |",
        "| not known | not known | not known | 0 | 2 |",
        "| no such item or file | 2 | a is 'x'",
        "nothing checks that the two images",
    ):
        assert words in card


def test_the_registry_knows_the_builder() -> None:
    assert resolve("pairs", "import") is ImportBuilder
    with pytest.raises(ConfigError, match="wrong options"):
        ImportBuilder(Other())


class Other(ImportOptions.__base__):  # type: ignore[misc, name-defined]
    """Options of nobody."""
