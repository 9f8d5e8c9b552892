"""Encoders for the tests of the Ray engine; its workers import them from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from embedding_runs import MeanEncoder


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
