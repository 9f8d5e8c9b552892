"""The table of commands, in the order in which ``cfpairs --help`` lists them."""

from __future__ import annotations

import typer

from cfpairs.cli.asking import doctor, list_names, root
from cfpairs.cli.judging import probe, report, review
from cfpairs.cli.making import build, embed, init
from cfpairs.cli.running import demo, run, status

__all__ = ["app"]

app = typer.Typer(
    name="cfpairs",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Curate counterfactual image pairs, measure their quality, and probe without the shortcut.",
)
app.callback()(root)
for command in (init, build, embed, probe, report, review, run, demo, status, doctor):
    app.command()(command)
app.command("list")(list_names)
