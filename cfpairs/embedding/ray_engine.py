"""The run on a Ray cluster: Ray Data hands parts to actors, which make them as the local engine does."""

from __future__ import annotations

import itertools
import pickle
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cfpairs.embedding.engine import EmbedReport, ImageEncoder, finish, look_up
from cfpairs.embedding.files import FileIndex
from cfpairs.embedding.items import ItemList
from cfpairs.embedding.parts import NEVER, EncoderIdentity, Parts
from cfpairs.embedding.ray_cluster import Pool, explained, machines, on_cluster, plan_pool
from cfpairs.embedding.ray_storage import storage_token
from cfpairs.embedding.ray_worker import Assignment, Job, Made, PartWorker
from cfpairs.errors import WorkspaceError
from cfpairs.progress import SILENT, Advance, Progress
from cfpairs.workspace import Workspace

__all__ = ["embed_items_on_ray"]


def embed_items_on_ray(
    items: pa.Table | Path,
    *,
    workspace: Workspace,
    encoder_factory: Callable[[], ImageEncoder],
    address: str | None = None,
    cpus_per_actor: int | None = None,
    part_rows: int = 512,
    store: str = "float32",
    batch_size: int = 32,
    workers: int = 2,
    progress: Progress = SILENT,
) -> EmbedReport:
    """Embed every item that has no embedding yet, on one machine or many.

    What is written is the same as by `embed_items`, to the byte: a part has the same number, items and
    order, and the same stages make it.

    Parameters
    ----------
    items : pyarrow.Table or Path
        Columns ``item_id`` (distinct) and ``path``; a path is that of a Parquet file with them.
    workspace : Workspace
        On storage that every machine has under the same path, as the images must be. The caller holds its
        lock.
    encoder_factory : callable
        Makes the encoder. It is pickled, so it must be importable on every machine, as must cfpairs be.
    address : str, optional
        ``auto`` or ``HOST:PORT`` of a Ray cluster; by default one is started here and stopped at the end.
    cpus_per_actor : int, optional
        Cores of one actor on a CPU; by default as many as this machine has. On a GPU an actor has one GPU.
    part_rows, store, batch_size, workers, progress
        As for `embed_items`; `workers` are threads of each actor.

    Returns
    -------
    EmbedReport

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    ConfigError
        If there is no cluster at `address`, or a machine would embed in another way.
    WorkspaceError
        If a machine does not see the workspace or the images, or a part cannot be written.
    CfpairsError
        If a part lost its worker again and again, or not one of the items could be read.

    See Also
    --------
    embed_items : the same in this process.

    Notes
    -----
    A part is the unit of work. A worker that is lost costs the part it was at, which Ray gives to another;
    a part that was written before its worker could say so is found and kept. When the run is stopped, what
    is written stays and the next call goes on, by this engine or the local one.
    """
    workspace = Workspace(workspace.root.absolute())
    info = encoder_factory().info
    wanted, parts, todo = look_up(items, workspace, info, store, progress)
    seconds = 0.0
    if todo:
        given = _assign(todo, parts, part_rows)
        with on_cluster(address, progress) as ray, storage_token(workspace) as (file, token):
            pool = plan_pool(machines(ray), info.metadata().get("device", "cpu"), len(given), cpus_per_actor)
            job = Job(
                root=workspace.root,
                token_file=file,
                token=token,
                witness=_witness(todo, workspace),
                encoder_factory=encoder_factory,
                metadata=info.metadata(),
                store=store,
                batch_size=batch_size,
                workers=workers,
                threads=pool.cpus,
            )
            started = time.perf_counter()
            with progress.task("embedding", len(todo)) as advance:
                _run(ray, job, given, pool, advance, progress)
            seconds = time.perf_counter() - started
        parts = _look_again(wanted, workspace, info, store)
    return finish(wanted, workspace, info, parts, len(todo), seconds)


def _assign(todo: ItemList, parts: Parts, part_rows: int) -> list[Assignment]:
    """The parts that the local engine would make, by number."""
    return [
        Assignment(number, tuple(chosen), tuple(parts.failed_among(chosen)))
        for number, chosen in zip(parts.free_numbers(), todo.chunks(part_rows), strict=False)
    ]


def _witness(todo: ItemList, workspace: Workspace) -> Path | None:
    files = (workspace.file(item.path) for item in itertools.islice(todo, 100))
    return next((file for file in files if file.is_file()), None)


def _run(
    ray: Any, job: Job, given: Sequence[Assignment], pool: Pool, advance: Advance, progress: Progress
) -> None:
    """Have every part made; the first error ends it."""
    rows = _answers(ray, job, given, pool)
    index = FileIndex(Workspace(job.root).files)
    try:
        for row in rows:
            if row["error"] is not None:
                raise pickle.loads(row["error"])  # noqa: S301  # our own worker pickled it
            made: Made = pickle.loads(row["made"])  # noqa: S301
            for state in made.states:
                index.note(*state)
            if made.lost:
                progress.say(f"part {row['number']} lost its worker and was made by another")
            advance(row["n_items"])
    except ray.exceptions.RayError as error:
        raise explained(error, "part") from error
    finally:
        rows.close()
        index.save()


def _answers(
    ray: Any, job: Job, given: Sequence[Assignment], pool: Pool
) -> Generator[dict[str, Any], None, None]:
    """The actors' answers as they come."""
    data = ray.data
    context = data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    size = data.ActorPoolStrategy(
        min_size=1, max_size=pool.actors, initial_size=pool.actors, max_tasks_in_flight_per_actor=2
    )
    with data.DataContext.current(context):
        made = data.from_arrow([assignment.to_table() for assignment in given]).map_batches(
            PartWorker,
            fn_constructor_args=(job,),
            batch_size=1,
            batch_format="pyarrow",
            compute=size,
            num_cpus=None if pool.gpus else pool.cpus,
            num_gpus=pool.gpus or None,
        )
    yield from made.iter_rows()


def _look_again(wanted: ItemList, workspace: Workspace, info: EncoderIdentity, store: str) -> Parts:
    """The parts as they now are; what a lost worker left half written is removed."""
    parts = Parts(workspace.embeddings(info.id), info, store)
    parts.scan()
    missing = sum(int((parts.recorded(ids) == NEVER).sum()) for ids, _ in wanted.blocks())
    if missing:
        raise WorkspaceError(
            "parts that were written cannot be seen here",
            got=f"{missing} items without a result",
            remedy="run the same command again",
        )
    return parts
