"""The stages of a run and what stops it: kills, a full disk, Ctrl-C; other kinds of encoders; memory."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import embedding_runs
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from embedding_runs import BATCH, DIM, PART_ROWS, SIDE, Heard, MeanEncoder, contents, list_items, run
from PIL import Image

from cfpairs import vectors
from cfpairs.embedding.engine import look_up
from cfpairs.embedding.parts import Parts
from cfpairs.errors import WorkspaceError
from cfpairs.progress import SILENT
from cfpairs.vectors import part_files, read_embeddings, write_vectors
from cfpairs.workspace import Workspace

pytestmark = pytest.mark.embed

N_IMAGES = 18


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen sound images and one that is none, so parts of 5, 5, 5 and 3."""
    folder = tmp_path_factory.mktemp("images")
    for number in range(N_IMAGES):
        rng = np.random.default_rng(number)
        Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "06.png").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def unbroken(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return contents(run(tmp_path_factory.mktemp("unbroken"), list_items(images)).folder)


def test_killed_twenty_times_the_files_are_those_of_an_unbroken_run(images: Path, tmp_path: Path):
    root = tmp_path / "killed"
    command = [sys.executable, embedding_runs.__file__, "kill", str(root), str(images), "20"]
    found = subprocess.run(command, check=True, capture_output=True, timeout=120, text=True)
    left = json.loads(found.stdout)
    assert len(left) == 20 and left == sorted(left), "a kill lost a part"
    assert len(set(left)) > 4 and left[-1] < 144, "the kills must have hit a run that was at work"
    folder, whole = (Workspace(path).embeddings(MeanEncoder().info.id) for path in (root, f"{root}-unbroken"))
    assert len(part_files(whole)) == 144
    assert contents(folder) == contents(whole)


def test_a_full_disk_is_one_line_and_complete_parts_stay(images: Path, tmp_path: Path, monkeypatch, unbroken):
    write, calls = pq.write_table, []

    def fill(table: pa.Table, where: Path, **options: object) -> None:
        calls.append(where)
        if len(calls) == 3:
            Path(where).write_bytes(b"PAR1 the first bytes")
            raise OSError(errno.ENOSPC, "No space left on device")
        write(table, where, **options)

    monkeypatch.setattr(vectors.pq, "write_table", fill)
    with pytest.raises(WorkspaceError) as caught:
        run(tmp_path, list_items(images))
    line = str(caught.value)
    assert "part-00002.parquet: got No space left on device" in line
    assert f"{2 * PART_ROWS} of {N_IMAGES} items are written" in line and "goes on" in line
    assert "\n" not in line
    folder = Workspace(tmp_path).embeddings(MeanEncoder().info.id)
    assert sorted(contents(folder)) == ["part-00000.parquet", "part-00001.parquet"]
    assert len(calls) == 3, "no part may be written in the place of the one that failed"
    monkeypatch.undo()
    assert contents(run(tmp_path, list_items(images)).folder) == unbroken


def test_the_encoder_goes_on_while_a_part_is_written(images: Path, tmp_path: Path, monkeypatch, unbroken):
    encoded = threading.Event()
    write, waited = Parts.write, []

    class Telling(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            found = super().encode(batch)
            if len(self.batches) == 4:
                encoded.set()
            return found

    def slow(self: Parts, *arguments: object) -> None:
        waited.append(encoded.wait(20))
        write(self, *arguments)

    monkeypatch.setattr(Parts, "write", slow)
    report = run(tmp_path, list_items(images), Telling())
    assert waited == [True] * 4, "part 0 was not written while a batch of part 1 was encoded"
    assert contents(report.folder) == unbroken


def test_at_most_two_parts_wait_to_be_written(images: Path, tmp_path: Path, monkeypatch):
    encoder, write, ahead = MeanEncoder(), Parts.write, []

    def slow(self: Parts, items: list, *arguments: object) -> None:
        time.sleep(0.05)
        ahead.append(len(encoder.batches) - 3 * len(ahead))
        write(self, items, *arguments)

    monkeypatch.setattr(Parts, "write", slow)
    run(tmp_path, pa.concat_tables([list_items(images), more(images, 40)]), encoder)
    assert max(ahead) <= 3 * 3, "parts pile up before the writer"


def more(images: Path, count: int) -> pa.Table:
    path = str(images / "00.png")
    return pa.table({"item_id": [f"more-{i}" for i in range(count)], "path": [path] * count})


def test_a_part_that_is_encoded_is_written_after_ctrl_c(images: Path, tmp_path: Path, monkeypatch, unbroken):
    write = Parts.write

    class Interrupted(MeanEncoder):
        def encode(self, batch: np.ndarray) -> np.ndarray:
            if len(self.batches) == 7:  # two parts of three batches are encoded
                raise KeyboardInterrupt
            return super().encode(batch)

    def slow(self: Parts, *arguments: object) -> None:
        time.sleep(0.1)
        write(self, *arguments)

    monkeypatch.setattr(Parts, "write", slow)
    heard = Heard()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, list_items(images), Interrupted(), progress=heard)
    folder = Workspace(tmp_path).embeddings(MeanEncoder().info.id)
    assert sorted(contents(folder)) == ["part-00000.parquet", "part-00001.parquet"]
    assert heard.lines == ["10 of 18 items are written"]
    assert not [t for t in threading.enumerate() if t.name.startswith("cfpairs-")]
    monkeypatch.undo()
    assert contents(run(tmp_path, list_items(images)).folder) == unbroken


class StreamingEncoder(MeanEncoder):
    """Takes 8-bit pixels, and the next batch before it gives the features of the last."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: set[str] = set()

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.rint(self.preprocess(image) * 255).astype(np.uint8)

    def stream(self, batches):
        held = None
        for batch in batches:
            self.kinds.add(batch.dtype.name)
            if held is not None:
                yield self.encode(held.astype(np.float32) / 255)
            held = batch  # not a copy: it must not be written to meanwhile
        if held is not None:
            yield self.encode(held.astype(np.float32) / 255)


def test_an_encoder_that_streams_8_bit_pixels(images: Path, tmp_path: Path, unbroken):
    encoder = StreamingEncoder()
    folder = run(tmp_path / "stream", list_items(images), encoder).folder
    assert encoder.kinds == {"uint8"}
    plain = read_embeddings(run(tmp_path / "plain", list_items(images)).folder)
    found = read_embeddings(folder)
    assert found.item_ids == plain.item_ids and "id-06" not in found
    np.testing.assert_allclose(found.matrix, plain.matrix, atol=1 / 255)


class DecodingEncoder(StreamingEncoder):
    """Decodes the files whose first byte is even; the others come back to Pillow."""

    def __init__(self) -> None:
        super().__init__()
        how = type(self.info.preprocessing)(SIDE, SIDE, "bilinear", (0.0,) * 3, (1.0,) * 3, decoder="nvjpeg")
        self.info = type(self.info)(
            "own", "own", DIM, "0" * 64, "torch", "fp32", "cpu", how, self.info.libraries
        )
        self.own = 0

    def decode_files(self, contents):
        from cfpairs.embedding import decode_rgb

        found = [
            self.pixels(decode_rgb(content)) if sum(content) % 2 and content != b"no image" else None
            for content in contents
        ]
        self.own += sum(pixels is not None for pixels in found)
        return found

    def gather(self, blocks):
        return np.stack(blocks)


def test_an_encoder_that_decodes_files_itself(images: Path, tmp_path: Path):
    encoder = DecodingEncoder()
    report = run(tmp_path / "own", list_items(images), encoder)
    assert report.n_failed == 1 and 2 <= encoder.own <= 15
    found = read_embeddings(report.folder)
    plain = read_embeddings(run(tmp_path / "pillow", list_items(images), StreamingEncoder()).folder)
    assert found.item_ids == plain.item_ids
    np.testing.assert_allclose(found.matrix, plain.matrix, atol=1e-6)
    assert {batch.shape for batch in encoder.batches} == {(BATCH, 3, SIDE, SIDE)}


def bytes_of_a_look(tmp_path: Path, count: int) -> int:
    """Peak of what Python and NumPy hold while parts of `count` embedded items are looked through."""
    root = tmp_path / str(count)
    ids = [f"item-{i:08d}" for i in range(count)]
    path = str(tmp_path / "one.png")
    pq.write_table(pa.table({"item_id": ids, "path": [path] * count}), tmp_path / f"{count}.parquet")
    info = MeanEncoder().info
    hashes = ["0123456789abcdef" * 2] * 500
    metadata = {**info.metadata(), "dtype": "float32", "failures": "[]"}
    for number in range(count // 500):
        some = ids[500 * number : 500 * (number + 1)]
        file = Workspace(root).embeddings(info.id) / f"part-{number:05d}.parquet"
        write_vectors(file, some, np.ones((500, DIM), np.float32), hashes, metadata)
    tracemalloc.start()
    try:
        wanted, _, todo = look_up(tmp_path / f"{count}.parquet", Workspace(root), info, "float32", SILENT)
        assert len(wanted) == count and not todo
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_hardly_grows_with_the_number_of_items(tmp_path: Path):
    few, many = (bytes_of_a_look(tmp_path, count) for count in (5_000, 15_000))
    assert (many - few) / 10_000 < 80, "bytes an item"
