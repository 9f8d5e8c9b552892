"""What the studies share: settings from a file, tables as text and CSV, figures as bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cfpairs import CfpairsError
from cfpairs.tables import write_bytes

Settings = TypeVar("Settings", bound=BaseModel)

HEAD = ("", "paper", "ours", "data used")


def config_of(name: str) -> Path:
    """The configuration file of the study `name`, with hyphens."""
    return Path(__file__).resolve().parents[1] / "configs" / f"{name}.yaml"


def read_settings(model: type[Settings], path: Path, **changes: Any) -> Settings:
    """Settings of a file, some replaced.

    Raises
    ------
    CfpairsError
        If the file cannot be read, or a setting is unknown, missing or impossible.
    """
    try:
        return model(**{**yaml.safe_load(path.read_text()), **changes})
    except (OSError, TypeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CfpairsError(
            f"settings of the study cannot be read from {path}", got=type(error).__name__
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise CfpairsError(f"a setting of the study cannot be used: {name}", got=first["msg"]) from error


def as_csv(table: Sequence[Mapping[str, Any]]) -> bytes:
    """Rows with the same keys as CSV; numbers with six decimals."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: round(value, 6) if isinstance(value, float) else value for name, value in row.items()}
        for row in table
    )
    return buffer.getvalue().encode()


def as_image(figure: Any, kind: str) -> bytes:
    """A matplotlib figure as ``svg`` or ``png``, without dates."""
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format=kind, dpi=120, metadata={"Date": None} if kind == "svg" else {"Software": None}
    )
    return buffer.getvalue()


def show(lines: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    print()


def finish(out: Path, lines: Sequence[Sequence[str]], files: Mapping[str, bytes]) -> None:
    """Write the files and ``comparison.csv``, print ``paper | ours | data used`` and where the files are."""
    rows = [dict(zip(("measure", *HEAD[1:]), line, strict=True)) for line in lines]
    for name, content in {**files, "comparison.csv": as_csv(rows)}.items():
        write_bytes(out / name, content)
    show([HEAD, *lines])
    print(", ".join(str(out / name) for name in files))
