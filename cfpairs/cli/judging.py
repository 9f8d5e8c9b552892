"""Commands that judge the pairs: ``probe``, ``report`` and ``review``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cfpairs.cli.contexts import working
from cfpairs.cli.options import (
    ConfigOption,
    EncoderOption,
    JsonOption,
    PairSetOption,
    QuietOption,
    SeedOption,
    WorkspaceOption,
)
from cfpairs.cli.output import Output
from cfpairs.errors import ConfigError

if TYPE_CHECKING:
    from cfpairs.workflow import StageResult

__all__ = ["probe", "report", "review"]


def probe(
    r: Annotated[
        str | None, typer.Option("--r", help="auto | 16 | 4,8,16 | 0:64 (both ends included)")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="Probe; may be repeated; 'all' for every one.")
    ] = None,
    pair_set: PairSetOption = None,
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Fit the probes and measure worst-group accuracy."""
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = Output(quiet=quiet, as_json=as_json)
    with working(config, workspace, seed, quiet) as context:
        every = bool(method and "all" in method)
        wanted = change(context.config, "probe", r=r, methods=None if every else method)
        wanted = change(wanted, "encoder", spec=encoder)
        changed = context.with_config(probe=wanted.probe, encoder=wanted.encoder)
        result = workflow.probe(changed, pair_set or (), every=every)
        output.stage(result)
        output.show(lambda: _results_view(result, wanted.probe.selection[0]))
    output.end()


def _results_view(result: StageResult, rule: str) -> Any:
    from cfpairs.terminal import results_view

    known = any(row["selection"] == rule for row in result.data["results"])
    table = results_view(result.data["results"], rule if known else None)
    table.caption = "* differs from erm (paired bootstrap, 95 %); other rules stand in results.parquet"
    table.caption_justify = "left"
    return table


def report(
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", help="Two workspaces to set side by side instead; both are only read."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Page of the comparison; a .json of that name goes beside it; default compare.html."
        ),
    ] = None,
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write report.html and report.json, or compare two workspaces.

    Either speaks of the latest probe run.
    """
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = Output(quiet=quiet, as_json=as_json)
    if compare is not None:
        given = {"-c": config, "-w": workspace, "--encoder": encoder, "--seed": seed}
        idle = [name for name, value in given.items() if value is not None]
        if idle:
            raise ConfigError(
                "--compare reads two workspaces as they are", got=", ".join(idle), remedy="leave that out"
            )
        page = out or Path("compare.html")
        result = workflow.compare(*compare, page)
        output.stage(result)
        output.end()
        if open_page:
            typer.launch(page.absolute().as_uri())
        return
    if out is not None:
        raise ConfigError(
            "--out names the page of a comparison",
            got=f"{out} without --compare",
            remedy="add --compare A B; a report lies in its workspace",
        )
    with working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder)
        result = workflow.report(context.with_config(encoder=wanted.encoder))
    output.stage(result)
    output.end()
    if open_page:
        typer.launch(Path(result.data["html"]).as_uri())


def review(
    pair_set: PairSetOption = None,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Port on this machine; default one that is free.")
    ] = 0,
    open_page: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the page in the browser, or only print its address."),
    ] = True,
    encoder: EncoderOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Keep or drop pairs on a local page, worst first; Ctrl-C ends it."""
    from cfpairs.workflow.review import open_review
    from cfpairs.workflow.start import change

    def ready(url: str) -> None:
        if as_json:
            typer.echo(json.dumps({"url": url, "pid": os.getpid()}))
        else:
            typer.echo(f"review: {url}\n  every decision is saved at once; Ctrl-C ends the page")
        sys.stdout.flush()
        if open_page:
            typer.launch(url)

    with working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder)
        changed = context.with_config(encoder=wanted.encoder)
        result = open_review(changed, pair_set or ()).serve(port, ready)
    output = Output(quiet=quiet, as_json=False)
    if not as_json:
        output.stage(result)
