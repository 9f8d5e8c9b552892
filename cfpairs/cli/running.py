"""Commands that go through all stages: ``run``, ``demo`` and ``status``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfpairs.cli.contexts import open_context, working
from cfpairs.cli.options import ConfigOption, JsonOption, QuietOption, SeedOption, WorkspaceOption
from cfpairs.cli.output import Output

if TYPE_CHECKING:
    from cfpairs.workflow import Context

__all__ = ["demo", "run", "status"]


def run(
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the whole configuration and stop.")
    ] = False,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make every stage that is missing or stale, in order."""
    if print_config:
        from cfpairs.config import dump_config

        typer.echo(dump_config(open_context(config, workspace, seed, quiet).config), nl=False)
        return
    output = Output(quiet=quiet, as_json=as_json)
    with working(config, workspace, seed, quiet) as context:
        _run(context, output)
    output.end()


def _run(context: Context, output: Output) -> None:
    from cfpairs.workflow import run_stages

    for result in run_stages(context):
        output.stage(result)


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder to write.")] = Path("cfpairs-demo"),
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Run everything on handwritten digits over photographs, offline."""
    from cfpairs.workflow.start import demo_config

    output = Output(quiet=quiet, as_json=as_json)
    path = demo_config(out, seed)
    with working(path, None, None, quiet) as context:
        _run(context, output)
    output.end()


def status(
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show which stages are done, stale or missing."""
    from dataclasses import asdict

    from cfpairs.workflow import stage_states

    states = stage_states(open_context(config, workspace, seed, quiet))
    output = Output(quiet=quiet, as_json=as_json)
    output.show(lambda: _state_view(states))
    if as_json:
        typer.echo(json.dumps({"stages": [asdict(s) for s in states]}, indent=1))


def _state_view(states: Any) -> Any:
    from cfpairs.terminal import state_view

    return state_view(states)
