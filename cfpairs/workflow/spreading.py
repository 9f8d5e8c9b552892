"""Images of a pair set made on a Ray cluster: actors that are opened once and given shard after shard."""

from __future__ import annotations

import os
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from cfpairs.embedding.ray_cluster import Pool, explained, machines, on_cluster, plan_pool
from cfpairs.embedding.ray_storage import check_storage, pickled_error, storage_token
from cfpairs.errors import CfpairsError
from cfpairs.pairs.base import ShardMaker
from cfpairs.progress import SILENT, Progress
from cfpairs.workspace import Workspace

__all__ = ["RaySpread"]

SHARD = 32
"""Most tasks of a shard, if a batch of the maker is not larger."""

TRIES = 5
"""So many workers may be lost over one shard, or while they start one after another."""


@dataclass(frozen=True)
class _Storage:
    """What a worker looks at to know that it sees the same storage."""

    root: Path
    token_file: Path
    token: str
    witness: Path | None


class _Worker:
    """An actor; whatever is wrong comes back as an answer, so that it can be told in one line."""

    def __init__(self, maker: ShardMaker, storage: _Storage, threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # torch is not loaded yet
        self._maker, self._storage, self._threads = maker, storage, threads

    def open(self) -> bytes | None:
        """See to the storage and open the maker."""
        storage = self._storage
        try:
            check_storage(storage.root, storage.token_file, storage.token, storage.witness)
            self._maker.open(self._threads)
        except Exception as fault:
            return pickled_error(fault)
        return None

    def make(self, tasks: Sequence[Any]) -> bytes | None:
        """Make the images of one shard."""
        try:
            self._maker.make(tasks)
        except Exception as fault:
            return pickled_error(fault)
        return None


@dataclass
class _Shard:
    """Tasks that go to one worker, and how many have been lost over them."""

    tasks: Sequence[Any]
    lost: int = 0


class RaySpread:
    """Has a builder's images made by the workers of a Ray cluster; to be used in a ``with`` block.

    Parameters
    ----------
    workspace : Workspace
        On storage that every machine has under the same path, as the images must be. The caller holds its
        lock.
    address : str, optional
        ``auto`` or ``HOST:PORT`` of a Ray cluster; by default one is started here when it is first needed
        and stopped at the end of the block.
    cpus_per_actor : int, optional
        Cores of one worker; by default as many as this machine has. A worker that makes use of a GPU has
        one for itself, if the cluster has any.
    progress : Progress

    Notes
    -----
    A worker that is lost costs the images that it had not written; another takes its shard.
    """

    def __init__(
        self,
        workspace: Workspace,
        address: str | None = None,
        *,
        cpus_per_actor: int | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self._workspace, self._address, self._progress = workspace, address, progress
        self._cpus = cpus_per_actor
        self._stack = ExitStack()
        self._crew: _Crew | None = None

    def __enter__(self) -> RaySpread:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._crew = None
        self._stack.close()

    def __call__(self, maker: ShardMaker, tasks: Sequence[Any]) -> None:
        """Have every task made; see `Spread`.

        Raises
        ------
        MissingDependencyError
            If Ray is not installed.
        ConfigError
            If there is no cluster at the address, or a machine would make other images.
        WorkspaceError
            If a machine does not see the workspace or the images.
        CfpairsError
            If workers are lost again and again, or the maker cannot work at all.
        """
        if not tasks:
            return
        if self._crew is None:
            self._crew = self._hire(maker, len(tasks))
        size = max(maker.batch_size, min(SHARD, -(-len(tasks) // (2 * self._crew.size))))
        shards = [_Shard(tasks[at : at + size]) for at in range(0, len(tasks), size)]
        with self._progress.task("editing on Ray", len(tasks)) as advance:
            for made in self._crew.work(shards):
                advance(made)

    def _hire(self, maker: ShardMaker, n_tasks: int) -> _Crew:
        ray = self._stack.enter_context(on_cluster(self._address, self._progress))
        file, token = self._stack.enter_context(storage_token(self._workspace))
        storage = _Storage(self._workspace.root, file, token, maker.witness)
        cluster = machines(ray)
        device = "cuda" if maker.wants_gpu and any(machine.gpus for machine in cluster) else "cpu"
        batches = -(-n_tasks // maker.batch_size)
        pool = plan_pool(cluster, device, batches, self._cpus)
        crew = _Crew(ray, pool, maker, storage, self._progress)
        self._stack.callback(crew.dismiss)
        return crew


class _Crew:
    """The workers: a lost one is replaced, and one that has not come up yet is given nothing to do."""

    def __init__(
        self, ray: Any, pool: Pool, maker: ShardMaker, storage: _Storage, progress: Progress
    ) -> None:
        self.size = pool.actors
        self._ray, self._progress = ray, progress
        self._given = (ray.put(maker), storage, pool.cpus)
        self._kind = ray.remote(_Worker).options(
            num_cpus=None if pool.gpus else pool.cpus, num_gpus=pool.gpus or None, max_restarts=0
        )
        self._busy: dict[Any, tuple[Any, _Shard | None]] = {}
        self._idle: list[Any] = []
        self._alive: list[Any] = []
        self._lost_at_start = 0
        for _ in range(pool.actors):
            self._start()

    def work(self, shards: Sequence[_Shard]) -> Iterator[int]:
        """Have every shard made; yields the number of tasks of each as it is done."""
        queue, left = deque(shards), len(shards)
        while left:
            while queue and self._idle:
                worker, shard = self._idle.pop(), queue.popleft()
                self._busy[worker.make.remote(shard.tasks)] = worker, shard
            (answer,), _ = self._ray.wait(list(self._busy), num_returns=1)
            worker, done = self._busy.pop(answer)
            try:
                error = self._ray.get(answer)
            except self._ray.exceptions.RayError as fault:
                self._replace(worker, done, fault)
                if done is not None:
                    queue.appendleft(done)
                continue
            if error is not None:
                raise pickle.loads(error)  # noqa: S301  # our own worker pickled it
            self._idle.append(worker)
            if done is None:
                self._lost_at_start = 0
            else:
                left -= 1
                yield len(done.tasks)

    def dismiss(self) -> None:
        """End every worker."""
        while self._alive:
            self._ray.kill(self._alive.pop())

    def _start(self) -> None:
        worker = self._kind.remote(*self._given)
        self._alive.append(worker)
        self._busy[worker.open.remote()] = worker, None

    def _replace(self, worker: Any, shard: _Shard | None, fault: Exception) -> None:
        self._alive.remove(worker)
        self._ray.kill(worker)  # it may only have been out of reach
        if shard is None:
            self._lost_at_start += 1
            if self._lost_at_start == TRIES:
                raise explained(fault, "image") from fault
        else:
            shard.lost += 1
            if shard.lost == TRIES:
                raise CfpairsError(
                    f"edits have lost {TRIES} workers",
                    got=f"{len(shard.tasks)} edits",
                    remedy="more memory, a smaller batch_size of the editor, or --engine local to see why",
                ) from fault
            self._progress.say("a worker was lost; another takes its edits")
        self._start()
