"""The digits data set: what it promises about splits, groups, files and bytes."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cfpairs.config import parse_options
from cfpairs.datasets import photographs
from cfpairs.datasets.digits import Digits, draw_item
from cfpairs.datasets.digits_plan import DigitsOptions, plan_items
from cfpairs.datasets.photographs import PHOTOGRAPHS, REGIONS, crop_background, load_photograph
from cfpairs.datasets.strokes import paint, stroke_mask
from cfpairs.errors import ConfigError, DataError, WorkspaceError
from cfpairs.progress import SILENT
from cfpairs.registry import resolve
from cfpairs.workspace import Workspace

SMALL = DigitsOptions(size=48, train=80, val=16, test=16)
HERE = Workspace(".")
"""The digits are drawn under their root; nothing goes here."""

FAKE_DIGITS = np.repeat(np.arange(10), 30)


def hashes(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != ".lock")
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("digits")
    Digits(SMALL).prepare(root, HERE, 0, SILENT)
    return root


@pytest.fixture
def manifest(drawn: Path) -> pa.Table:
    return Digits(SMALL).manifest(drawn, Workspace(drawn.parent / "w"), 0)


def groups(table: pa.Table, split: str) -> Counter[tuple[int, int]]:
    rows = [r for r in table.select(["split", "label", "env"]).to_pylist() if r["split"] == split]
    return Counter((r["label"], r["env"]) for r in rows)


def test_groups_have_the_shortcut_in_train_and_are_balanced_elsewhere(manifest: pa.Table) -> None:
    # 40 items a label in threes: 13 subjects, of which 5 % is one, whose last rendering is cut off.
    assert groups(manifest, "train") == {(0, 0): 39, (0, 1): 1, (1, 0): 1, (1, 1): 39}
    for split in ("val", "test"):
        assert groups(manifest, split) == {(0, 0): 4, (0, 1): 4, (1, 0): 4, (1, 1): 4}


def test_default_options_give_what_the_card_says() -> None:
    planned = plan_items(DigitsOptions(), FAKE_DIGITS, 0)
    train = Counter((i.label, i.env) for i in planned if i.split == "train")
    total = sum(train.values())
    assert total >= 1500
    assert (train[0, 0] + train[1, 1]) / total == pytest.approx(0.95, abs=0.003)
    assert min(train.values()) > 0
    for split in ("val", "test"):
        assert len(set(Counter((i.label, i.env) for i in planned if i.split == split).values())) == 1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    train=st.integers(6, 100).map(lambda n: 2 * n),
    shortcut=st.floats(0.5, 1.0),
)
def test_no_digit_image_is_in_two_splits(seed: int, train: int, shortcut: float) -> None:
    options = DigitsOptions(train=train, val=24, test=48, shortcut=shortcut)
    planned = plan_items(options, FAKE_DIGITS, seed)
    subjects = {s: {i.digit for i in planned if i.split == s} for s in ("train", "val", "test")}
    assert not subjects["train"] & subjects["val"]
    assert not subjects["train"] & subjects["test"]
    assert not subjects["val"] & subjects["test"]
    assert all(i.label == int(FAKE_DIGITS[i.digit] >= 5) for i in planned)
    assert Counter(i.split for i in planned) == {"train": train, "val": 24, "test": 48}


def test_a_training_scan_keeps_to_one_environment() -> None:
    planned = plan_items(DigitsOptions(train=360, val=8, test=8, renderings=3), FAKE_DIGITS, 3)
    homes: dict[int, list[int]] = {}
    for item in planned:
        if item.split == "train":
            homes.setdefault(item.digit, []).append(item.env)
    assert {len(envs) for envs in homes.values()} == {3}
    assert all(len(set(envs)) == 1 for envs in homes.values())
    apart = plan_items(DigitsOptions(train=360, val=8, test=8, renderings=1), FAKE_DIGITS, 3)
    assert len({i.digit for i in apart if i.split == "train"}) > len(homes)


@settings(max_examples=50, deadline=None)
@given(
    renderings=st.integers(1, 9),
    extra=st.integers(0, 60),
    shortcut=st.floats(0.5, 1.0),
    seed=st.integers(0, 9),
)
def test_every_group_has_items_unless_the_shortcut_is_perfect(
    renderings: int, extra: int, shortcut: float, seed: int
) -> None:
    train = max(8, 4 * renderings) + 2 * extra
    options = DigitsOptions(train=train, val=4, test=4, renderings=renderings, shortcut=shortcut)
    found = Counter((i.label, i.env) for i in plan_items(options, FAKE_DIGITS, seed) if i.split == "train")
    assert len(found) == (2 if shortcut == 1 else 4)
    for label in (0, 1):
        assert found[label, label] + found[label, 1 - label] == train // 2
        off = found[label, label] - shortcut * train / 2
        assert abs(off) <= 2 * renderings


def test_a_scan_comes_again_only_when_its_split_has_run_out() -> None:
    options = DigitsOptions(train=400, val=8, test=8, shortcut=1.0, renderings=1)
    used = Counter(
        i.digit for i in plan_items(options, FAKE_DIGITS, 3) if i.split == "train" and i.label == 0
    )
    assert len(used) == 90
    assert max(used.values()) - min(used.values()) == 1


def test_labels_and_masks_agree_with_the_images(manifest: pa.Table) -> None:
    workspace = Workspace("/")
    for row in manifest.to_pylist()[::9]:
        assert row["label"] == int(row["digit"] >= 5)
        with Image.open(workspace.file(row["path"])) as image, Image.open(row["mask_path"]) as mask:
            assert image.size == mask.size == (row["width"], row["height"]) == (48, 48)
            assert image.mode == "RGB"
            alpha = np.asarray(mask)
            pixels = np.asarray(image, np.int16)
        assert 0.03 < (alpha > 127).mean() < 0.6
        # The stroke has one colour, and the mask says where it is.
        assert pixels[alpha == 255].std(axis=0).max() == 0
        assert pixels[alpha == 0].std(axis=0).max() > 5


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(drawn: Path, tmp_path: Path) -> None:
    Digits(SMALL).prepare(tmp_path / "again", HERE, 0, SILENT)
    assert hashes(tmp_path / "again") == hashes(drawn)
    Digits(SMALL).prepare(tmp_path / "other", HERE, 1, SILENT)
    assert not set(hashes(tmp_path / "other").values()) & set(hashes(drawn).values())


def test_prepare_does_nothing_when_all_is_there(drawn: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in drawn.rglob("*.png")}
    Digits(SMALL).prepare(drawn, HERE, 0, SILENT)
    assert {p: p.stat().st_mtime_ns for p in drawn.rglob("*.png")} == before


def test_other_settings_are_drawn_anew_with_other_ids(drawn: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(drawn, root)
    old = Digits(SMALL)
    new = Digits(SMALL.model_copy(update={"tint": 0.1}))
    assert old.digest(root, 0) != new.digest(root, 0) != new.digest(root, 1)
    with pytest.raises(WorkspaceError, match="prepare"):
        new.manifest(root, Workspace(tmp_path), 0)
    new.prepare(root, HERE, 0, SILENT)
    ids = set(new.manifest(root, Workspace(tmp_path), 0)["item_id"].to_pylist())
    assert not ids & set(old.manifest(drawn, Workspace(tmp_path), 0)["item_id"].to_pylist())
    assert len(list((root / "images").iterdir())) == len(ids)


@pytest.mark.parametrize("lost", ["metadata.csv", "one image"])
def test_a_broken_folder_is_mended(drawn: Path, tmp_path: Path, lost: str) -> None:
    root = tmp_path / "copy"
    shutil.copytree(drawn, root)
    whole = hashes(root)
    (root / "metadata.csv" if lost == "metadata.csv" else sorted((root / "images").iterdir())[3]).unlink()
    Digits(SMALL).prepare(root, HERE, 0, SILENT)
    assert hashes(root) == whole


def test_a_run_that_breaks_leaves_nothing_that_passes_for_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = Digits(SMALL)
    calls = iter(range(1000))

    def failing(*args: object) -> dict[str, object]:
        if next(calls) > 20:
            raise KeyboardInterrupt
        return Digits._draw(data, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(data, "_draw", failing)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(tmp_path / "d", HERE, 0, SILENT)
    with pytest.raises(WorkspaceError):
        data.manifest(tmp_path / "d", Workspace(tmp_path), 0)
    monkeypatch.undo()
    data.prepare(tmp_path / "d", HERE, 0, SILENT)
    assert data.manifest(tmp_path / "d", Workspace(tmp_path), 0).num_rows == 112
    assert not (tmp_path / "d" / ".rendering").exists()


def test_paths_in_the_manifest_are_relative_inside_the_workspace(drawn: Path) -> None:
    table = Digits(SMALL).manifest(drawn, Workspace(drawn.parent), 0)
    assert table["path"][0].as_py().startswith(f"{drawn.name}/images/")
    outside = Digits(SMALL).manifest(drawn, Workspace(drawn / "elsewhere"), 0)
    assert os.path.isabs(outside["mask_path"][0].as_py())


def test_splits_see_different_parts_of_the_photographs() -> None:
    seen = np.zeros((512, 512), int)
    for boxes in REGIONS.values():
        for left, top, right, bottom in boxes:
            seen[top:bottom, left:right] += 1
    assert seen.max() == 1


def test_a_crop_comes_from_its_region(monkeypatch: pytest.MonkeyPatch) -> None:
    marked = np.zeros((512, 512), np.float32)
    for left, top, right, bottom in REGIONS["test"]:
        size = (bottom - top, right - left)
        marked[top:bottom, left:right] = np.random.default_rng(0).uniform(100, 200, size)
    monkeypatch.setattr(photographs, "load_photograph", lambda path: marked)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        assert crop_background(PHOTOGRAPHS["brick"], "test", 64, 0.0, rng).std() > 1
    # Positive control: a crop of another split lies where nothing is drawn.
    assert crop_background(PHOTOGRAPHS["brick"], "train", 64, 0.0, np.random.default_rng(0)).std() == 0


def test_tint_colours_the_background_and_zero_leaves_it_grey() -> None:
    grey = crop_background(PHOTOGRAPHS["grass"], "train", 64, 0.0, np.random.default_rng(0))
    green = crop_background(PHOTOGRAPHS["grass"], "train", 64, 1.0, np.random.default_rng(0))
    assert np.ptp(grey, axis=2).max() < 1e-3
    assert green[..., 1].mean() > green[..., 0].mean() + 10


def test_the_stroke_keeps_its_shape_at_every_size() -> None:
    scan = np.zeros((8, 8))
    scan[1:7, 3:5] = 16
    small = stroke_mask(scan, 64, np.random.default_rng(0))
    large = stroke_mask(scan, 256, np.random.default_rng(0))
    shrunk = np.asarray(Image.fromarray(large).resize((64, 64), Image.Resampling.BOX), np.float64)
    assert np.abs(shrunk - small).mean() < 6
    assert small.max() == 255
    assert small[0].max() == 0


def test_paint_changes_only_where_the_mask_is() -> None:
    rng = np.random.default_rng(0)
    ground = rng.uniform(0, 255, (40, 40, 3)).astype(np.float32)
    mask = np.zeros((40, 40), np.uint8)
    mask[10:20, 10:20] = 255
    image = paint(ground, mask, rng)
    assert (image[mask == 0] == np.rint(ground)[mask == 0]).all()
    assert np.ptp(image[mask == 255], axis=0).max() == 0


def test_drawing_one_item_does_not_depend_on_the_others() -> None:
    options = DigitsOptions(size=32, train=40, val=4, test=4)
    more = options.model_copy(update={"test": 8})
    scan = np.eye(8) * 16
    first, second = (plan_items(o, FAKE_DIGITS, 0)[5] for o in (options, more))
    one, other = draw_item(options, first, scan, 0), draw_item(more, second, scan, 0)
    assert (one[0] == other[0]).all() and (one[1] == other[1]).all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": 8}, "size"),
        ({"train": 1501}, "even"),
        ({"val": 10}, "multiple of 4"),
        ({"shortcut": 1.2}, "shortcut"),
        ({"train": 20, "renderings": 6}, "train must be at least 24"),
        ({"tint": -1}, "tint"),
        ({"sise": 64}, "perhaps 'size'"),
        ({"test": "many"}, "test"),
    ],
)
def test_bad_options_are_one_clear_line(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_options(DigitsOptions, values, "digits")
    assert "\n" not in str(caught.value)


def test_the_registry_knows_the_data_set() -> None:
    assert resolve("datasets", "digits") is Digits
    with pytest.raises(ConfigError):
        Digits(parse_options(type(SMALL).__base__, {}, "x"))


def test_a_missing_photograph_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs, "photograph_path", lambda name: tmp_path / f"{name}.png")
    with pytest.raises(DataError, match="reinstall scikit-image"):
        Digits(SMALL).prepare(tmp_path / "d", HERE, 0, SILENT)


@pytest.mark.parametrize("content", [b"no image", None])
def test_a_broken_photograph_is_a_data_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "grass.png"
    if content is None:
        Image.new("L", (100, 100)).save(path)
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"grass\.png"):
        load_photograph(path)


def test_a_root_that_cannot_be_written_is_a_workspace_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WorkspaceError, match="cannot be written"):
        Digits(SMALL).prepare(tmp_path / "file" / "d", HERE, 0, SILENT)
