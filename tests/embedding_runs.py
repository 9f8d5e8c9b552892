"""A small encoder and a command that embeds with it, for tests that stop a run in the middle.

As a command: ``python embedding_runs.py WORKSPACE IMAGES SECONDS`` embeds every file of IMAGES into
WORKSPACE, and sleeps SECONDS in each batch. ``python embedding_runs.py kill WORKSPACE IMAGES TIMES`` kills
such a run TIMES times, ends it, and makes an unbroken one in WORKSPACE-unbroken.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from cfpairs.embedding import EmbedReport, embed_items
from cfpairs.encoders.base import EncoderInfo, Preprocessing
from cfpairs.progress import Advance
from cfpairs.workspace import Workspace

SIDE = 8
DIM = 6
PART_ROWS, BATCH = 5, 2


class Heard:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []
        self.totals: list[int] = []

    @contextlib.contextmanager
    def task(self, _description: str, total: int) -> Iterator[Advance]:
        self.totals.append(total)
        yield self.steps.append

    def say(self, line: str) -> None:
        self.lines.append(line)


class MeanEncoder:
    """Mean and standard deviation of each channel; keeps a record of what it was asked."""

    def __init__(self, seconds: float = 0.0, name: str = "mean") -> None:
        how = Preprocessing(SIDE, SIDE, "bilinear", (0.0,) * 3, (1.0,) * 3)
        self.info = EncoderInfo(name, name, DIM, "0" * 64, "torch", "fp32", "cpu", how, {"mean": "1"})
        self.seconds = seconds
        self.loads = 0
        self.prepared = 0
        self.batches: list[np.ndarray] = []

    def load(self) -> None:
        self.loads += 1

    def preprocess(self, image: Image.Image) -> np.ndarray:
        self.prepared += 1
        pixels = np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float32) / 255
        return pixels.transpose(2, 0, 1)

    def encode(self, batch: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        self.batches.append(batch.copy())
        return np.concatenate([batch.mean((2, 3)), batch.std((2, 3))], axis=1)

    def close(self) -> None:
        pass


def list_items(images: Path) -> pa.Table:
    """Every file of a folder by name, as an item."""
    files = sorted(images.iterdir())
    return pa.table({"item_id": [f"id-{f.stem}" for f in files], "path": [str(f) for f in files]})


def run(root: Path, items: pa.Table, encoder: MeanEncoder | None = None, **settings: object) -> EmbedReport:
    """Embed in parts of 5 and batches of 2, unless told otherwise."""
    chosen = {"part_rows": PART_ROWS, "batch_size": BATCH, **settings}
    return embed_items(items, workspace=Workspace(root), encoder=encoder or MeanEncoder(), **chosen)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by name."""
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def kill_again_and_again(root: Path, items: pa.Table, times: int, seed: int) -> list[int]:
    """Start a run, kill it at a random moment, and so on; the number of complete parts after each kill.

    Every second run is killed early, the others some time after they have written a part. They are forked
    from this process, which has no threads yet, so that no time goes into imports.
    """
    rng = np.random.default_rng(seed)
    left: list[int] = []
    Image.init()

    def parts() -> int:
        return len(list(root.glob("embeddings/*/part-*.parquet")))

    while len(left) < times:
        child = os.fork()
        if child == 0:
            try:
                run(root, items, MeanEncoder(0.01), part_rows=2)
            finally:
                os._exit(0)
        before, deadline = parts(), time.monotonic() + 30
        while len(left) % 2 and parts() == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.1))
        os.kill(child, signal.SIGKILL)
        if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            left.append(parts())
    return left


if __name__ == "__main__":
    if sys.argv[1] == "kill":
        listed = list_items(Path(sys.argv[3]))
        many = pa.concat_tables(
            listed.set_column(0, "item_id", [[f"{n}-{i}" for i in listed["item_id"].to_pylist()]])
            for n in range(16)
        )
        print(json.dumps(kill_again_and_again(Path(sys.argv[2]), many, int(sys.argv[4]), seed=5)))
        for name in (sys.argv[2], sys.argv[2] + "-unbroken"):
            run(Path(name), many, part_rows=2)
    else:
        run(Path(sys.argv[1]), list_items(Path(sys.argv[2])), MeanEncoder(float(sys.argv[3])))
