"""Images that change under their id: they are found, and no vector is ever out of date."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_runs import DIM, PART_ROWS, Heard, MeanEncoder, list_items, run
from fakes import fake_workspace
from PIL import Image

from cfpairs.config import parse_config
from cfpairs.embedding import files, open_items
from cfpairs.embedding.engine import look_up
from cfpairs.progress import SILENT
from cfpairs.tables import load_manifest, read_table
from cfpairs.vectors import part_files, read_embeddings
from cfpairs.workflow import embeddings as stage
from cfpairs.workflow.context import Context
from cfpairs.workspace import Workspace

pytestmark = pytest.mark.embed

N_IMAGES = 12


def draw(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8))


def vector(image: Image.Image) -> np.ndarray:
    encoder = MeanEncoder()
    return encoder.encode(encoder.preprocess(image)[None])[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve images, so parts of 5, 5 and 2; uncompressed, so that all files have one size."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(N_IMAGES):
        draw(number).save(folder / f"{number:02d}.bmp")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "work"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once, not only after two seconds."""
    monkeypatch.setattr(files, "_RECENT_NS", -(10**18))


def read_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: Path) -> str:
        raise AssertionError(f"{file} was read")

    monkeypatch.setattr(files, "hash_now", refuse)


def parts_of(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in part_files(folder)}


def test_changed_images_and_no_others_are_embedded_again(images: Path, root: Path):
    items = list_items(images)
    run(root, items)
    for number in (1, 7):
        draw(100 + number).save(images / f"{number:02d}.bmp")
    heard, encoder = Heard(), MeanEncoder()
    report = run(root, items, encoder, progress=heard)
    assert (report.n_new, report.n_failed, encoder.prepared) == (2, 0, 2)
    assert heard.lines == ["2 embedded images have other bytes now and are embedded again: 'id-01', 'id-07'"]
    found = read_embeddings(report.folder)
    assert sorted(found.item_ids) == sorted(items["item_id"].to_pylist())
    for number in range(N_IMAGES):
        image = draw(100 + number if number in (1, 7) else number)
        np.testing.assert_allclose(found.rows([f"id-{number:02d}"])[0], vector(image), atol=1e-6)
    assert run(root, items).n_new == 0


def test_the_same_bytes_under_a_new_time_change_nothing(images: Path, root: Path, settled, monkeypatch):
    items = list_items(images)
    before = parts_of(run(root, items).folder)
    (images / "03.bmp").write_bytes((images / "03.bmp").read_bytes())
    assert run(root, items).n_new == 0
    read_nothing(monkeypatch)  # the new time was noted
    report = run(root, items)
    assert report.n_new == 0 and parts_of(report.folder) == before


def test_settled_files_are_not_read_again(images: Path, root: Path, settled, monkeypatch):
    items = list_items(images)
    run(root, items)
    with monkeypatch.context() as patched:
        read_nothing(patched)
        assert run(root, items).n_new == 0
        (images / "03.bmp").write_bytes(b"BM")
        with pytest.raises(AssertionError, match=r"03\.bmp was read"):
            run(root, items)


def test_files_that_changed_just_now_are_read_again(images: Path, root: Path, monkeypatch):
    items = list_items(images)
    run(root, items)
    read_nothing(monkeypatch)
    with pytest.raises(AssertionError, match="was read"):
        run(root, items)


