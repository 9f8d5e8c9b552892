"""Commands that make what the probes need: ``init``, ``build`` and ``embed``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cfpairs.cli.contexts import with_engine, working
from cfpairs.cli.options import (
    ConfigOption,
    JsonOption,
    QuietOption,
    RayAddressOption,
    SeedOption,
    WorkspaceOption,
)
from cfpairs.cli.output import Output
from cfpairs.errors import ConfigError

__all__ = ["build", "embed", "init"]


def init(
    preset: Annotated[str, typer.Argument(help="Kind of data set: see 'cfpairs list'.")],
    root: Annotated[Path, typer.Option("--root", help="Folder of the data set.")],
    out: Annotated[Path, typer.Option("--out", help="Configuration file to write.")] = Path("cfpairs.yaml"),
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the data set (KEY) or of another section (probe.r); may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing configuration.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a configuration that suits the data, and show their groups."""
    from cfpairs.terminal import RichProgress, group_view
    from cfpairs.workflow import Context
    from cfpairs.workflow.start import scan_data, starting_config

    if out.exists() and not force:
        raise ConfigError(f"{out} exists already", remedy="choose another --out, or --force to replace it")
    config, text = starting_config(preset, root, out, workspace, seed, settings or ())
    scan = scan_data(Context(config, RichProgress(quiet=quiet)))
    from cfpairs.tables import write_bytes

    write_bytes(out, text.encode())
    output = Output(quiet=quiet, as_json=as_json)
    output.show(lambda: group_view(scan.groups))
    if not quiet and not as_json:
        typer.echo(scan.line)
        for line in scan.warnings:
            typer.echo(f"  note: {line}")
        typer.echo(f"wrote {out}; next: cfpairs run -c {out}")
    output.end(config=str(out), **scan.to_dict())


def build(
    method: Annotated[
        str | None, typer.Option("--method", help="How pairs are made: see 'cfpairs list'.")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option("--pairs", min=1, help="How many pairs to make; an import takes all if not given."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the pair set; default the method.")
    ] = None,
    from_: Annotated[
        Path | None, typer.Option("--from", help="File of pairs (CSV, TSV, Parquet), for method import.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the builder; may be repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Build again even if nothing changed.")] = False,
    engine: Annotated[
        str | None, typer.Option("--engine", help="Where images are edited and encoded: local | ray")
    ] = None,
    ray_address: RayAddressOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Build one pair set, or all of the configuration."""
    from cfpairs.workflow import build_pairs
    from cfpairs.workflow.start import pair_config

    output = Output(quiet=quiet, as_json=as_json)
    with working(config, workspace, seed, quiet) as found:
        context = with_engine(found, engine, ray_address)
        if method is None and name is None:
            if pairs is not None or from_ is not None or settings:
                raise ConfigError(
                    "--pairs, --from and --set need to know which pair set", remedy="add --method"
                )
            wanted = list(context.config.pairs)
        else:
            wanted = [pair_config(context.config, method, name, pairs, from_, settings or ())]
        for pair in wanted:
            output.stage(build_pairs(context, pair, force=force, look=True))
    output.end()


def embed(
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder", help="lite | open_clip:MODEL/TAG | timm:MODEL.TAG | …@FILE: see 'cfpairs list'"
        ),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto | cpu | cuda")] = None,
    engine: Annotated[str | None, typer.Option("--engine", help="local | ray")] = None,
    ray_address: RayAddressOption = None,
    config: ConfigOption = None,
    workspace: WorkspaceOption = None,
    seed: SeedOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Encode every item that has no embedding yet."""
    from cfpairs import workflow
    from cfpairs.workflow.start import change

    output = Output(quiet=quiet, as_json=as_json)
    with working(config, workspace, seed, quiet) as context:
        wanted = change(context.config, "encoder", spec=encoder, device=device)
        changed = context.with_config(encoder=wanted.encoder)
        output.stage(workflow.embed(with_engine(changed, engine, ray_address)))
    output.end()
