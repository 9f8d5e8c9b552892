"""Folders by environment and class: splits that stay, odd names, and trees that are not as they should be."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dataset_fakes import fake_folders, save
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpairs.config import parse_options
from cfpairs.datasets.files import notes_of
from cfpairs.datasets.folders import Folders, FoldersOptions
from cfpairs.datasets.folders_layout import Found, split_of
from cfpairs.datasets.walk import list_images, natural_key
from cfpairs.errors import ConfigError, DataError
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST
from cfpairs.workspace import Workspace

DOT = np.zeros((6, 6, 3), np.uint8)


def data_set(**options: Any) -> Folders:
    return Folders(parse_options(FoldersOptions, options, "data.options"))


def listed(root: Path, **options: Any) -> pa.Table:
    return MANIFEST.validate(data_set(**options).manifest(root, Workspace(root.parent / "w"), 0))


def splits(table: pa.Table) -> dict[str, str]:
    return dict(zip(table["item_id"].to_pylist(), table["split"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_folders(tmp_path_factory.mktemp("folders") / "PACS")


def test_the_tree_says_label_and_environment(pacs: Path) -> None:
    table = listed(pacs)
    assert len(table) == 3 * 2 * 4
    for row in table.to_pylist():
        env, label, _ = row["item_id"].split("/")
        assert (row["env_name"], row["label_name"]) == (env, label)
        assert row["path"] == (pacs / row["item_id"]).as_posix()
        assert (row["width"], row["height"], row["origin"]) == (24, 24, "source")
    assert dict(zip(table["env"].to_pylist(), table["env_name"].to_pylist(), strict=True)) == {
        0: "art_painting", 1: "photo", 2: "sketch"
    }  # fmt: skip
    assert notes_of(table) == []


def test_class_before_domain(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, swapped=True)
    table = listed(root, layout="class/domain")
    assert sorted(set(table["env_name"].to_pylist())) == ["art_painting", "photo", "sketch"]
    assert sorted(set(table["label_name"].to_pylist())) == ["dog", "guitar"]


def test_any_environment_may_be_the_test_one(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=40, size=4)
    for held_out in ("art_painting", "photo", "sketch"):
        rows = listed(root, test_env=held_out).to_pylist()
        assert {r["env_name"] for r in rows if r["split"] == "test"} == {held_out}
        assert all(r["split"] == "test" for r in rows if r["env_name"] == held_out)
        others = [r["split"] for r in rows if r["env_name"] != held_out]
        assert 0.1 < others.count("val") / len(others) < 0.3
        assert set(others) == {"train", "val"}


def test_several_environments_may_be_held_out(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", envs=("a", "b", "c", "d"), each=2, size=4)
    rows = listed(root, test_env=["b", "d"]).to_pylist()
    assert {r["env_name"] for r in rows if r["split"] == "test"} == {"b", "d"}
    with pytest.raises(
        DataError, match="fewer than two environments to train on: got d, expected two or more"
    ):
        listed(root, test_env=["a", "b", "c"])


def test_files_that_are_added_move_no_other_file(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=20, size=4)
    before = splits(listed(root))
    fake_folders(root, envs=("cartoon",), each=5, size=4)
    for number in range(40):
        save(root / "photo" / "dog" / f"new {number}.png", DOT)
    after = splits(listed(root))
    assert len(after) == len(before) + 50
    assert {item: after[item] for item in before} == before
    assert splits(listed(root, split_seed=1)) != after


def test_the_shares_hold_on_average_in_every_group() -> None:
    options = FoldersOptions(val=0.1, test=0.3)
    for env in ("a", "b"):
        for label in ("x", "y"):
            counts = Counter(
                split_of(Found(f"{env}/{label}/{i}.jpg", env, label), options) for i in range(2000)
            )
            # Five standard errors of a share of 2,000 independent items.
            assert counts["val"] / 2000 == pytest.approx(0.1, abs=5 * (0.09 / 2000) ** 0.5)
            assert counts["test"] / 2000 == pytest.approx(0.3, abs=5 * (0.21 / 2000) ** 0.5)


@given(number=st.integers(0, 10_000), seed=st.integers(0, 100))
def test_a_subject_is_in_one_split_wherever_it_was_photographed(number: int, seed: int) -> None:
    options = FoldersOptions(split_seed=seed)
    found = {split_of(Found(f"{env}/dog/{number}_{i}.jpg", env, "dog", f"dog/{number}"), options)
             for env in ("a", "b") for i in range(3)}  # fmt: skip
    assert len(found) == 1


def test_subjects_come_from_names(tmp_path: Path) -> None:
    root = tmp_path / "d"
    for env in ("home", "lab"):
        for label in ("cup", "pen"):
            for name in ("s1_a", "s1_b", "s2_a", "other"):
                save(root / env / label / f"{name}.png", DOT)
    table = listed(root, subject=r"^(s\d+)_")
    subjects = dict(zip(table["item_id"].to_pylist(), table["subject"].to_pylist(), strict=True))
    assert subjects["home/cup/s1_a.png"] == subjects["lab/cup/s1_b.png"] == "cup/s1"
    # The same number in another class is another thing.
    assert subjects["home/pen/s1_a.png"] == "pen/s1"
    assert subjects["home/pen/other.png"] is None
    by_subject: dict[str, set[str]] = {}
    for item, split in splits(table).items():
        by_subject.setdefault(subjects[item] or item, set()).add(split)
    assert all(len(found) == 1 for found in by_subject.values())
    assert listed(root, subject=r"s\d+")["subject"].to_pylist()[1] == "cup/s1"
    with pytest.raises(ConfigError, match="subject: no regular expression"):
        data_set(subject="(")


def test_odd_names_are_kept_and_what_is_no_image_is_not(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", envs=("Real World", "\u5199\u771f"), each=1, size=4)
    odd = [
        "a b,c;'\"$(x).PNG",
        "#%41?&<b>.jpeg",
        "\u00e9t\u00e9 \U0001f426.Jpg",
        "deep/er/x.png",
        "-rf.bmp",
        "new\nline.png",
    ]
    for name in odd:
        save(root / "Real World" / "dog" / "x.png", DOT)
        target = root / "Real World" / "dog" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        (root / "Real World" / "dog" / "x.png").rename(target)
    for name in (
        ".hidden.png",
        "._x.jpg",
        "notes.txt",
        "Thumbs.db",
        "noending",
        "@eaDir/x.jpg",
        ".git/x.jpg",
    ):
        path = root / "Real World" / "dog" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    os.mkfifo(root / "Real World" / "dog" / "pipe.png")
    (root / "__MACOSX" / "dog").mkdir(parents=True)
    (root / "__MACOSX" / "dog" / "x.jpg").write_bytes(b"x")
    table = listed(root)
    ids = {f"Real World/dog/{name}" for name in odd} | {
        f"{env}/{label}/pic_1.jpg" for env in ("Real World", "\u5199\u771f") for label in ("dog", "guitar")
    }
    assert set(table["item_id"].to_pylist()) == ids
    assert 0 not in table["width"].to_pylist()


def test_names_that_no_table_can_hold_are_left_out_and_counted(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    image = root / "photo" / "dog" / "pic_1.jpg"
    try:
        shutil.copy(image, os.fsdecode(os.fsencode(image.parent) + b"/\xff.jpg"))
    except OSError:
        pytest.skip("this file system holds Unicode names only")
    table = listed(root)
    assert len(table) == 6
    assert notes_of(table) == ["images left out because their names are no valid Unicode: 1"]


def test_names_are_numbered_in_natural_order(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", envs=("location_100", "location_38", "Location_9"), each=1, size=4)
    table = listed(root)
    assert dict(zip(table["env"].to_pylist(), table["env_name"].to_pylist(), strict=True)) == {
        0: "Location_9", 1: "location_38", 2: "location_100"
    }  # fmt: skip


@settings(max_examples=30)
@given(st.lists(st.text(alphabet="aB1\u0663\u00b2 .-\u00df", max_size=6), max_size=6), st.randoms())
def test_natural_order_does_not_depend_on_the_order_before(names: list[str], random: Random) -> None:
    ordered = sorted(names, key=natural_key)
    random.shuffle(names)
    assert sorted(names, key=natural_key) == ordered


def test_what_is_odd_is_said(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    (root / "photo" / "zebra").mkdir()
    (root / "empty" / "dog").mkdir(parents=True)
    save(root / "photo" / "stray.png", DOT)
    save(root / "cover.png", DOT)
    shutil.rmtree(root / "sketch" / "dog")
    table = listed(root)
    assert notes_of(table) == [
        "folders without an image: 3, 'empty', 'empty/dog', 'photo/zebra'",
        "images outside the class folders, left out: 2",
    ]
    assert "zebra" not in table["label_name"].to_pylist()


def test_environments_and_classes_can_be_chosen(pacs: Path) -> None:
    table = listed(pacs, envs=["sketch", "photo"], classes="dog,guitar".split(","))
    assert set(table["env_name"].to_pylist()) == {"photo", "sketch"}
    for options, message in (
        (
            {"envs": ["skech", "photo"]},
            "envs names a folder that is not there: got 'skech', expected perhaps 'sketch'",
        ),
        ({"test_env": "Photo"}, "test_env names a folder.*perhaps 'photo'"),
        ({"classes": ["cat", "dog"]}, "classes names a folder that is not there: got 'cat'"),
    ):
        with pytest.raises(ConfigError, match=message):
            listed(pacs, **options)
    with pytest.raises(DataError, match="needs two classes or more: got one, 'dog'"):
        listed(pacs, classes="dog")


def test_options_are_checked() -> None:
    assert data_set(extensions=["JPG", ".Png"]).options.model_dump()["extensions"] == (".jpg", ".png")
    for options, message in (
        ({"val": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"test_env": []}, "test_env: names nothing"),
        ({"val": 0}, "val: Input should be greater than 0"),
        ({"layout": "class"}, "layout"),
    ):
        with pytest.raises(ConfigError, match=message):
            data_set(**options)
    assert resolve("datasets", "folders") is Folders


def test_masks_lie_in_the_same_tree(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=2, size=4)
    assert [p["method"] for p in data_set().starting(root)["pairs"]] == ["nearest", "random"]
    for image in list(root.rglob("*.jpg")):
        save(root / "masks" / image.relative_to(root).with_suffix(".png"), DOT)
    table = listed(root)
    assert len(table) == 12
    assert table["mask_path"][0].as_py() == (root / "masks/art_painting/dog/pic_1.png").as_posix()
    assert table["mask_path"].null_count == 0
    assert [p["method"] for p in data_set().starting(root)["pairs"]] == ["edit", "nearest", "random"]
    (root / "masks").rename(root / "cut")
    for chosen in ("cut", "./cut", str(root / "cut")):
        assert listed(root, masks=chosen)["mask_path"].null_count == 0
    (root / "cut").rename(tmp_path / "cut")
    (tmp_path / "cut/art_painting/dog/pic_1.png").unlink()
    assert "1 of 12 images have no mask" in notes_of(listed(root, masks="../cut"))[0]


def test_a_folder_of_that_name_that_holds_no_masks_is_said_and_a_named_one_refused(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    (root / "masks").mkdir()
    for _ in ("empty", "of other names"):
        assert "6 of 6 images have no mask" in notes_of(listed(root))[0]
        with pytest.raises(DataError, match="no image has a mask in the folder of masks"):
            listed(root, masks="masks")
        save(root / "masks" / "dog.png", DOT)


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    save(tmp_path / "away" / "x.png", DOT)
    within = root / "photo" / "dog" / "link.jpg"
    within.symlink_to(root / "photo" / "guitar" / "pic_1.jpg")
    (root / "notes").symlink_to(tmp_path / "nowhere")
    assert len(listed(root)) == 7
    for link, target in (
        (root / "photo/dog/out.png", "x.png"),
        (root / "photo/cat", "."),
        (root / "gone.png", "no"),
    ):
        link.symlink_to(tmp_path / "away" / target)
        with pytest.raises(DataError, match="a path leaves the data folder"):
            listed(root)
        assert len(listed(root, links_out=True)) == 7 + (target != "no")
        link.unlink()
    (root / "photo" / "cat").symlink_to(root)
    with pytest.raises(DataError, match="a link leads back to a folder above itself: got 'photo/cat'"):
        listed(root)
    (root / "photo" / "cat").unlink()
    (root / "self.png").symlink_to(root / "self.png")
    assert len(listed(root)) == 7


def test_a_workspace_below_the_root_is_no_domain(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    before = data_set().digest(root, 0)
    work = Workspace(root / "cfpairs-work")
    with work.lock():
        save(work.pair_images("edit") / "x.png", DOT)
        assert data_set().digest(root, 0) == before
    work.manifest.write_bytes(b"")
    assert data_set().digest(root, 0) == before
    (root / "manifest.parquet").write_bytes(b"")
    save(Workspace(root).pair_images("edit") / "x.png", DOT)
    assert data_set().digest(root, 0) == before


def test_the_digest_covers_names_sizes_and_times(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    image = root / "photo" / "dog" / "pic_1.jpg"
    seen = {data_set().digest(root, 0), data_set(test_env="photo").digest(root, 0)}
    assert data_set().digest(root, 1) in seen
    changes = [
        lambda: image.write_bytes(image.read_bytes() + b"x"),
        lambda: os.utime(image, ns=(0, 10**18)),
        lambda: image.rename(image.with_name("a.jpg")),
        lambda: save(root / "photo" / "cat" / "x.png", DOT),
        lambda: save(root / "masks" / "photo" / "cat" / "x.png", DOT),
    ]
    for change in changes:
        change()
        digest = data_set().digest(root, 0)
        assert digest not in seen
        seen.add(digest)


def test_a_few_unreadable_images_stay_without_a_size(tmp_path: Path) -> None:
    root = fake_folders(tmp_path / "d", each=3, size=4)
    (root / "photo" / "dog" / "pic_2.jpg").write_bytes(b"")
    table = listed(root)
    assert table["width"].to_pylist().count(0) == 1
    assert "1 of 18 images are missing or unreadable" in notes_of(table)[0]
    for file in root.rglob("*.jpg"):
        file.write_bytes(b"none")
    with pytest.raises(DataError, match="18 of 18"):
        listed(root)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "not laid out by domain and class: got no image below"),
        (["a.jpg", "b.jpg"], "got 2 images directly in"),
        (
            ["dog/a.jpg", "cat/b.jpg"],
            r"one folder deep.*'cat/b\.jpg'.*classes of one domain, pass the folder above",
        ),
        (
            ["PACS/photo/dog/a.jpg", "PACS/sketch/dog/a.jpg"],
            "environments or more: got one, 'PACS'.*/PACS, pass that",
        ),
        (["photo/dog/a.jpg", "sketch/dog/a.jpg"], "needs two classes or more: got one, 'dog'"),
    ],
)
def test_a_tree_of_another_shape_is_one_line(tmp_path: Path, paths: list[str], message: str) -> None:
    (tmp_path / "d").mkdir()
    for path in paths:
        save(tmp_path / "d" / path, DOT)
    for ask in (lambda d: d.starting(tmp_path / "d"), lambda d: listed(tmp_path / "d")):
        with pytest.raises(DataError, match=message) as caught:
            ask(data_set())
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_a_wrong_root_says_what_was_looked_for(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.write_text("x")
    for ask in (lambda d: d.starting(root), lambda d: d.digest(root, 0), lambda d: listed(root)):
        with pytest.raises(DataError, match=r"no data folder.*domain/class/image; PACS, VLCS, OfficeHome"):
            ask(data_set())


def test_a_folder_that_cannot_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_folders(tmp_path / "d", each=1, size=4)
    scan = os.scandir

    def refuse(path: str) -> Any:
        if str(path).endswith("guitar/"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="guitar/ cannot be read: got Permission denied"):
        list_images(root)
