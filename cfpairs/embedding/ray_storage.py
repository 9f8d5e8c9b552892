"""How the machines of a cluster make sure that they see the same storage, and how they answer with errors."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfpairs.errors import WorkspaceError
from cfpairs.tables import write_bytes
from cfpairs.workspace import Workspace

__all__ = ["check_storage", "pickled_error", "storage_token"]


@contextmanager
def storage_token(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    """A file in the workspace, and its content, by which an actor knows that it sees the same storage."""
    file = workspace.root / ".ray-token"
    token = f"{socket.gethostname()} {os.getpid()} {time.time_ns()}"
    write_bytes(file, token.encode())
    try:
        yield file, token
    finally:
        file.unlink(missing_ok=True)


def check_storage(root: Path, token_file: Path, token: str, witness: Path | None) -> None:
    """See whether this machine has the workspace and the images of the one that drives it.

    Parameters
    ----------
    root : Path
        The workspace.
    token_file, token : Path, str
        As `storage_token` gave them there.
    witness : Path or None
        An image that could be opened there.

    Raises
    ------
    WorkspaceError
        If the file has another content, or the image is not there.
    """
    machine = socket.gethostname()
    try:
        seen = token_file.read_text()
    except OSError:
        seen = None
    if seen != token:
        raise WorkspaceError(
            f"the machine {machine} does not see the workspace {root}",
            remedy="put it on storage that every machine has under this path",
        )
    if witness is not None and not witness.exists():
        raise WorkspaceError(
            f"the machine {machine} does not see the images",
            got=f"no file {witness}",
            remedy="put them on storage that every machine has under this path",
        )


def pickled_error(fault: Exception) -> bytes:
    """An error that another process can rebuild; one that cannot be pickled is told in words."""
    try:
        content = pickle.dumps(fault)
        pickle.loads(content)  # noqa: S301  # an error that cannot be rebuilt would be lost over there
        return content
    except Exception:
        return pickle.dumps(RuntimeError(f"{type(fault).__name__}: {fault}"))
