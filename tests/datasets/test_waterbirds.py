"""Waterbirds: the standard folder, its counterfactual variant, and files that are not as they should be."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from dataset_fakes import HEADER, WATERBIRDS, fake_waterbirds, write_metadata
from PIL import Image

from cfpairs.config import parse_options, read_config
from cfpairs.datasets.files import notes_of
from cfpairs.datasets.waterbirds import Waterbirds, WaterbirdsOptions
from cfpairs.datasets.waterbirds_rows import PUBLISHED, Listed, published_notes, read_rows
from cfpairs.errors import CfpairsError, ConfigError, DataError
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST
from cfpairs.workspace import Workspace

CONFIGS = Path(__file__).parents[2] / "configs"


def data_set(**options: Any) -> Waterbirds:
    return Waterbirds(parse_options(WaterbirdsOptions, options, "data.options"))


def listed(root: Path, **options: Any) -> pa.Table:
    return MANIFEST.validate(data_set(**options).manifest(root, Workspace(root.parent / "w"), 0))


def groups(table: pa.Table, split: str) -> Counter[tuple[str, str]]:
    rows = table.select(["split", "label_name", "env_name"]).to_pylist()
    return Counter((r["label_name"], r["env_name"]) for r in rows if r["split"] == split)


@pytest.fixture(scope="module")
def standard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_waterbirds(tmp_path_factory.mktemp("birds") / "waterbirds", masks="segmentations")


def test_every_row_of_the_csv_is_an_item(standard: Path) -> None:
    table = listed(standard)
    assert len(table) == sum(WATERBIRDS.values())
    assert groups(table, "train") == {
        ("landbird", "land"): 14,
        ("landbird", "water"): 3,
        ("waterbird", "land"): 2,
        ("waterbird", "water"): 12,
    }
    first = table.slice(0, 1).to_pylist()[0]
    assert first["item_id"] == "150.Sage_Thrasher/Sage_Thrasher_0001_4001.jpg"
    assert first["path"] == (standard / first["item_id"]).as_posix()
    assert (
        first["mask_path"] == (standard / "segmentations" / first["item_id"]).with_suffix(".png").as_posix()
    )
    assert first["subject"] == "Sage_Thrasher_0001_4001"
    assert (first["label"], first["env"], first["split"]) == (0, 0, "train")
    assert (first["width"], first["height"], first["origin"]) == (32, 32, "source")
    assert (first["img_id"], first["place_filename"]) == ("1", "/b/bamboo_forest/00000001.jpg")
    assert notes_of(table) == []


def test_the_root_may_be_the_folder_above(standard: Path) -> None:
    assert listed(standard.parent)["path"].to_pylist() == listed(standard)["path"].to_pylist()
    assert data_set().digest(standard.parent, 0) != ""


def test_two_folders_with_metadata_are_told_apart_by_the_user(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fake_waterbirds(tmp_path / name, {(0, 0, 0): 1}, images=False)
    with pytest.raises(DataError, match=r"more than one folder.*one, two; pass one of them as --root"):
        data_set().digest(tmp_path, 0)


@pytest.mark.parametrize("place", ["masks", "CUB_200_2011/segmentations", "segmentations"])
def test_masks_are_found_where_they_usually_lie(tmp_path: Path, place: str) -> None:
    root = fake_waterbirds(tmp_path / "birds", {(0, 0, 0): 2, (0, 1, 1): 2}, masks=place)
    assert listed(root)["mask_path"].null_count == 0
    assert all(Path(p).is_file() for p in listed(root)["mask_path"].to_pylist())


def test_masks_may_lie_flat_or_elsewhere_and_a_missing_one_is_said(tmp_path: Path) -> None:
    root = fake_waterbirds(tmp_path / "birds", {(0, 0, 0): 2, (0, 1, 1): 2}, masks="../cut/deep")
    table = listed(root, masks="../cut")
    assert table["mask_path"].null_count == 0
    Path(table["mask_path"][0].as_py()).unlink()
    table = listed(root, masks="../cut")
    assert table["mask_path"].null_count == 1
    assert "1 of 4 images have no mask" in notes_of(table)[0]
    assert listed(root)["mask_path"].null_count == 4
    with pytest.raises(DataError, match="no folder of masks"):
        listed(root, masks="nowhere")
    other = fake_waterbirds(tmp_path / "others", {(0, 0, 0): 1}, masks="../strange")
    for file in (tmp_path / "strange").rglob("*.png"):
        file.rename(file.with_name("x.png"))
    with pytest.raises(DataError, match="no image has a mask"):
        listed(other, masks="../strange")


def test_two_backgrounds_of_one_bird_are_one_subject(tmp_path: Path) -> None:
    rows = [
        ("land/a.jpg", 0, 0, 0),
        ("water/a.jpg", 0, 0, 1),
        ("land/b.jpg", 0, 0, 0),
        ("land/c/b.jpg", 1, 0, 0),
    ]
    write_metadata(tmp_path / "w", rows, ("img_filename", "y", "split", "place"))
    for name, *_ in rows:
        (tmp_path / "w" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "w" / name)
    table = listed(tmp_path / "w")
    # A name that stands for two labels cannot be one bird.
    assert table["subject"].to_pylist() == ["a", "a", "land/b.jpg", "land/c/b.jpg"]
    assert "img_id" not in table.column_names


def test_the_counterfactual_variant_leaves_out_the_minority_of_train_alone(standard: Path) -> None:
    table, all_items = listed(standard, variant="counterfactual"), listed(standard)
    assert groups(table, "train") == {("landbird", "land"): 14, ("waterbird", "water"): 12}
    for split in ("val", "test"):
        assert groups(table, split) == groups(all_items, split)
    assert set(table["item_id"].to_pylist()) < set(all_items["item_id"].to_pylist())
    assert notes_of(table) == [
        "variant counterfactual leaves out 5 training items: 3 of landbird on water, 2 of waterbird on land"
    ]


def test_the_counterfactual_variant_starts_with_an_edit_for_each_item_left_out(standard: Path) -> None:
    assert data_set().starting(standard) == {}
    started = data_set(variant="counterfactual").starting(standard)
    options = {
        "choose": "minority",
        "shares": {"landbird": 3, "waterbird": 2},
        "checks": {"label": None},
    }
    assert started["data"] == {"train_with": ["edit"]}
    assert started["pairs"][0] == {"method": "edit", "pairs": 5, "options": options}
    assert [pair["method"] for pair in started["pairs"]] == ["edit", "nearest", "random"]


def test_published_sizes_give_the_published_edits(tmp_path: Path) -> None:
    counts = {
        (split, y, e): PUBLISHED[name][2 * y + e]
        for split, name in enumerate(("train", "val", "test"))
        for y in (0, 1)
        for e in (0, 1)
    }
    assert [sum(PUBLISHED[s]) for s in ("train", "val", "test")] == [4795, 1199, 5794]
    root = fake_waterbirds(tmp_path, counts, images=False)
    assert published_notes(read_rows(root / "metadata.csv")) == []
    pairs = data_set(variant="counterfactual").starting(root)["pairs"]
    assert pairs[0]["pairs"] == 240
    assert pairs[0]["options"]["shares"] == {"landbird": 184, "waterbird": 56}
    shipped = read_config(CONFIGS / "waterbirds-cf.yaml")
    assert [p.model_dump(include={"method", "pairs", "options"}) for p in shipped.pairs] == pairs
    assert shipped.data.train_with == ("edit",)
    assert data_set(**shipped.data.options).options.model_dump()["variant"] == "counterfactual"


def test_a_size_that_is_not_the_published_one_is_shown() -> None:
    rows = [
        Listed(f"{split}-{y}-{e}-{i}", split, y, e)
        for split, sizes in PUBLISHED.items()
        for y in (0, 1)
        for e in (0, 1)
        for i in range(sizes[2 * y + e])
    ]
    assert published_notes(rows) == []
    rows.remove(Listed("train-0-1-7", "train", 0, 1))
    assert published_notes(rows) == ["train: 183 of landbird on water, published are 184"]
    assert published_notes(rows[:100]) == []


@pytest.mark.parametrize(
    "counts",
    [{(0, 0, 0): 4, (0, 1, 1): 4}, {(0, 0, 0): 4, (0, 0, 1): 1, (0, 1, 0): 4, (0, 1, 1): 1}, {(1, 0, 0): 2}],
)
def test_a_variant_without_a_minority_is_refused(
    tmp_path: Path, counts: dict[tuple[int, int, int], int]
) -> None:
    root = fake_waterbirds(tmp_path / "b", counts, size=8)
    for ask in (lambda d: d.starting(root), lambda d: d.manifest(root, Workspace(tmp_path / "w"), 0)):
        with pytest.raises(DataError, match="needs labels that go with different places"):
            ask(data_set(variant="counterfactual"))
    assert len(listed(root)) == sum(counts.values())


def test_more_labels_and_places_get_names(tmp_path: Path) -> None:
    root = fake_waterbirds(tmp_path / "b", {(0, 0, 0): 1, (0, 1, 1): 1, (0, 2, 2): 1}, size=8)
    table = listed(root)
    assert table["label_name"].to_pylist() == ["label 0", "label 1", "label 2"]
    assert table["env_name"].to_pylist() == ["env 0", "env 1", "env 2"]
    named = listed(root, label_names=["a", "b", "c"], env_names=["x", "y", "z"])
    assert named["label_name"].to_pylist() == ["a", "b", "c"]
    assert named["env_name"].to_pylist() == ["x", "y", "z"]
    for names in (["a", "b"], ["a", "a", "b"]):
        with pytest.raises(
            ConfigError, match=r"label_names does not name every label once.*expected 3 names"
        ):
            listed(root, label_names=names)


def test_a_few_bad_images_stay_without_a_size_and_many_end_the_run(tmp_path: Path) -> None:
    root = fake_waterbirds(tmp_path / "b", {(0, 0, 0): 12, (0, 1, 1): 12}, size=8)
    files = sorted(root.rglob("*.jpg"))
    files[0].unlink()
    files[1].write_bytes(b"no image")
    files[2].unlink()
    os.mkfifo(files[2])  # waiting for somebody to write into it would never end
    table = listed(root)
    sizes = dict(zip(table["path"].to_pylist(), table["width"].to_pylist(), strict=True))
    assert [sizes[f.as_posix()] for f in files[:4]] == [0, 0, 0, 8]
    assert "3 of 24 images are missing or unreadable" in notes_of(table)[0]
    for file in files[3:11]:
        file.unlink()
    with pytest.raises(
        DataError, match=r"too many images are missing or unreadable: got 11 of 24, such as '001"
    ):
        listed(root)


def test_sizes_are_those_of_the_image_as_it_is_seen(tmp_path: Path) -> None:
    write_metadata(tmp_path / "b", [("turned.jpg", 0, 0, 0), ("huge.png", 1, 0, 1)], HEADER[1:5])
    turned = Image.new("RGB", (20, 10))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "b" / "turned.jpg", exif=exif)
    Image.new("1", (20_000, 4_500)).save(tmp_path / "b" / "huge.png")
    table = listed(tmp_path / "b")
    assert (table["width"].to_pylist(), table["height"].to_pylist()) == ([10, 0], [20, 0])


def test_the_digest_covers_the_csv_the_images_the_masks_and_the_options(tmp_path: Path) -> None:
    root = fake_waterbirds(tmp_path / "b", size=8, masks="masks")
    before = data_set().digest(root, 0)
    assert before == data_set().digest(root, 0)
    image, mask = next(root.rglob("Sage*.jpg")), next((root / "masks").rglob("*.png"))

    def longer() -> None:
        image.write_bytes(image.read_bytes() + b"x")

    def later() -> None:
        os.utime(image, ns=(time.time_ns(), time.time_ns() + 10**9))

    def other_csv() -> None:
        text = (root / "metadata.csv").read_text()
        (root / "metadata.csv").write_text(text.replace("bamboo", "birch", 1))

    seen = {before, data_set(variant="counterfactual").digest(root, 0)}
    for change in (longer, later, image.unlink, mask.unlink, other_csv):
        change()
        digest = data_set().digest(root, 0)
        assert digest not in seen
        seen.add(digest)


SHORT = "img_filename,y,split,place"
A = "a.jpg,0,0,1"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "is empty: expected a header with img_filename, y, split, place"),
        ([SHORT], "lists no image"),
        (["filename,y,split,place", A], r"no column 'img_filename'.*rename the column \(perhaps 'filename'"),
        (["img_filename;y;split;place", "a.jpg;0;0;1"], "no column 'img_filename'"),
        (["img_filename,y,y,split,place", "a.jpg,0,0,0,1"], "has the column 'y' twice"),
        ([SHORT, A, "b.jpg,0,3,1"], r"line 3: wrong split: got '3', expected 0 \(train\), 1 \(val\)"),
        ([SHORT, "a.jpg,0,train,1"], "line 2: wrong split: got 'train'"),
        ([SHORT, "a.jpg,landbird,0,1"], "line 2: wrong y: got 'landbird'"),
        ([SHORT, "a.jpg,nan,0,1"], "line 2: wrong y: got 'nan'"),
        ([SHORT, "a.jpg,0,0,-1"], "line 2: wrong place: got '-1'"),
        ([SHORT, A, "", "./a.jpg,0,0,1"], "line 4: image 'a.jpg' is listed twice: got first in line 2"),
        ([SHORT, "a.jpg,0"], "line 2: 2 values: expected 4, as the header"),
        ([SHORT, '"a.jpg,0'], "is not CSV"),
        ([SHORT, "\udcff.jpg,0,0,1"], "is not UTF-8: got a bad byte at 27"),
        ([SHORT, ",0,0,1"], "empty or no possible name: got ''"),
        ([SHORT, "a\0b.jpg,0,0,1"], "empty or no possible name"),
        ([SHORT, "../../etc/passwd,0,0,1"], "leaves the data folder: got '../../etc/passwd'"),
        ([SHORT, "/etc/passwd,0,0,1"], "leaves the data folder: got '/etc/passwd'"),
    ],
)
def test_a_wrong_csv_is_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    text = "".join(line + "\n" for line in lines)
    (tmp_path / "metadata.csv").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=message) as caught:
        listed(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_csv_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    text = '\ufeffimg_filename, y,split,place\r\n"\u00fcber, b.jpg",0.0,0,1\r\n,,,\r\n'
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    assert read_rows(tmp_path / "metadata.csv") == [Listed("\u00fcber, b.jpg", "train", 0, 1)]


def test_a_link_out_of_the_root_is_refused_unless_allowed(tmp_path: Path) -> None:
    root = fake_waterbirds(tmp_path / "b", {(0, 0, 0): 1, (0, 1, 1): 1}, size=8)
    image = next(root.rglob("Sage*.jpg"))
    image.rename(tmp_path / "away.jpg")
    image.symlink_to(tmp_path / "away.jpg")
    with pytest.raises(DataError, match=r"a path leaves the data folder.*move or copy"):
        listed(root)
    assert listed(root, links_out=True)["width"].to_pylist() == [8, 8]
    image.unlink()
    image.symlink_to(root / "150.Sage_Thrasher" / "other.jpg")
    (tmp_path / "away.jpg").rename(root / "150.Sage_Thrasher" / "other.jpg")
    assert listed(root)["width"].to_pylist() == [8, 8]
    (root / "150.Sage_Thrasher").rename(tmp_path / "birds")
    (root / "150.Sage_Thrasher").symlink_to(tmp_path / "birds")
    with pytest.raises(DataError, match="a path leaves the data folder"):
        listed(root)
    (tmp_path / "link").symlink_to(root)
    assert listed(tmp_path / "link", links_out=True)["width"].to_pylist() == [8, 8]


@pytest.mark.parametrize("kind", ["missing", "file", "empty"])
def test_a_wrong_root_says_what_was_looked_for_and_where_it_comes_from(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("x")
    elif kind == "empty":
        root.mkdir()
    asks: list[Callable[[Waterbirds], object]] = [
        lambda d: d.starting(root),
        lambda d: d.digest(root, 0),
        lambda d: d.manifest(root, Workspace(tmp_path / "w"), 0),
    ]
    for ask in asks:
        with pytest.raises(DataError, match=r"metadata\.csv.*waterbird_complete95_forest2water2"):
            ask(data_set())


def test_the_registry_knows_it_and_wrong_options_are_one_line() -> None:
    assert resolve("datasets", "waterbirds") is Waterbirds
    with pytest.raises(CfpairsError, match="variant"):
        data_set(variant="counterfctual")
    with pytest.raises(ConfigError, match="unknown key 'mask', expected perhaps 'masks'"):
        data_set(mask="x")
