"""The embedding run: what is written, what is resumed, and what a bad image does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import embedding_runs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_runs import BATCH, DIM, PART_ROWS, SIDE, Heard, MeanEncoder, contents, list_items, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cfpairs.config import EncoderConfig
from cfpairs.embedding import content_hash, decode_rgb, embed_items, failures_file
from cfpairs.encoders.factory import open_encoder
from cfpairs.errors import CfpairsError, DataError
from cfpairs.tables import FAILURES, embedding_schema, file_metadata, read_table
from cfpairs.vectors import part_files, read_embeddings
from cfpairs.workspace import Workspace

pytestmark = pytest.mark.embed

N_IMAGES = 18


def draw(number: int) -> Image.Image:
    rng = np.random.default_rng([number, 3])
    return Image.fromarray(rng.integers(0, 256, (9 + number, 12, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eighteen sound images, so parts of 5, 5, 5 and 3."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(N_IMAGES):
        draw(number).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Every file of one run that nothing disturbed."""
    return contents(run(tmp_path_factory.mktemp("unbroken"), list_items(images)).folder)


def expected_vector(image: Image.Image) -> np.ndarray:
    encoder = MeanEncoder()
    return encoder.encode(encoder.preprocess(image)[None])[0]


def test_every_image_gets_its_vector_under_its_id(images: Path, tmp_path: Path):
    items = list_items(images)
    report = run(tmp_path, items)
    assert (report.n_items, report.n_new, report.n_failed) == (N_IMAGES, N_IMAGES, 0)
    assert report.seconds > 0
    assert report.images_per_second == pytest.approx(N_IMAGES / report.seconds)
    assert report.folder == Workspace(tmp_path).embeddings(report.encoder_id)
    found = read_embeddings(report.folder)
    assert found.item_ids == items["item_id"].to_pylist()
    assert found.matrix.dtype == np.float32
    for number in range(N_IMAGES):
        np.testing.assert_allclose(found.matrix[number], expected_vector(draw(number)), atol=1e-6)


def test_what_a_part_holds(images: Path, tmp_path: Path):
    report = run(tmp_path, list_items(images))
    assert [file.name for file in part_files(report.folder)] == [f"part-{n:05d}.parquet" for n in range(4)]
    first = part_files(report.folder)[0]
    table = read_table(first, embedding_schema(DIM))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), DIM)
    assert table["content_hash"][0].as_py() == content_hash((images / "00.png").read_bytes())
    assert len(table["content_hash"][0].as_py()) == 32
    metadata = file_metadata(first)
    assert {**MeanEncoder().info.metadata(), "dtype": "float32", "failures": "[]"} == metadata
    assert read_table(failures_file(report.folder), FAILURES).num_rows == 0


def test_batches_have_one_shape_and_stay_inside_their_part(images: Path, tmp_path: Path):
    encoder = MeanEncoder()
    run(tmp_path, list_items(images), encoder)
    assert {batch.shape for batch in encoder.batches} == {(BATCH, 3, SIDE, SIDE)}
    filled = [int(batch.any(axis=(1, 2, 3)).sum()) for batch in encoder.batches]
    assert filled == [2, 2, 1] * 3 + [2, 1]


def test_nothing_is_done_twice(images: Path, tmp_path: Path):
    items = list_items(images)
    before = contents(run(tmp_path, items).folder)
    encoder = MeanEncoder()
    report = run(tmp_path, items, encoder)
    assert (report.n_new, report.n_failed, report.images_per_second) == (0, 0, 0)
    assert encoder.loads == encoder.prepared == len(encoder.batches) == 0
    assert contents(report.folder) == before


def test_new_items_make_new_parts(images: Path, tmp_path: Path):
    items = list_items(images)
    first = contents(run(tmp_path, items.slice(0, 7)).folder)
    report = run(tmp_path, items)
    assert report.n_new == N_IMAGES - 7
    after = contents(report.folder)
    assert {name: after[name] for name in first if name.startswith("part")} == {
        name: content for name, content in first.items() if name.startswith("part")
    }
    assert sorted(read_embeddings(report.folder).item_ids) == items["item_id"].to_pylist()


def test_the_number_of_threads_changes_no_byte(images: Path, tmp_path: Path, unbroken):
    for workers in (1, 7):
        assert contents(run(tmp_path / str(workers), list_items(images), workers=workers).folder) == unbroken


def test_progress_counts_every_item(images: Path, tmp_path: Path):
    heard = Heard()
    run(tmp_path, list_items(images), progress=heard)
    assert heard.totals == [N_IMAGES] and sum(heard.steps) == N_IMAGES and heard.lines == []


