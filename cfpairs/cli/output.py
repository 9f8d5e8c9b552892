"""What the commands print, for people or for programs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from cfpairs.workflow import StageResult

__all__ = ["Output"]


class Output:
    """Prints results as they come, or all of them as one JSON object at the end."""

    def __init__(self, *, quiet: bool, as_json: bool) -> None:
        self.quiet, self.as_json = quiet, as_json
        self.stages: list[dict[str, Any]] = []

    def stage(self, result: StageResult) -> None:
        """Take what a stage made, and print it unless it waits for the end."""
        self.stages.append(
            {"stage": result.stage, "made": result.made, "notes": list(result.notes), **result.data}
        )
        if not self.quiet and not self.as_json:
            if result.view is not None:
                self.show(lambda: result.view)
            if result.data.get("cells"):
                self.show(lambda: _cells_view(result))
            typer.echo(result.summary)
            if "counts" in result.data:
                typer.echo(f"  {_yield(result.data['counts'])}")
            for note in result.notes:
                typer.echo(f"  note: {note}")

    def show(self, make: Callable[[], Any]) -> None:
        """Print a rich renderable, unless quiet or for programs."""
        if not self.quiet and not self.as_json:
            from cfpairs.terminal import make_console

            make_console().print(make())

    def end(self, **more: Any) -> None:
        """Print the JSON object, with more members."""
        if self.as_json:
            typer.echo(json.dumps({"stages": self.stages, **more}, indent=1))


def _cells_view(result: StageResult) -> Any:
    from cfpairs.terminal import cells_view

    return cells_view(result.data["cells"])


def _yield(counts: dict[str, int]) -> str:
    """How many of the pairs that were tried are kept."""
    kept = counts.get("ok", 0)
    tried = kept + counts.get("rejected", 0)
    return f"yield: {kept:,} of {tried:,} tried ({100 * kept / max(tried, 1):.1f} %)"
