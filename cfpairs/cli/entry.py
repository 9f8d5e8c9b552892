"""From the shell to a command and back: signals, errors and the exit status."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import typer

from cfpairs.cli.commands import app
from cfpairs.errors import CfpairsError

__all__ = ["main"]

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells have it."""


def main() -> None:
    """Run the command line; every error that is meant for the user is one line."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        code = app(standalone_mode=False)
    except CfpairsError as error:
        _fail(error)
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(1) from None
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        # A full disk or a folder that vanished while a library wrote: no fault of the program.
        _fail(CfpairsError(f"the system refused: {error.strerror or error}", got=error.filename))
    except MemoryError:
        _fail(CfpairsError("memory ran out", remedy="lower encoder.batch_size or use fewer items"))
    except Exception as error:
        # Typer's own usage errors know how to show themselves; what remains is a bug and keeps its trace.
        show = getattr(error, "show", None)
        if show is None:
            raise
        show()
        raise SystemExit(getattr(error, "exit_code", 2)) from None
    if code == INTERRUPTED:
        print("stopped; what was finished is kept, the same command goes on from there", file=sys.stderr)  # noqa: T201
    raise SystemExit(code if isinstance(code, int) else 0)


def _stop(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _fail(error: CfpairsError) -> NoReturn:
    print(f"cfpairs: {error}", file=sys.stderr)  # noqa: T201
    raise SystemExit(error.exit_code) from None