def test_few_images_are_held_at_a_time(images: Path, tmp_path: Path):
    most = 0

    class Watching(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            nonlocal most
            time.sleep(0.01)
            most = max(most, self.prepared - len(self.batches) * BATCH)
            return super().encode(batch)

    run(tmp_path, list_items(images), Watching(), workers=2, part_rows=100)
    assert BATCH < most <= 4 * BATCH


def test_a_killed_run_is_taken_up(images: Path, tmp_path: Path, unbroken):
    command = [sys.executable, embedding_runs.__file__, str(tmp_path), str(images)]
    folder = Workspace(tmp_path).embeddings(MeanEncoder().info.id)
    process = subprocess.Popen([*command, "0.25"])
    try:
        deadline = time.monotonic() + 60
        while not (folder / "part-00001.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    done = {file.name: file.stat() for file in part_files(folder)}
    assert 2 <= len(done) < 4, "the run must have been stopped in the middle"
    (folder / ".part-00002.parquet.4711.tmp").write_bytes(b"left over")
    run(tmp_path, list_items(images))
    assert contents(folder) == unbroken
    for name, before in done.items():
        after = (folder / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "made again"


def test_ctrl_c_leaves_nothing_behind(images: Path, tmp_path: Path, unbroken):
    class Interrupted(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            if len(self.batches) == 4:
                raise KeyboardInterrupt
            return super().encode(batch)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, list_items(images), Interrupted())
    folder = Workspace(tmp_path).embeddings(MeanEncoder().info.id)
    assert list(contents(folder)) == ["part-00000.parquet"]
    assert not [t for t in threading.enumerate() if t.name.startswith("cfpairs-read")]
    assert contents(run(tmp_path, list_items(images)).folder) == unbroken


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lost=st.sets(st.integers(0, 3), min_size=1),
    fault=st.sampled_from(["gone", "empty", "cut", "noise", "no failures", "other encoder"]),
)
def test_any_lost_or_damaged_parts_are_made_again(images, tmp_path_factory, unbroken, lost, fault):
    root = tmp_path_factory.mktemp("damaged")
    folder = run(root, list_items(images)).folder
    for number in lost:
        file = folder / f"part-{number:05d}.parquet"
        whole = file.read_bytes()
        if fault == "gone":
            file.unlink()
        elif fault in ("no failures", "other encoder"):
            table = pq.read_table(file)
            metadata = {**table.schema.metadata, b"encoder_id": b"mean-x"} if "other" in fault else None
            pq.write_table(table.replace_schema_metadata(metadata), file)
        else:
            file.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "noise": b"PAR1" * 90}[fault])
    heard = Heard()
    report = run(root, list_items(images), progress=heard)
    assert report.n_new == sum(3 if number == 3 else PART_ROWS for number in lost)
    after = contents(folder)
    aside = {name for name in after if name.endswith(".unusable")}
    assert {name: after[name] for name in after.keys() - aside} == unbroken
    if fault == "gone":
        assert not aside and not heard.lines
    else:
        assert aside == {f"part-{number:05d}.parquet.unusable" for number in lost}
        assert len(heard.lines) == len(lost)
        assert all("is made again" in line and "\n" not in line for line in heard.lines)


