"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "ConfigOption",
    "EncoderOption",
    "JsonOption",
    "PairSetOption",
    "QuietOption",
    "RayAddressOption",
    "SeedOption",
    "WorkspaceOption",
]

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Configuration; default cfpairs.yaml, else the workspace's own."),
]
WorkspaceOption = Annotated[
    Path | None, typer.Option("--workspace", "-w", help="Folder of results; overrides the configuration.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Overrides the configuration's seed.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
RayAddressOption = Annotated[
    str | None, typer.Option("--ray-address", help="Ray cluster to join, with --engine ray: auto | HOST:PORT")
]
EncoderOption = Annotated[str | None, typer.Option("--encoder", help="Whose embeddings to use.")]
PairSetOption = Annotated[
    list[str] | None, typer.Option("--pair-set", help="Pair set; may be repeated; default all.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]
