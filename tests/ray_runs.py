"""Encoders and edits for the tests of the Ray engine; its workers import them from here."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from embedding_runs import MeanEncoder

from cfpairs.pairs.base import ShardMaker
from cfpairs.pairs.edit.base import EditTask


class DyingEncoder(MeanEncoder):
    """Kills its own process, as `kill -9` would, in its fourth batch, unless `marker` is there."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self._marker = marker

    def encode(self, batch: np.ndarray) -> np.ndarray:
        if len(self.batches) == 3 and not self._marker.exists():
            self._marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode(batch)


class BrokenEncoder(MeanEncoder):
    """Its embeddings are not finite."""

    def encode(self, batch: np.ndarray) -> np.ndarray:
        return super().encode(batch) * np.nan


class DyingShards:
    """Edits of which the first worker, unless `marker` is there, makes two and is then killed."""

    def __init__(self, maker: ShardMaker, marker: Path) -> None:
        self._maker, self._marker = maker, marker
        self.batch_size, self.wants_gpu, self.witness = maker.batch_size, maker.wants_gpu, maker.witness

    def open(self, workers: int) -> None:
        self._maker.open(workers)

    def make(self, tasks: Sequence[EditTask]) -> None:
        if not self._marker.exists():
            self._maker.make(tasks[:2])
            self._marker.write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGKILL)
        self._maker.make(tasks)
