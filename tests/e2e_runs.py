"""Running the real commands as processes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

SMALL = {"size": 64, "train": 240, "val": 16, "test": 80}


def run(*args: object, cwd: Path, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run ``cfpairs`` and fail with its output if the exit status is not the expected one."""
    done = subprocess.run(
        [sys.executable, "-m", "cfpairs", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert "Traceback" not in done.stderr, done.stderr
    if check is not None:
        assert done.returncode == check, done.stdout + done.stderr
    return done


@contextmanager
def holding_the_lock(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock of a workspace until it is killed, or the block ends."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from cfpairs.workspace import Workspace\n"
            f"with Workspace({str(root)!r}).lock():\n print('held', flush=True); sys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        yield holder
    finally:
        holder.kill()
        holder.communicate()


def write_config(folder: Path, **changes: object) -> Path:
    values = {
        "workspace": "work",
        "data": {"preset": "digits", "root": "digits", "options": SMALL},
        "pairs": [{"method": m, "pairs": 40} for m in ("edit", "nearest", "random")],
        "encoder": {"part_rows": 64},
        "probe": {"r": "1,4", "C": [1e-3, 1e-1], "seeds": [0, 1], "folds": 3},
    }
    path = folder / "cfpairs.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


def parts_of(work: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(work.glob("embeddings/*/part-*.parquet"))}
