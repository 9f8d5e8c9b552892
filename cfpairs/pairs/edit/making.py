"""From tasks to edited images on disk: planning in threads ahead, editing in threads or in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import CfpairsError
from cfpairs.pairs.edit.base import Editor, EditPlan, EditRejectedError, EditTask
from cfpairs.pairs.edit.pixels import decode_image, encode_png, read_file
from cfpairs.tables import write_bytes

__all__ = ["Made", "Maker", "mask_file"]

In = TypeVar("In")
Out = TypeVar("Out")


@dataclass(frozen=True)
class Made:
    """An edited image that lies on disk.

    Attributes
    ----------
    plan : EditPlan
    edited : ndarray of uint8, shape (height, width, 3)
    path : Path
        Its file.
    kept : bool
        Whether it was there already.
    """

    plan: EditPlan
    edited: NDArray[np.uint8]
    path: Path
    kept: bool


class Maker:
    """Makes the edits that an open editor is asked for and writes each as soon as it is made.

    Parameters
    ----------
    editor : Editor
    workers : int
        Threads that read, plan and write, and edit if the editor is threaded.
    place : callable
        The file of an edit, given its task and plan. An image that is there and can be read is kept.

    Notes
    -----
    A process that is killed loses the edits that were not yet written: one a worker, or one batch.
    """

    def __init__(self, editor: Editor, workers: int, place: Callable[[EditTask, EditPlan], Path]) -> None:
        self._editor = editor
        self._place = place
        self._workers = workers

    def make(self, tasks: Iterable[EditTask]) -> Iterator[Made | EditRejectedError]:
        """What comes of each task, in order; a bounded number of them is under way at a time.

        Raises
        ------
        CfpairsError
            If the editor or the disk cannot be used at all.
        """
        with ThreadPoolExecutor(self._workers, thread_name_prefix="cfpairs-edit") as pool:
            try:
                if self._editor.threaded:
                    yield from _ahead(pool, self._whole, tasks, 3 * self._workers)
                else:
                    yield from self._batched(pool, tasks)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _whole(self, task: EditTask) -> Made | EditRejectedError:
        """Plan, edit and write one image."""
        ready = self._ready(task)
        if not isinstance(ready, tuple):
            return ready
        (edited,) = self._edit([ready[0]])
        return self._written(*ready, edited)

    def _batched(
        self, pool: ThreadPoolExecutor, tasks: Iterable[EditTask]
    ) -> Iterator[Made | EditRejectedError]:
        size = self._editor.batch_size
        group: list[tuple[EditPlan, Path] | Made | EditRejectedError] = []
        waiting = 0
        for ready in _ahead(pool, self._ready, tasks, size + self._workers):
            if not isinstance(ready, tuple) and not waiting:
                yield ready
                continue
            group.append(ready)
            waiting += isinstance(ready, tuple)
            if waiting == size or len(group) >= 4 * size:
                yield from self._flush(pool, group)
                group, waiting = [], 0
        yield from self._flush(pool, group)

    def _flush(
        self, pool: ThreadPoolExecutor, group: Sequence[tuple[EditPlan, Path] | Made | EditRejectedError]
    ) -> Iterator[Made | EditRejectedError]:
        todo = [ready for ready in group if isinstance(ready, tuple)]
        edited = self._edit([plan for plan, _ in todo]) if todo else []
        written = pool.map(self._written, *zip(*todo, strict=True), edited) if todo else iter(())
        for ready in group:
            yield next(written) if isinstance(ready, tuple) else ready

    def _ready(self, task: EditTask) -> tuple[EditPlan, Path] | Made | EditRejectedError:
        """Plan one edit, and see whether its image is there already."""
        try:
            plan = self._editor.plan(task)
        except EditRejectedError as error:
            return error
        except CfpairsError:  # it concerns the whole build
            raise
        except Exception as error:  # one bad image must never stop the build
            return _failure(error)
        path = self._place(task, plan)
        kept = _read_back(path, plan)
        return (plan, path) if kept is None else Made(plan, kept, path, True)

    def _edit(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        """The editor's answer; plans of a batch that fails as a whole are tried one by one."""
        try:
            found = self._editor.edit(plans)
        except CfpairsError:  # it concerns the whole build
            raise
        except Exception as error:  # one bad image must never stop the build
            if len(plans) > 1:
                return [one for plan in plans for one in self._edit([plan])]
            return [error if isinstance(error, EditRejectedError) else _failure(error)]
        return [_checked(plan, image) for plan, image in zip(plans, found, strict=True)]

    def _written(
        self, plan: EditPlan, path: Path, edited: NDArray[np.uint8] | EditRejectedError
    ) -> Made | EditRejectedError:
        if isinstance(edited, EditRejectedError):
            return edited
        if plan.mask is not None and plan.mask.path is None:
            levels = np.rint(plan.mask.alpha * 255).astype(np.uint8)
            write_bytes(mask_file(path), bytes(cv2.imencode(".png", levels)[1]))
        # The image comes last: where it is, its mask is too.
        write_bytes(path, encode_png(edited))
        return Made(plan, edited, path, False)


def mask_file(path: Path) -> Path:
    """Where the computed mask of the edited image `path` lies."""
    return path.with_name(f"{path.stem}.mask.png")


def _read_back(path: Path, plan: EditPlan) -> NDArray[np.uint8] | None:
    """The image of an earlier build; None if there is none that can be used."""
    needs_mask = plan.mask is not None and plan.mask.path is None
    if not path.is_file() or (needs_mask and not mask_file(path).is_file()):
        return None
    try:
        kept = decode_image(read_file(path, "edited image"), "edited image")
    except EditRejectedError:
        return None
    return kept if kept.shape == plan.source.shape else None


def _checked(
    plan: EditPlan, image: NDArray[np.uint8] | EditRejectedError
) -> NDArray[np.uint8] | EditRejectedError:
    if isinstance(image, EditRejectedError):
        return image
    if image.dtype != np.uint8 or image.shape != plan.source.shape:
        return EditRejectedError("the editor gave an image of another size")
    return image


def _failure(error: Exception) -> EditRejectedError:
    return EditRejectedError(f"the edit failed: {type(error).__name__}")


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[In], Out], tasks: Iterable[In], depth: int
) -> Iterator[Out]:
    """``map`` over a pool, in order, with at most `depth` tasks under way or waiting to be taken."""
    waiting: deque[Future[Out]] = deque()
    for task in tasks:
        waiting.append(pool.submit(work, task))
        if len(waiting) >= depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
