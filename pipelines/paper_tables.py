"""What the studies share: settings from a file, tables as text and CSV, figures as bytes."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

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


class Outcome(NamedTuple):
    """What a simulated study found: ``paper | ours | data used``, files, and tables to print as well."""

    lines: Sequence[Sequence[str]]
    files: Mapping[str, bytes]
    tables: Sequence[Sequence[Sequence[str]]] = ()


def run_simulated(
    name: str,
    description: str | None,
    work: Callable[[Path, dict[str, Any]], Outcome],
    argv: Sequence[str] | None,
    *,
    repeats: str = "seeds",
    quick: Mapping[str, Any] | None = None,
) -> int:
    """The command of a study that draws its own data.

    Parameters
    ----------
    name : str
        Of the study, with hyphens: of its configuration and of the folder of its files.
    description : str or None
    work : callable
        The configuration file and settings that replace its own -> what was found.
    argv : sequence of str or None
    repeats : str
        The setting that counts repetitions, and its flag.
    quick : mapping, optional
        Settings of ``--quick``.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work") / name)
    parser.add_argument(
        f"--{repeats}", type=int, dest="repeats", help="how many; the configuration's by default"
    )
    if quick is not None:
        parser.add_argument(
            "--quick", action="store_true", help=f"one of the {repeats}, fewer rows and points"
        )
    parser.add_argument("--config", type=Path, default=config_of(name))
    args = parser.parse_args(argv)
    changes = dict(quick or {}) if getattr(args, "quick", False) else {}
    if args.repeats is not None:
        changes[repeats] = args.repeats
    try:
        found = work(args.config, changes)
        finish(args.out, found.lines, found.files)
    except CfpairsError as error:
        print(error, file=sys.stderr)
        return 1
    for table in found.tables:
        show(table)
    return 0
