"""What a command works on: the configuration, the workspace and the progress bar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cfpairs.errors import ConfigError

if TYPE_CHECKING:
    from cfpairs.workflow import Context

__all__ = ["open_context", "with_engine", "working"]


def open_context(config: Path | None, workspace: Path | None, seed: int | None, quiet: bool) -> Context:
    """The context of a command that only reads."""
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow import Context, find_config

    found, _ = find_config(config, workspace, seed)
    return Context(found, RichProgress(quiet=quiet))


@contextmanager
def working(config: Path | None, workspace: Path | None, seed: int | None, quiet: bool) -> Iterator[Context]:
    """The context of a command that writes: the workspace is locked and knows its configuration."""
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow import Context, find_config, keep_config

    found, source = find_config(config, workspace, seed)
    context = Context(found, RichProgress(quiet=quiet))
    with context.workspace.lock():
        keep_config(context, source)
        yield context


def with_engine(context: Context, engine: str | None, ray_address: str | None) -> Context:
    """The same with another engine."""
    from cfpairs.workflow.start import change

    wanted = change(context.config, "encoder", engine=engine, ray_address=ray_address)
    if ray_address is not None and wanted.encoder.engine != "ray":
        raise ConfigError("--ray-address is for the engine ray", remedy="add --engine ray")
    return context.with_config(encoder=wanted.encoder)