def test_another_image_of_the_same_size_and_time_is_found(images: Path, root: Path, settled):
    items = list_items(images)
    run(root, items)
    file = images / "04.bmp"
    before = file.stat()
    draw(104).save(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert run(root, items).n_new == 1


def test_an_id_that_stands_for_another_file_is_found(images: Path, root: Path, settled):
    items = list_items(images)
    run(root, items)
    paths = items["path"].to_pylist()
    swapped = pa.table({"item_id": items["item_id"], "path": [paths[1], paths[0], *paths[2:]]})
    report = run(root, swapped)
    assert report.n_new == 2
    np.testing.assert_allclose(read_embeddings(report.folder).rows(["id-00"])[0], vector(draw(1)), atol=1e-6)


def test_a_vector_whose_image_is_gone_stays(images: Path, root: Path):
    items = list_items(images)
    before = parts_of(run(root, items).folder)
    (images / "05.bmp").unlink()
    report = run(root, items)
    assert (report.n_new, report.n_failed) == (0, 0) and parts_of(report.folder) == before


def test_an_image_that_was_damaged_since_has_no_vector(images: Path, root: Path):
    items = list_items(images)
    whole = (images / "00.bmp").read_bytes()
    run(root, items)
    (images / "00.bmp").write_bytes(b"")
    report = run(root, items)
    assert (report.n_new, report.n_failed) == (1, 1)
    assert "id-00" not in read_embeddings(report.folder)
    assert run(root, items).n_new == 0
    (images / "00.bmp").write_bytes(whole)
    report = run(root, items)
    assert (report.n_new, report.n_failed) == (1, 0) and "id-00" in read_embeddings(report.folder)


def test_stopped_between_taking_out_and_embedding(images: Path, root: Path, tmp_path: Path):
    items = list_items(images)
    for name in ("work", "unbroken"):
        run(tmp_path / name, items)
    for number in range(1, PART_ROWS + 3):  # nearly all of part 0, and three of part 1
        draw(200 + number).save(images / f"{number:02d}.bmp")
    expected = parts_of(run(tmp_path / "unbroken", items).folder)
    look_up(items, Workspace(root), MeanEncoder().info, "float32", SILENT)
    folder = Workspace(root).embeddings(MeanEncoder().info.id)
    assert sum(read_table(file).num_rows for file in part_files(folder)) == N_IMAGES - PART_ROWS - 2
    run(root, items)
    assert parts_of(folder) == expected


def test_a_part_that_loses_every_vector_is_gone(images: Path, root: Path):
    items = list_items(images)
    run(root, items)
    for number in range(PART_ROWS):
        draw(300 + number).save(images / f"{number:02d}.bmp")
    look_up(items, Workspace(root), MeanEncoder().info, "float32", SILENT)
    folder = Workspace(root).embeddings(MeanEncoder().info.id)
    assert [file.name for file in part_files(folder)] == ["part-00001.parquet", "part-00002.parquet"]
    assert run(root, items).n_new == PART_ROWS and len(part_files(folder)) == 3


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x93NUMPY\x01\x00"])
def test_a_damaged_index_only_costs_reading(images: Path, root: Path, settled, content: bytes):
    items = list_items(images)
    run(root, items)
    Workspace(root).files.write_bytes(content)
    draw(103).save(images / "03.bmp")
    assert run(root, items).n_new == 1 and run(root, items).n_new == 0


def test_a_copied_part_is_set_aside(images: Path, root: Path):
    items = list_items(images)
    folder = run(root, items).folder
    (folder / "part-00007.parquet").write_bytes((folder / "part-00001.parquet").read_bytes())
    heard = Heard()
    assert run(root, items, progress=heard).n_new == 0
    assert "part-00007.parquet" in heard.lines[0] and "repeats items" in heard.lines[0]
    assert len(read_embeddings(folder)) == N_IMAGES


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """A workspace of forty embedded images; the trivial encoder in the place of the configured one."""
    workspace = fake_workspace(tmp_path / "fake", size=8)
    monkeypatch.setattr(stage, "open_encoder", lambda _config: MeanEncoder())
    run(workspace.root, load_manifest(workspace))
    return Context(parse_config({"workspace": str(workspace.root)}))


def test_status_sees_what_embedding_would_do(context: Context):
    workspace = context.workspace
    folder = workspace.embeddings(MeanEncoder().info.id)
    assert stage.embeddings_state(context) == ("done", "")
    manifest = load_manifest(workspace)
    draw(7).save(workspace.file(manifest["path"][3].as_py()))
    workspace.file(manifest["path"][8].as_py()).unlink()
    before = {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")}
    assert stage.unembedded(context) == [manifest["item_id"][3].as_py()]
    assert stage.embeddings_state(context) == ("missing", "1 items to embed")
    part_files(folder)[2].write_bytes(b"PAR1")
    before[part_files(folder)[2]] = part_files(folder)[2].stat().st_mtime_ns
    assert len(stage.unembedded(context)) == 1 + PART_ROWS
    assert {path: path.stat().st_mtime_ns for path in workspace.root.rglob("*")} == before
    half = context.with_config(encoder=context.config.encoder.model_copy(update={"store": "float16"}))
    assert len(stage.unembedded(half)) == len(manifest)


def test_status_sees_a_failed_image_that_was_mended(context: Context):
    workspace = context.workspace
    manifest = load_manifest(workspace)
    file = workspace.file(manifest["path"][0].as_py())
    whole = file.read_bytes()
    file.write_bytes(b"")
    run(workspace.root, manifest)
    assert stage.embeddings_state(context) == ("done", "")
    file.write_bytes(whole)
    assert stage.unembedded(context) == [manifest["item_id"][0].as_py()]


def test_a_manifest_on_disk_is_the_same_as_one_in_memory(images: Path, root: Path, tmp_path: Path):
    items = list_items(images)
    pq.write_table(items, tmp_path / "items.parquet", row_group_size=5)
    info = MeanEncoder().info
    assert (
        open_items(tmp_path / "items.parquet", Workspace(root), info, "float32")
        == items["item_id"].to_pylist()
    )
    on_disk = run(root, tmp_path / "items.parquet")
    assert parts_of(on_disk.folder) == parts_of(run(tmp_path / "memory", items).folder)
    assert read_embeddings(on_disk.folder).matrix.shape == (N_IMAGES, DIM)
