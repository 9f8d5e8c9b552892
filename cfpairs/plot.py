"""Figures of pair quality and of results, for notebooks and papers.

Each function gives a `matplotlib.figure.Figure`; nothing is shown or kept by pyplot.

Examples
--------
>>> import json, cfpairs
>>> found = json.load(open("cfpairs-work/report.json"))  # doctest: +SKIP
>>> cfpairs.plot.spectrum(found["pair_sets"]["edit"]).savefig("spectrum.pdf")  # doctest: +SKIP
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cfpairs.errors import DataError
from cfpairs.quality.result import PairQuality

__all__ = ["forecast", "spectrum", "tradeoff", "worst_group"]

SIGNAL, NOISE, EDGE = "#0b66a8", "#868d95", "#b3261e"
ORANGE, GREEN = "#c44e00", "#00795a"

CURVES = (
    ("environment_removed", "environment", SIGNAL, "-"),
    ("label_removed_deconfounded", "label, deconfounded", ORANGE, (0, (6, 2))),
    ("variance_removed", "variance", NOISE, (0, (2, 1.5))),
)

Quality = PairQuality | Mapping[str, Any]


class _Shown(Figure):
    """A figure that a notebook draws without pyplot."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png", dpi=120)
        return file.getvalue()


def spectrum(quality: Quality, *, most: int = 60) -> Figure:
    """Singular values of the pair differences, with the noise edge.

    Directions that count (up to the rank) are drawn in another colour than those that noise explains.

    Parameters
    ----------
    quality : PairQuality or mapping
        What `cfpairs.assess_pairs` gave, its ``to_dict()``, or a member of ``pair_sets`` of ``report.json``.
    most : int
        So many are drawn.
    """
    found = _plain(quality)
    values = [float(v) for v in found["singular_values"][:most]]
    rank, edge = int(found["rank"]), found["noise_edge"]
    figure, axes = _axes("direction", "singular value")
    colours = [SIGNAL if i < rank else NOISE for i in range(len(values))]
    axes.bar(range(1, len(values) + 1), values, color=colours)
    if edge is not None:
        axes.axhline(edge, color=EDGE, linestyle="--", linewidth=1, label="noise edge")
        axes.legend(frameon=False)
    axes.set_title(f"{found['n_pairs']} pairs: {rank} directions above the noise")
    return figure


def tradeoff(quality: Quality) -> Figure:
    """What removing the first r directions takes away: environment, label and variance, shares from 0 to 1.

    Parameters
    ----------
    quality : PairQuality or mapping
        As for `spectrum`.

    Raises
    ------
    DataError
        If the quality was measured without training items.
    """
    found = _plain(quality)
    rows = found["tradeoff"]
    if not rows:
        raise DataError(
            "there is no trade-off to draw", remedy="give assess_pairs the training items X, y and env"
        )
    figure, axes = _axes("directions removed, r", "share removed")
    for key, name, colour, dashes in CURVES:
        points = [(row["r"], row[key]) for row in rows if row[key] is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, label=name)
    if found["recommended_r"]:
        axes.axvline(
            found["recommended_r"], color=EDGE, linewidth=1, label=f"recommended r = {found['recommended_r']}"
        )
    axes.set_ylim(-0.02, 1.02)
    axes.legend(frameon=False)
    return figure


def forecast(quality: Quality) -> Figure:
    """Misalignment to expect with more pairs like these, with its range; 0 is exact, 1 unrelated.

    Parameters
    ----------
    quality : PairQuality or mapping
        As for `spectrum`.

    Raises
    ------
    DataError
        If there is no forecast: too few pairs, or no direction above the noise.
    """
    found = _plain(quality)
    rows = found["forecast"]
    if not rows:
        raise DataError("there is no forecast to draw", got=f"{found['n_pairs']} pairs")
    figure, axes = _axes("pairs", "misalignment")
    pairs = [row["n_pairs"] for row in rows]
    axes.fill_between(
        pairs, [row["low"] for row in rows], [row["high"] for row in rows], color=SIGNAL, alpha=0.2
    )
    axes.plot(pairs, [row["misalignment"] for row in rows], color=SIGNAL, marker="o", markersize=3)
    if found["misalignment"] is not None:
        axes.plot([found["n_pairs"]], [found["misalignment"]], "s", color=EDGE, label="these pairs")
        axes.legend(frameon=False)
    axes.set_ylim(0, 1)
    return figure


def worst_group(results: Any, *, selection: str | None = None) -> Figure:
    """Worst-group accuracy on test by pair set and probe, with its interval; best on top.

    Parameters
    ----------
    results : iterable of mapping, pandas.DataFrame or pyarrow.Table
        Rows of ``results.parquet`` or of ``results`` in ``report.json``.
    selection : str, optional
        The rule that chose the settings; by default that of the first row.

    Raises
    ------
    DataError
        If no result was chosen by that rule.
    """
    means = [row for row in _rows(results) if _absent(row.get("seed"))]
    rule = selection or (means[0]["selection"] if means else "")
    chosen = sorted((row for row in means if row["selection"] == rule), key=lambda row: row["worst_group"])
    if not chosen:
        known = ", ".join(sorted({row["selection"] for row in means})) or "none"
        raise DataError("no result was chosen by this rule", got=repr(rule), expected=f"one of {known}")
    figure, axes = _axes("worst-group accuracy on test", "", height=1.2 + 0.32 * len(chosen))
    names = [
        row["method"] if _absent(row.get("pair_set")) else f"{row['pair_set']}: {row['method']}"
        for row in chosen
    ]
    values = [float(row["worst_group"]) for row in chosen]
    low = [max(0.0, v - float(row["worst_group_low"])) for v, row in zip(values, chosen, strict=True)]
    high = [max(0.0, float(row["worst_group_high"]) - v) for v, row in zip(values, chosen, strict=True)]
    axes.barh(range(len(chosen)), values, color=SIGNAL, alpha=0.75)
    axes.errorbar(values, range(len(chosen)), xerr=[low, high], fmt="none", ecolor="black", capsize=2)
    axes.set_yticks(range(len(chosen)), names)
    axes.set_xlim(0, 1)
    uses_test = " (uses test labels)" if rule == "oracle" else ""
    axes.set_title(f"settings chosen by {rule}{uses_test}")
    return figure


def _plain(quality: Quality) -> Mapping[str, Any]:
    found = quality.to_dict() if isinstance(quality, PairQuality) else quality
    missing = {"singular_values", "tradeoff", "forecast", "n_pairs"} - set(found)
    if missing:
        raise DataError(
            "this is no pair quality",
            got=f"no {', '.join(sorted(missing))}",
            expected="a PairQuality, or a member of pair_sets of report.json",
        )
    return found


def _rows(results: Any) -> list[Mapping[str, Any]]:
    if hasattr(results, "to_pylist"):
        found: Iterable[Any] = results.to_pylist()
    elif hasattr(results, "to_dict") and hasattr(results, "columns"):
        found = results.to_dict("records")
    else:
        found = results
    rows = list(found)
    if not all(
        isinstance(row, Mapping) and {"selection", "method", "worst_group"} <= set(row) for row in rows
    ):
        raise DataError("these are no results", expected="rows of results.parquet")
    return rows


def _absent(value: object) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value) == "<NA>"


def _axes(x: str, y: str, height: float = 3.4) -> tuple[Figure, Axes]:
    figure = _Shown(figsize=(6.4, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
