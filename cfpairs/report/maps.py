"""Worst-group accuracy over r and ridge, from the record of every fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cfpairs.report.model import MapCell, MapView, Result
from cfpairs.report.values import as_float, as_int, params_of

__all__ = ["map_views"]

METHOD, START = "ncm", "erm"


def map_views(
    grid: Iterable[Mapping[str, Any]],
    chosen: Sequence[Result],
    order: Sequence[str | None],
    best: Result | None,
) -> tuple[MapView, ...]:
    """One map for each pair set that NCM was fitted with at more than one setting.

    Parameters
    ----------
    grid : iterable of dict
        Rows of ``grid.parquet``, one a fit. Rows with other hyperparameters than r and C are left out, and
        ERM stands for r = 0.
    chosen : sequence of Result
        Of the primary rule.
    order : sequence
        Names of the pair sets in the order of the page.
    best : Result or None
        Its pair set comes first.
    """
    cells: dict[str | None, dict[tuple[int, float], MapCell]] = {}
    start: dict[tuple[int, float], MapCell] = {}
    for row in grid:
        cell = _cell(row)
        if cell is None:
            continue
        if row.get("method") == METHOD and row.get("pair_set") is not None:
            cells.setdefault(str(row["pair_set"]), {})[cell.r, cell.C] = cell
        elif row.get("method") == START and cell.r == 0:
            start[cell.r, cell.C] = cell
    settings = {row.pair_set: (row.r, row.C) for row in chosen if row.method == METHOD}
    first = None if best is None else best.pair_set
    names = sorted(cells, key=lambda n: (n != first, order.index(n) if n in order else len(order), n or ""))
    return tuple(
        MapView(str(name), _rows({**start, **cells[name]}), _known(settings.get(name)))
        for name in names
        if len(cells[name]) > 1
    )


def _cell(row: Mapping[str, Any]) -> MapCell | None:
    r, C = as_int(row.get("r")), as_float(row.get("C"))
    if r is None or C is None or row.get("method") not in (METHOD, START) or params_of(row):
        return None
    return MapCell(r, C, as_float(row.get("worst_group")), as_float(row.get("average")))


def _rows(cells: Mapping[tuple[int, float], MapCell]) -> tuple[tuple[MapCell, ...], ...]:
    ranks, strengths = sorted({r for r, _ in cells}), sorted({C for _, C in cells})
    return tuple(tuple(cells.get((r, C), MapCell(r, C, None, None)) for C in strengths) for r in ranks)


def _known(setting: tuple[int | None, float | None] | None) -> tuple[int, float] | None:
    if setting is None or setting[0] is None or setting[1] is None:
        return None
    return setting[0], setting[1]
