"""Commands that need no data: ``doctor``, ``list`` and ``--version``."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cfpairs.cli.options import JsonOption, QuietOption
from cfpairs.errors import ConfigError

__all__ = ["doctor", "list_names", "root"]

VERSIONS = (
    "numpy", "scipy", "scikit-learn", "pyarrow", "torch", "torchvision", "open-clip-torch", "timm",
    "openvino", "faiss-cpu", "faiss-gpu-cu12", "diffusers", "ray",
)  # fmt: skip
"""Libraries that results may depend on."""


def _show_version(value: bool) -> None:
    if value:
        import platform
        from importlib.metadata import PackageNotFoundError, version

        typer.echo(f"cfpairs {version('cfpairs')}")
        typer.echo(f"python {platform.python_version()}")
        for name in VERSIONS:
            try:
                typer.echo(f"{name} {version(name)}")
            except PackageNotFoundError:
                continue
        raise typer.Exit


def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print versions: cfpairs, then what results may depend on.",
        ),
    ] = False,
) -> None:
    """Options that stand before a command."""


def doctor(
    encoder: Annotated[
        str | None,
        typer.Option("--encoder", help="Measure this encoder: fastest runtime and precision that is safe."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto | cpu | cuda, with --encoder")] = None,
    features: Annotated[
        str | None, typer.Option("--features", help="projected | pooled, with --encoder")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what this machine can do, and the remedy for what it cannot."""
    from dataclasses import asdict

    from cfpairs.workflow.doctor import examine

    if encoder is not None:
        _measure(encoder, device, features, quiet, as_json)
        return
    if device is not None or features is not None:
        raise ConfigError("--device and --features need an encoder to measure", remedy="add --encoder SPEC")
    findings = examine()
    if as_json:
        typer.echo(json.dumps({"findings": [asdict(f) for f in findings]}, indent=1))
    elif not quiet:
        for finding in findings:
            typer.echo(finding.line)
    if any(f.level == "error" for f in findings):
        raise SystemExit(1)


def _measure(spec: str, device: str | None, features: str | None, quiet: bool, as_json: bool) -> None:
    from dataclasses import asdict

    from cfpairs.config import EncoderConfig, parse_options
    from cfpairs.terminal import RichProgress
    from cfpairs.workflow.doctor import examine_encoder

    given = {"spec": spec, "device": device, "features": features}
    config = parse_options(EncoderConfig, {k: v for k, v in given.items() if v is not None}, "encoder")
    found = examine_encoder(config, RichProgress(quiet=quiet or as_json))
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    elif not quiet:
        for line in found.lines():
            typer.echo(line)


def list_names(
    kind: Annotated[str | None, typer.Argument(help="datasets | pairs | editors | encoders | probes")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show every name that can be used."""
    from cfpairs.registry import KINDS, entries

    kinds = KINDS if kind is None else (kind,)
    found = {k: {name: entry.summary for name, entry in entries(k).items()} for k in kinds}
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    elif not quiet:
        for k, names in found.items():
            typer.echo(k)
            width = max(map(len, names), default=0)
            for name, summary in names.items():
                typer.echo(f"  {name:<{width}}  {summary}")