def png_bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    import io

    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def bad_files(folder: Path) -> dict[str, str]:
    """One file of every kind that cannot be embedded: item id -> a part of its reason."""
    whole = png_bytes(draw(5))
    jpeg = png_bytes(Image.effect_noise((24, 24), 90).convert("RGB"), "JPEG")
    for name, content in {
        "bomb.png": png_bytes(Image.new("1", (40, 40))),
        "cut-a.jpg": jpeg[: len(jpeg) // 2],
        "cut-b.png": whole[: len(whole) // 2],
        "empty.png": b"",
        "large.png": png_bytes(Image.new("1", (30, 25))),
        "float.tiff": png_bytes(Image.new("F", (9, 9)), "TIFF"),
        "narrow.png": png_bytes(Image.new("RGB", (1, 260))),
        "text.png": b"this is no image\n" * 9,
    }.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    return {
        "id-bomb": "more than 700 pixels",
        "id-cut-a": "damaged",
        "id-cut-b": "damaged",
        "id-empty": "empty",
        "id-large": "more than 700 pixels",
        "id-float": "mode F",
        "id-narrow": "1 x 260 pixels",
        "id-text": "not an image",
        "id-folder": "is a folder",
        "id-pipe": "not a regular file",
        "id-missing": "no such file",
    }


@pytest.fixture
def faulty(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[pa.Table, dict[str, str]]:
    """Sound images with a bad one after each; Pillow's bomb limit lowered, so that the bombs are small."""
    folder = tmp_path / "bad"
    folder.mkdir()
    reasons = bad_files(folder)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 700)
    bad = list_items(folder)
    ids = [*bad["item_id"].to_pylist(), "id-missing"]
    paths = [*bad["path"].to_pylist(), str(folder / "missing.png")]
    sound = list_items(images)
    mixed_ids = [i for pair in zip(sound["item_id"].to_pylist(), ids, strict=False) for i in pair]
    mixed_paths = [p for pair in zip(sound["path"].to_pylist(), paths, strict=False) for p in pair]
    return pa.table({"item_id": mixed_ids, "path": mixed_paths}), reasons


def test_bad_images_are_recorded_and_stop_nothing(faulty, tmp_path: Path):
    items, reasons = faulty
    report = run(tmp_path / "work", items)
    assert (report.n_new, report.n_failed) == (22, 11)
    failed = {row["item_id"]: row for row in read_table(failures_file(report.folder), FAILURES).to_pylist()}
    assert failed.keys() == reasons.keys()
    for item_id, reason in reasons.items():
        assert reason in failed[item_id]["error"], item_id
        assert "\n" not in failed[item_id]["error"] and " at 0x" not in failed[item_id]["error"]
    found = read_embeddings(report.folder)
    assert len(found) == 11 and not set(found.item_ids) & reasons.keys()
    for number in range(11):
        np.testing.assert_allclose(
            found.rows([f"id-{number:02d}"])[0], expected_vector(draw(number)), atol=1e-6
        )
    records = [r for f in part_files(report.folder) for r in json.loads(file_metadata(f)["failures"])]
    assert {r["item_id"] for r in records} == reasons.keys()
    assert len(part_files(report.folder)) == 5, "failed items count in a part"


def test_failures_are_the_same_bytes_in_every_run(faulty, tmp_path: Path):
    items, _ = faulty
    first, second = (contents(run(tmp_path / name, items).folder) for name in "ab")
    assert first == second


def test_a_failed_item_is_tried_again_only_when_its_file_has_changed(faulty, tmp_path: Path):
    items, reasons = faulty
    root, folder = tmp_path / "work", tmp_path / "bad"
    run(root, items)
    encoder = MeanEncoder()
    report = run(root, items, encoder)
    assert (report.n_new, report.n_failed, encoder.loads) == (0, 11, 0)

    draw(3).save(folder / "text.png")
    draw(4).save(folder / "missing.png")
    (folder / "empty.png").write_bytes(b"still no image")
    report = run(root, items)
    assert (report.n_new, report.n_failed) == (3, 9)
    found = read_embeddings(report.folder)
    np.testing.assert_allclose(found.rows(["id-text"])[0], expected_vector(draw(3)), atol=1e-6)
    np.testing.assert_allclose(found.rows(["id-missing"])[0], expected_vector(draw(4)), atol=1e-6)
    failed = {r["item_id"]: r["error"] for r in read_table(failures_file(report.folder)).to_pylist()}
    assert failed.keys() == reasons.keys() - {"id-text", "id-missing"}
    assert "not an image" in failed["id-empty"], "the reason is that of the latest attempt"
    assert run(root, items).n_new == 0


def test_a_failure_in_preprocessing_is_one_images_failure(images: Path, tmp_path: Path):
    class Picky(MeanEncoder):
        def preprocess(self, image: Image.Image) -> np.ndarray:
            if image.height == 12:
                raise RuntimeError(f"no good:\n {object()!r}")
            return super().preprocess(image)

    report = run(tmp_path, list_items(images), Picky())
    (row,) = read_table(failures_file(report.folder)).to_pylist()
    assert row["item_id"] == "id-03"
    assert row["error"] == "cannot be prepared for the encoder: no good: <object object at 0x>"


def test_if_every_image_fails_the_first_reason_is_told(tmp_path: Path):
    items = pa.table({"item_id": ["a", "b"], "path": ["no/a.png", "no/b.png"]})
    for _ in range(2):
        with pytest.raises(CfpairsError, match=r"not one of 2 images.*no/a\.png there is no such file"):
            run(tmp_path, items)


def test_no_items_are_no_fault(tmp_path: Path):
    nothing = pa.table({"item_id": pa.array([], pa.string()), "path": pa.array([], pa.string())})
    report = run(tmp_path, nothing)
    assert (report.n_items, report.n_new, report.n_failed) == (0, 0, 0)


def test_a_part_of_failures_alone_can_be_read(images: Path, tmp_path: Path):
    sound = list_items(images).slice(0, 2)
    bad = pa.table({"item_id": ["x", "y"], "path": ["no/x.png", "no/y.png"]})
    report = run(tmp_path, pa.concat_tables([bad, sound]), part_rows=2)
    assert len(part_files(report.folder)) == 2
    assert read_embeddings(report.folder).matrix.shape == (2, DIM)


def test_repeated_ids_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="repeat an item_id"):
        run(tmp_path, pa.table({"item_id": ["a", "a"], "path": ["x", "y"]}))


def test_an_embedding_that_is_not_finite_names_the_item(images: Path, tmp_path: Path):
    class Broken(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            found = super().encode(batch)
            if len(self.batches) == 5:
                found[1, 0] = np.nan
            return found

    with pytest.raises(DataError, match="item 'id-08' is not finite"):
        run(tmp_path, list_items(images), Broken())
    assert list(contents(Workspace(tmp_path).embeddings(MeanEncoder().info.id))) == ["part-00000.parquet"]


def test_an_encoder_that_gives_another_shape_is_refused(images: Path, tmp_path: Path):
    class Short(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            return super().encode(batch)[:, 1:]

    with pytest.raises(DataError, match=r"another shape: got \(2, 5\), expected \(2, 6\)"):
        run(tmp_path, list_items(images), Short())


def test_float16_is_stored_rounded_and_never_mixed(images: Path, tmp_path: Path):
    items = list_items(images)
    exact = read_embeddings(run(tmp_path, items).folder).matrix
    heard = Heard()
    report = run(tmp_path, items, store="float16", progress=heard)
    assert report.n_new == N_IMAGES and len(heard.lines) == 4
    stored = read_embeddings(report.folder)
    assert stored.matrix.dtype == np.float16 and stored.metadata["dtype"] == "float16"
    np.testing.assert_array_equal(stored.matrix, exact.astype(np.float16))


def test_float16_that_overflows_is_refused(images: Path, tmp_path: Path):
    class Large(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            return super().encode(batch) * 1e6

    with pytest.raises(DataError, match="too large for float16; set store: float32"):
        run(tmp_path, list_items(images), Large(), store="float16")


def test_encoders_do_not_mix(images: Path, tmp_path: Path):
    items = list_items(images)
    first, second = (run(tmp_path, items, MeanEncoder(name=name)) for name in ("one", "two"))
    assert first.folder != second.folder and second.n_new == N_IMAGES


def red_and_blue() -> Image.Image:
    """4 x 2, left half red, right half blue."""
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, :2, 0] = pixels[:, 2:, 2] = 255
    return Image.fromarray(pixels)


def test_orientation_in_exif_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    found = np.asarray(decode_rgb(png_bytes(red_and_blue(), exif=exif)))
    assert found.shape == (4, 2, 3)
    assert (found[:2] == (255, 0, 0)).all() and (found[2:] == (0, 0, 255)).all()


def test_transparent_pixels_lie_on_white():
    pixels = np.zeros((3, 1, 4), np.uint8)
    pixels[:, 0] = [(10, 20, 30, 255), (10, 20, 30, 0), (0, 0, 0, 128)]
    found = np.asarray(decode_rgb(png_bytes(Image.fromarray(pixels))))[:, 0]
    assert found[0].tolist() == [10, 20, 30] and found[1].tolist() == [255, 255, 255]
    assert abs(int(found[2, 0]) - 127) <= 1


def test_a_palette_with_transparency_makes_no_warning():
    image = red_and_blue().convert("P")
    found = decode_rgb(png_bytes(image, transparency=bytes([0] * 256)))
    assert np.asarray(found).min() == 255


def test_sixteen_bit_greys_keep_their_shades():
    values = np.array([[0, 257, 32896, 65535]], np.uint16)
    found = np.asarray(decode_rgb(png_bytes(Image.fromarray(values))))
    assert found[0, :, 0].tolist() == [0, 1, 128, 255]
    assert (found == found[..., :1]).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode: str):
    image = Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode)
    found = decode_rgb(png_bytes(image, "TIFF"))
    assert found.mode == "RGB" and found.size == (5, 4) and np.asarray(found).min() == 255


def test_the_first_frame_of_an_animation_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 0, 255))]
    found = decode_rgb(png_bytes(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.asarray(found)[0, 0].tolist() == [255, 0, 0]


def test_damaged_exif_does_not_lose_the_image():
    found = decode_rgb(png_bytes(red_and_blue(), exif=b"Exif\x00\x00II*\x00\xff\xff\xff\xff nonsense"))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(red_and_blue()))


def test_the_lite_encoder_end_to_end(images: Path, tmp_path: Path):
    encoder = open_encoder(EncoderConfig(device="cpu", runtime="torch", batch_size=4))
    items = list_items(images).slice(0, 6)
    report = embed_items(items, workspace=Workspace(tmp_path), encoder=encoder, batch_size=4, part_rows=4)
    found = read_embeddings(report.folder)
    assert found.matrix.shape == (6, 1280) and found.metadata["encoder"] == "lite"
    batch = np.stack([encoder.preprocess(draw(number)) for number in (5, 1, 2, 3)])
    np.testing.assert_allclose(
        found.rows([f"id-{n:02d}" for n in (5, 1, 2, 3)]), encoder.encode(batch), atol=1e-5
    )
