"""Coloured MNIST: what it promises about labels, colours, files and bytes, and which IDX files it refuses."""

from __future__ import annotations

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from idx_files import fake_part, idx_bytes, write_idx
from numpy.typing import NDArray
from PIL import Image

from cfpairs.config import parse_options
from cfpairs.datasets import colored_mnist
from cfpairs.datasets.colored_mnist import ColoredMNIST, colour_image
from cfpairs.datasets.colored_mnist_plan import ColoredMNISTOptions, plan_part
from cfpairs.datasets.idx import find_parts, idx_shape, read_idx, read_part
from cfpairs.errors import ConfigError, DataError, WorkspaceError
from cfpairs.progress import SILENT
from cfpairs.registry import resolve
from cfpairs.workspace import Workspace

REAL = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts its files."""

CLASSES = (np.arange(60_000) % 10).astype(np.uint8)


def options(**values: object) -> ColoredMNISTOptions:
    return parse_options(ColoredMNISTOptions, values, "data.options")


def drawn(root: Path, workspace: Workspace, seed: int = 0, **values: object) -> pd.DataFrame:
    data = ColoredMNIST(options(**values))
    data.prepare(root, workspace, seed, SILENT)
    return data.manifest(root, workspace, seed).to_pandas()


def hashes(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*.*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_idx(tmp_path_factory.mktemp("idx"))


@pytest.fixture(scope="module")
def workspace(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    made = Workspace(tmp_path_factory.mktemp("work"))
    ColoredMNIST(options()).prepare(root, made, 0, SILENT)
    return made


@pytest.fixture
def manifest(root: Path, workspace: Workspace) -> pd.DataFrame:
    return ColoredMNIST(options()).manifest(root, workspace, 0).to_pandas()


def within(found: float, wanted: float, n: int) -> bool:
    return abs(found - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / n)


def test_labels_and_colours_are_flipped_as_often_as_published() -> None:
    train = pd.DataFrame(plan_part(options(limit=None), "train", CLASSES[:20_000], 0))
    test = pd.DataFrame(plan_part(options(limit=None), "t10k", CLASSES[:10_000], 0))
    assert len(train) == 20_000 and len(test) == 10_000
    assert (train["split"] == "val").sum() == 2000
    for part in (train, test):
        true = CLASSES[part["index"]] >= 5
        assert ((part["label"] != true) == part["flipped"]).all()
        assert within(part["flipped"].mean(), 0.25, len(part))
    for items, domain, flips in ((train, 0, 0.1), (train, 1, 0.2), (test, 2, 0.9)):
        chosen = items[items["domain"] == domain]
        assert len(chosen) == 10_000
        off = chosen["colour"] != chosen["label"]
        assert within(off.mean(), flips, len(chosen))
        # The colour follows the noisy label, not the class: the noise of the label tells nothing about it.
        assert within(off[chosen["flipped"]].mean(), flips, int(chosen["flipped"].sum()))
    assert set(train["domain"]) == {0, 1}
    assert train.groupby(["split", "domain"]).size().tolist() == [9000, 9000, 1000, 1000]


def test_a_larger_limit_adds_items_and_changes_none() -> None:
    for part in ("train", "t10k"):
        few = plan_part(options(limit=500), part, CLASSES, 3)
        many = plan_part(options(limit=2000), part, CLASSES, 3)
        assert len(few) == 500 and len(many) == 2000
        assert set(few) < set(many)
    assert len(set(few) & set(plan_part(options(limit=500), "t10k", CLASSES, 4))) < 50


def test_what_is_class_one_can_be_chosen(root: Path, tmp_path: Path) -> None:
    table = drawn(root, Workspace(tmp_path), classes=[0, 1, 9], label_noise=0)
    assert (table["label"] == table["class"].isin([0, 1, 9])).all()
    assert set(zip(table["label"], table["label_name"], strict=True)) == {(0, "2-8"), (1, "0-1,9")}
    assert not table["flipped"].any()


def test_each_image_is_the_source_in_one_channel(manifest: pd.DataFrame, workspace: Workspace) -> None:
    sources = {"train": fake_part(80, 9, 0)[0], "t10k": fake_part(40, 9, 0)[0]}
    assert len(manifest) == 120
    for row in manifest.to_dict("records"):
        part, index = row["subject"].split("-")
        with Image.open(workspace.file(row["path"])) as image:
            assert image.mode == "RGB" and image.size == (row["width"], row["height"]) == (9, 9)
            pixels = np.asarray(image)
        assert (pixels[..., row["env"]] == sources[part][int(index)]).all()
        assert not pixels[..., [1 - row["env"], 2]].any()
        assert row["env_name"] == ("red", "green")[row["colour"]]
        assert row["class"] == int(index) % 10
    assert manifest.groupby("split").size().to_dict() == {"train": 72, "val": 8, "test": 40}
    assert manifest["subject"].is_unique and not manifest["path"].str.startswith("/").any()


def test_environments_can_be_the_domains(root: Path, workspace: Workspace, tmp_path: Path) -> None:
    by_domain = drawn(root, Workspace(tmp_path), environment="domain")
    assert (by_domain["env"] == by_domain["domain"]).all()
    assert by_domain.groupby("split")["env"].unique().map(sorted).to_dict() == {
        "train": [0, 1],
        "val": [0, 1],
        "test": [2],
    }
    assert by_domain["env_name"].iloc[-1] == "domain 2 (0.9 flipped)"
    by_colour = ColoredMNIST(options()).manifest(root, workspace, 0).to_pandas()
    assert (by_domain["item_id"] == by_colour["item_id"]).all()


def test_images_can_be_drawn_larger(root: Path, tmp_path: Path) -> None:
    table = drawn(root, Workspace(tmp_path), size=18)
    with Image.open(tmp_path / table["path"][0]) as image:
        assert image.size == (18, 18)
    other = drawn(root, Workspace(tmp_path / "native"))
    assert set(table["item_id"]).isdisjoint(other["item_id"])
    assert (colour_image(np.full((9, 9), 7, np.uint8), 1, 18)[..., 1] == 7).all()


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(
    root: Path, workspace: Workspace, tmp_path: Path
) -> None:
    first = hashes(workspace.root)
    assert len(first) == 121
    drawn(root, Workspace(tmp_path / "again"))
    assert hashes(tmp_path / "again") == first
    drawn(root, Workspace(tmp_path / "other"), seed=1)
    assert hashes(tmp_path / "other").keys() != first.keys()


def test_plain_or_packed_dots_or_hyphens_are_all_the_same(
    root: Path, manifest: pd.DataFrame, tmp_path: Path
) -> None:
    for number, (packed, dots) in enumerate([(False, False), (False, True), (True, True)]):
        folder = tmp_path / str(number) / ("raw" if number else "")
        write_idx(folder, packed=packed, dots=dots)
        table = drawn(tmp_path / str(number), Workspace(tmp_path / f"w{number}"))
        pd.testing.assert_frame_equal(table, manifest)


def test_nothing_is_written_into_the_root_and_a_second_run_does_nothing(root: Path, tmp_path: Path) -> None:
    before, workspace = hashes(root), Workspace(tmp_path)
    drawn(root, workspace)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.p*")}
    drawn(root, workspace)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.p*")} == times
    assert hashes(root) == before


def test_other_settings_are_drawn_anew(root: Path, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    old, new = ColoredMNIST(options()), ColoredMNIST(options(test_flip=0.5))
    old.prepare(root, workspace, 0, SILENT)
    assert len({d.digest(root, s) for d in (old, new) for s in (0, 1)}) == 4
    with pytest.raises(WorkspaceError, match="prepare"):
        new.manifest(root, workspace, 0)
    new.prepare(root, workspace, 0, SILENT)
    table = new.manifest(root, workspace, 0).to_pandas()
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert files == set(table["path"])


def test_the_digest_follows_the_files(tmp_path: Path) -> None:
    data = ColoredMNIST(options())
    write_idx(tmp_path, test=40)
    first = data.digest(tmp_path, 0)
    assert data.digest(tmp_path, 0) == first
    write_idx(tmp_path, test=41)
    assert data.digest(tmp_path, 0) != first


@pytest.mark.parametrize("lost", ["items.parquet", "image"])
def test_a_broken_folder_is_mended(root: Path, tmp_path: Path, lost: str) -> None:
    drawn(root, Workspace(tmp_path))
    whole = hashes(tmp_path)
    name = next(f for f in whole if f.endswith(lost if lost != "image" else ".png"))
    (tmp_path / name).unlink()
    drawn(root, Workspace(tmp_path))
    assert hashes(tmp_path) == whole


def test_a_run_that_breaks_leaves_nothing_that_passes_for_complete(
    root: Path, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = iter(range(1000))

    def failing(pixels: NDArray[np.uint8]) -> bytes:
        if next(calls) > 50:
            raise KeyboardInterrupt
        return b"half"

    monkeypatch.setattr(colored_mnist, "encode_png", failing)
    data = ColoredMNIST(options())
    with pytest.raises(KeyboardInterrupt):
        data.prepare(root, Workspace(tmp_path), 0, SILENT)
    with pytest.raises(WorkspaceError):
        data.manifest(root, Workspace(tmp_path), 0)
    monkeypatch.undo()
    drawn(root, Workspace(tmp_path))
    assert hashes(tmp_path) == hashes(workspace.root)


def test_files_of_others_in_the_same_folder_are_left_alone(tmp_path: Path) -> None:
    root = write_idx(tmp_path / "data" / "colored-mnist")
    drawn(root, Workspace(tmp_path))
    drawn(root, Workspace(tmp_path), label_noise=0)
    assert len(list(root.glob("*-ubyte.gz"))) == 4


def test_a_workspace_that_cannot_be_written_is_one_line(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        drawn(root, Workspace(tmp_path))


def test_starting_offers_exact_pairs(root: Path) -> None:
    pairs = ColoredMNIST(options()).starting(root)["pairs"]
    assert [p["method"] for p in pairs] == ["edit", "nearest", "random"]
    assert {p["pairs"] for p in pairs} == {256}
    assert pairs[0]["options"]["editor"] == "recolour"
    # With the domain as environment there is no colour to swap.
    pairs = ColoredMNIST(options(environment="domain")).starting(root)["pairs"]
    assert [p["method"] for p in pairs] == ["nearest", "random"]
    assert resolve("datasets", "colored-mnist") is ColoredMNIST


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label_noise": 0.6}, "label_noise"),
        ({"train_flips": []}, "train_flips: needs at least one"),
        ({"train_flips": [0.1, 1.2]}, "train_flips"),
        ({"classes": [5, 5]}, "names a class twice"),
        ({"classes": [300]}, "classes"),
        ({"validation": 1.0}, "validation"),
        ({"limit": 1}, "limit"),
        ({"environment": "color"}, "environment"),
        ({"size": 4}, "size"),
        ({"test_flips": 0.9}, "perhaps 'test_flip'"),
    ],
)
def test_bad_options_are_one_clear_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        options(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": list(range(10))}, "all items of train have one label"),
        ({"classes": [77]}, "expected some of 77 and some others"),
        ({"limit": 5}, "too few items"),
    ],
)
def test_data_that_make_no_classifier_are_refused(
    root: Path, tmp_path: Path, values: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        drawn(root, Workspace(tmp_path), **values)
    assert not list(tmp_path.rglob("*.parquet"))


LABELS = idx_bytes(fake_part(80, 9, 0)[1])
IMAGES = idx_bytes(fake_part(80, 9, 0)[0])


def header(*lengths: int) -> bytes:
    return bytes([0, 0, 8, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths)


def damaged(content: bytes) -> bytes:
    packed = bytearray(gzip.compress(content, mtime=0))
    packed[-6] ^= 1
    return bytes(packed)


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("images-idx3", b"", "is no IDX file: got it begins with nothing"),
        ("images-idx3", b"\x89PNG\r\n\x1a\n", "is no IDX file: got it begins with 89504e47"),
        ("images-idx3", idx_bytes(fake_part(80, 9, 0)[0], 0x0D), "another type: got float32"),
        ("images-idx3", LABELS, "another shape: got 1 axis, expected 3 axes"),
        ("labels-idx1", IMAGES, "another shape: got 3 axes, expected 1 axis"),
        ("images-idx3", IMAGES[:9], "cut short"),
        ("images-idx3", IMAGES[:-1], "cut short: expected 80 x 9 x 9 values"),
        ("images-idx3", IMAGES + b"\0", "more values than its header says"),
        ("images-idx3", gzip.compress(IMAGES, mtime=0)[:-200], "cut short"),
        ("images-idx3", gzip.compress(IMAGES[:-1], mtime=0), "cut short"),
        ("images-idx3", gzip.compress(IMAGES + b"\0", mtime=0), "more values"),
        ("images-idx3", damaged(IMAGES), "damaged"),
        ("images-idx3", gzip.compress(IMAGES, mtime=0)[:14] + b"\xff" * 99, "damaged"),
        ("images-idx3", header(80, 2**32 - 1, 2**32 - 1), "too large: got 80 x 4294967295 x 4294967295"),
        ("images-idx3", header(80, 5000, 5000), "cut short"),
        ("images-idx3", gzip.compress(header(80, 5000, 5000), mtime=0), "cut short"),
        ("images-idx3", header(80, 0, 9), "empty: got 80 x 0 x 9"),
        (
            "images-idx3",
            idx_bytes(fake_part(79, 9, 0)[0]),
            "do not belong together: got 79 images, 80 labels",
        ),
    ],
)
def test_files_that_are_not_what_they_say_are_refused(
    tmp_path: Path, kind: str, content: bytes, message: str
) -> None:
    root = write_idx(tmp_path / "idx", packed=False)
    (root / f"train-{kind}-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        drawn(root, Workspace(tmp_path / "w"))
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        ColoredMNIST(options()).starting(tmp_path / "nowhere")
    root = write_idx(tmp_path)
    (root / "t10k-labels-idx1-ubyte.gz").rename(root / "elsewhere")
    for call in (ColoredMNIST(options()).starting, find_parts):
        with pytest.raises(DataError, match="no t10k-labels-idx1-ubyte, plain or"):
            call(root)


def test_the_name_does_not_decide_what_is_packed(tmp_path: Path) -> None:
    for name, content in (("plain.gz", IMAGES), ("packed", gzip.compress(IMAGES))):
        (tmp_path / name).write_bytes(content)
        assert idx_shape(tmp_path / name, 3) == (80, 9, 9)
        assert (read_idx(tmp_path / name, 3) == fake_part(80, 9, 0)[0]).all()


@pytest.mark.skipif(not REAL.is_dir(), reason="the package dataset-fashion-mnist is not installed")
def test_the_real_files_are_read(tmp_path: Path) -> None:
    parts = find_parts(REAL)
    images, classes = read_part(parts["t10k"])
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(classes).tolist() == [1000] * 10
    table = drawn(REAL, Workspace(tmp_path), limit=100)
    assert table.groupby("split").size().to_dict() == {"train": 90, "val": 10, "test": 100}
    row = table[table["split"] == "test"].iloc[3].to_dict()
    with Image.open(tmp_path / row["path"]) as image:
        index = int(row["subject"].removeprefix("t10k-"))
        assert (np.asarray(image) == colour_image(images[index], row["colour"])).all()
