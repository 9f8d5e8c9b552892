"""What an actor of the Ray engine does: one part after the other, with the stages of the local engine."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cfpairs.embedding.engine import ImageEncoder, embed_part
from cfpairs.embedding.parts import Failure, Item, Parts
from cfpairs.embedding.ray_storage import check_storage, pickled_error
from cfpairs.errors import CfpairsError, ConfigError
from cfpairs.tables import write_bytes
from cfpairs.workspace import Workspace

__all__ = ["Assignment", "Job", "Made", "PartWorker"]

TRIES = 5
"""So many workers may be lost over one part. Ray would go on for ever with one that kills every worker."""


@dataclass(frozen=True)
class Assignment:
    """Which items become which part, and what is known of those that failed before."""

    number: int
    items: tuple[Item, ...]
    failures: tuple[Failure, ...]

    def to_table(self) -> pa.Table:
        """One row: the number, how many items, and the assignment itself."""
        content = pa.array([pickle.dumps(self)], pa.binary())
        return pa.table({"number": [self.number], "n_items": [len(self.items)], "content": content})


@dataclass(frozen=True)
class Made:
    """What a worker says of a part: how many were lost over it before, and what it now knows of the files."""

    lost: int = 0
    states: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Job:
    """What every actor is told.

    Attributes
    ----------
    root : Path
        The workspace, on storage that every machine sees.
    token_file : Path
        The driver wrote `token` into it: an actor that reads another does not see the same storage.
    witness : Path or None
        An image that the driver could open.
    encoder_factory : callable
        Makes the encoder; pickled by reference.
    metadata : dict of str to str
        What the driver's encoder writes beside embeddings; an actor's must write the same.
    threads : int
        Threads of the encoder and, at most, of reading.
    """

    root: Path
    token_file: Path
    token: str
    witness: Path | None
    encoder_factory: Callable[[], ImageEncoder]
    metadata: dict[str, str]
    store: str
    batch_size: int
    workers: int
    threads: int


class PartWorker:
    """A callable class for Ray Data's ``map_batches``: an assignment in, what became of it out.

    Whatever is wrong comes back as an answer, so that the driver can say it in one line.

    Parameters
    ----------
    job : Job
    """

    def __init__(self, job: Job) -> None:
        os.environ["OMP_NUM_THREADS"] = str(job.threads)  # torch is not loaded yet
        self._job = job
        self._encoder: ImageEncoder | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Make the one part of the batch, unless it is there."""
        error: bytes | None = None
        made = Made()
        try:
            # The driver pickled it; it comes over Ray's own channel like the code itself.
            assignment: Assignment = pickle.loads(batch["content"][0].as_py())  # noqa: S301
            made = self._make(assignment)
        except Exception as fault:
            error = pickled_error(fault)
        return pa.table(
            {
                "number": batch["number"],
                "n_items": batch["n_items"],
                "made": pa.array([pickle.dumps(made)], pa.binary()),
                "error": pa.array([error], pa.binary()),
            }
        )

    def _make(self, assignment: Assignment) -> Made:
        job = self._job
        encoder = self._ready()
        workspace = Workspace(job.root)
        parts = Parts(workspace.embeddings(encoder.info.id), encoder.info, job.store)
        if parts.holds(assignment.number, assignment.items):
            return Made()  # the worker was lost between writing it and saying so
        parts.start_at(assignment.number, assignment.failures)
        with _counted(workspace.embeddings(encoder.info.id), assignment) as lost:
            states = embed_part(
                assignment.items,
                workspace=workspace,
                encoder=encoder,
                parts=parts,
                batch_size=job.batch_size,
                workers=job.workers,
                advance=lambda _count: None,
            )
        return Made(lost, tuple(states))

    def _ready(self) -> ImageEncoder:
        """The encoder, loaded, after a look at what this machine sees and has."""
        if self._encoder is None:
            job = self._job
            check_storage(job.root, job.token_file, job.token, job.witness)
            encoder = self._job.encoder_factory()
            _check_same(self._job.metadata, encoder.info.metadata())
            encoder.load()
            self._encoder = encoder
        return self._encoder


@contextmanager
def _counted(folder: Path, assignment: Assignment) -> Iterator[int]:
    """Leave a mark that only a worker that is lost does not take away; too many of them are an error.

    The marks have the names of files that were never finished, so that the next run clears them away.
    """
    marks = [folder / f".part-{assignment.number:05d}.parquet.try-{n}.tmp" for n in range(TRIES)]
    lost = sum(mark.exists() for mark in marks)
    if lost == TRIES:
        raise CfpairsError(
            f"part {assignment.number} has lost {TRIES} workers",
            got=f"{len(assignment.items)} items from {assignment.items[0].path} on",
            remedy="more memory, a smaller encoder.batch_size, or --engine local to see why",
        )
    write_bytes(marks[lost], b"")
    try:
        yield lost
    finally:
        for mark in marks:
            mark.unlink(missing_ok=True)


def _check_same(expected: dict[str, str], got: dict[str, str]) -> None:
    for key in sorted(expected.keys() | got.keys()):
        if expected.get(key) != got.get(key):
            raise ConfigError(
                f"the machine {socket.gethostname()} would embed in another way ({key})",
                got=got.get(key),
                expected=expected.get(key),
                remedy="install the same versions on every machine",
            )
