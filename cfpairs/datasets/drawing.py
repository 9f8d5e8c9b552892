"""Drawing the images of a data set once, whoever asks first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from cfpairs.errors import WorkspaceError

__all__ = ["draw_once"]


def draw_once(folder: Path, complete: Callable[[], bool], draw: Callable[[], None], remedy: str) -> None:
    """Call `draw` unless `complete` says that its files are there; two processes take turns.

    Parameters
    ----------
    folder : Path
        Made if need be; its lock keeps processes apart.
    complete, draw : callable
    remedy : str
        What to choose instead of a folder that cannot be written.

    Raises
    ------
    WorkspaceError
        If the folder cannot be written.
    """
    if complete():
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not complete():
                draw()
    except OSError as error:
        raise WorkspaceError(
            f"the folder {folder} cannot be written",
            got=error.strerror or str(error),
            remedy=f"check free space and permissions, or choose another {remedy}",
        ) from error
