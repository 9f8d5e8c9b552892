"""Every figure of the page: its id, its conclusion, and where its numbers stand in ``report.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cfpairs.report.captions import (
    cells_caption,
    comparison_caption,
    forecast_caption,
    scree_caption,
    tradeoff_caption,
)
from cfpairs.report.model import ReportData
from cfpairs.report.probe_captions import average_caption, curve_caption, map_caption
from cfpairs.report.values import as_floats, as_rows

__all__ = ["FigureNote", "figure_notes"]


@dataclass(frozen=True)
class FigureNote:
    """One figure.

    Attributes
    ----------
    id : str
        Of its element in the page.
    pair_set : str or None
    caption : str
        What to conclude.
    numbers : tuple of str
        Keys that lead to its numbers in ``report.json``.
    """

    id: str
    pair_set: str | None
    caption: str
    numbers: tuple[str, ...]


def figure_notes(data: ReportData) -> Mapping[str, FigureNote]:
    """The figures by id, in the order of the page."""
    notes = []
    if data.curves:
        notes += [
            FigureNote("worst-group", None, curve_caption(data), ("curves",)),
            FigureNote("average", None, average_caption(data), ("curves",)),
        ]
    place = {pairs.name: i + 1 for i, pairs in enumerate(data.pair_sets)}
    for view in data.maps:
        key = f"map-{place.get(view.pair_set, 0)}"
        notes.append(FigureNote(key, view.pair_set, map_caption(view), ("maps", view.pair_set)))
    for pairs in data.pair_sets:
        i, root = place[pairs.name], ("pair_sets", pairs.name)
        for key, field, caption in (
            ("removed", "tradeoff", tradeoff_caption),
            ("spectrum", "singular_values", scree_caption),
            ("forecast", "forecast", forecast_caption),
            ("coverage", "cells", cells_caption),
        ):
            given = pairs.quality.get(field)
            if pairs.cells if key == "coverage" else as_floats(given) or as_rows(given):
                notes.append(FigureNote(f"{key}-{i}", pairs.name, caption(pairs), (*root, field)))
    if data.comparison:
        notes.append(FigureNote("equal", None, comparison_caption(data.comparison), ("comparison",)))
    return {note.id: note for note in notes}
