"""What the studies share: their command, settings from a file, tables as text and CSV, figures as bytes."""

from __future__ import annotations

import argparse
import csv
import functools
import io
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from cfpairs import CfpairsError
from cfpairs.tables import write_bytes

Settings = TypeVar("Settings", bound=BaseModel)
Given = ParamSpec("Given")

HEAD = ("", "paper", "ours", "data used")


def config_of(name: str) -> Path:
    """The configuration file of the study `name`, with hyphens."""
    return Path(__file__).resolve().parents[1] / "configs" / f"{name}.yaml"


def study_parser(said: str | None) -> argparse.ArgumentParser:
    """A parser without arguments, whose help is the study's own text as it stands."""
    return argparse.ArgumentParser(description=said, formatter_class=argparse.RawDescriptionHelpFormatter)


def exit_status(run: Callable[Given, None]) -> Callable[Given, int]:
    """The command with its exit status: 1 after an error that is meant for the user, which is one line."""

    @functools.wraps(run)
    def told(*args: Given.args, **kwargs: Given.kwargs) -> int:
        try:
            run(*args, **kwargs)
        except CfpairsError as error:
            print(error, file=sys.stderr)
            return 1
        return 0

    return told


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


@contextmanager
def drawing(name: str, width: float, height: float) -> Iterator[Any]:
    """A matplotlib figure to draw on, in inches; the same `name` and drawing give the same SVG."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": name, "font.size": 9}):
        yield Figure(figsize=(width, height), layout="constrained")


def open_frame(axes: Any) -> None:
    """Take away the lines above and to the right."""
    axes.spines[["top", "right"]].set_visible(False)


def figure_files(draw: Callable[..., bytes], *given: Any) -> dict[str, bytes]:
    """``figure.svg`` and ``figure.png``, as `draw` makes them of what is given and of the kind."""
    return {f"figure.{kind}": draw(*given, kind) for kind in ("svg", "png")}


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
