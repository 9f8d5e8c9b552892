"""Where everything lies on disk, and the lock that keeps two processes apart."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from cfpairs.errors import WorkspaceError

__all__ = ["Workspace"]


class Workspace:
    """Paths of one workspace.

    Parameters
    ----------
    root : Path or str
        The folder; made when something is first written.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root).absolute()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @property
    def config(self) -> Path:
        """The configuration that made this workspace."""
        return self.root / "cfpairs.yaml"

    @property
    def manifest(self) -> Path:
        """One row an item."""
        return self.root / "manifest.parquet"

    @property
    def report_html(self) -> Path:
        """The page."""
        return self.root / "report.html"

    @property
    def report_json(self) -> Path:
        """The same numbers for programs."""
        return self.root / "report.json"

    def pair_folder(self, name: str) -> Path:
        """Folder of one pair set."""
        return self.root / "pairs" / name

    def pairs(self, name: str) -> Path:
        """One row a pair."""
        return self.pair_folder(name) / "pairs.parquet"

    def card(self, name: str) -> Path:
        """Data card of one pair set."""
        return self.pair_folder(name) / "card.md"

    def decisions(self, name: str) -> Path:
        """Decisions on pairs that the pair set has lost by being built anew; they wait for their pairs."""
        return self.pair_folder(name) / "decisions.parquet"

    def pair_images(self, name: str) -> Path:
        """Images that a builder makes."""
        return self.pair_folder(name) / "images"

    def pair_vectors(self, name: str) -> Path:
        """Folder of the vectors that a builder makes for items without an image."""
        return self.pair_folder(name) / "vectors"

    def pair_set_names(self) -> list[str]:
        """Pair sets that are complete on disk, by name."""
        folder = self.root / "pairs"
        return sorted(p.parent.name for p in folder.glob("*/pairs.parquet"))

    def embeddings(self, encoder_id: str) -> Path:
        """Folder of one encoder's Parquet parts."""
        return self.root / "embeddings" / encoder_id

    @property
    def files(self) -> Path:
        """Size, times and content of image files when they were last read."""
        return self.root / ".files.npy"

    def probe_run(self, run_id: str) -> Path:
        """Folder of one probe run."""
        return self.root / "probes" / run_id

    @property
    def latest_probe(self) -> Path:
        """Names the probe run that was asked for last."""
        return self.root / "probes" / "latest.json"

    def file(self, path: str) -> Path:
        """The file that a ``path`` or ``mask_path`` of the manifest stands for.

        Paths in the manifest are absolute, or relative to the workspace.
        """
        return self.root / path

    def relative(self, path: Path) -> str:
        """`path` as the manifest stores it: relative if it lies in the workspace, else absolute."""
        path = Path(os.path.abspath(path))
        try:
            return path.relative_to(self.root).as_posix()
        except ValueError:
            return path.as_posix()

    def ensure(self) -> None:
        """Make the folder and prove that it can be written.

        Raises
        ------
        WorkspaceError
            If it cannot be made or written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / f".write-test.{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise WorkspaceError(
                f"the workspace {self.root} cannot be written",
                got=error.strerror or str(error),
                remedy="choose another with --workspace, or give write permission",
            ) from error

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the workspace for one process; the operating system frees it if the process dies.

        Raises
        ------
        WorkspaceError
            If another process holds it; the message names that process.
        """
        self.ensure()
        holder = self.root / ".lock-holder.json"
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise WorkspaceError(
                f"another process is working in {self.root}",
                got=_describe(holder),
                remedy="wait for it to end, or choose another --workspace",
            ) from error
        try:
            holder.write_text(json.dumps({"pid": os.getpid(), "command": " ".join(sys.argv[1:3])}))
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


def _describe(holder: Path) -> str:
    try:
        found = json.loads(holder.read_text())
        return f"process {found['pid']} ({found['command']})"
    except (OSError, ValueError, KeyError):
        return "a lock that is held"
