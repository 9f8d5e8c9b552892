"""The figures: what is drawn, from the findings alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from markupsafe import Markup

from cfpairs.report.model import Curve, PairSetView, ReportData, Result
from cfpairs.report.svg import FONT, MAX_SERIES, TOKENS, Canvas
from cfpairs.report.values import as_float, as_floats, as_int, as_rows
from cfpairs.report.words import series_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curve_figure", "forecast_figure", "scree_figure", "tradeoff_figure"]

MOST_MARKERS = 16
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (7, 2, 1.5, 2)), (0, (4, 1, 1, 1, 1, 1)), (0, (1, 1)))


def curve_figure(
    data: ReportData, *, width: int, height: int, name: str, average: bool = False
) -> Markup | None:
    """Accuracy on test against r: one line a pair set, its interval, and ERM's line.

    Parameters
    ----------
    average : bool
        Whether to draw the average over all test items rather than the worst group.
    width, height : int
        Natural size in CSS pixels.
    name : str
        Unique in the page; prefixes the ids inside the drawing.

    Returns
    -------
    Markup or None
        None if there is nothing to draw.
    """
    curves = [(curve, points) for curve in _leading(data) if (points := _points(curve, average))]
    if not curves:
        return None
    what = "average" if average else "worst-group"
    canvas = Canvas(name, width, height)
    axes = canvas.axes("directions removed, r", f"{what} accuracy on test")
    only_ncm = {c.method for c, _ in curves} == {"ncm"}
    last = max(p.r for _, points in curves for p in points)
    for i, (curve, points) in enumerate(curves):
        _curve(axes, points, i, series_name(curve.pair_set, curve.method, only_ncm), curve.chosen_r)
    if data.baseline is not None:
        _baseline(axes, data.baseline, last, average)
    if data.best is not None and data.best.r is not None and data.best.r <= last:
        _mark_r(axes, data.best.r, f"chosen r = {data.best.r}")
    _rank_axis(axes, last)
    _per_cent_axis(axes)
    canvas.legend(axes)
    return canvas.svg(f"{what.capitalize()} accuracy on test against the number r of removed directions.")


class _Point(NamedTuple):
    r: int
    value: float
    low: float | None
    high: float | None


def _points(curve: Curve, average: bool) -> list[_Point]:
    """What is drawn of a curve."""
    if not average:
        return [_Point(p.r, p.worst_group, p.low, p.high) for p in curve.points]
    return [
        _Point(p.r, p.average, p.average_low, p.average_high) for p in curve.points if p.average is not None
    ]


def _leading(data: ReportData) -> list[Curve]:
    """At most `MAX_SERIES` curves, the recommended one first so that it takes the accent colour."""
    best = data.best
    return sorted(
        data.curves,
        key=lambda c: best is None or (c.pair_set, c.method) != (best.pair_set, best.method),
    )[:MAX_SERIES]


def _baseline(axes: Axes, erm: Result, last: int, average: bool) -> None:
    level, low, high = (
        (erm.average, erm.average_low, erm.average_high)
        if average
        else (erm.worst_group, erm.worst_group_low, erm.worst_group_high)
    )
    if level is None:
        return
    ends = [_place(0), _place(last)]
    if low is not None and high is not None:
        axes.fill_between(ends, low, high, color=TOKENS["muted"], alpha=0.18, lw=0)
    axes.plot(ends, [level, level], color=TOKENS["muted"], lw=1.4, ls=(0, (4, 3)), label="plain probe (ERM)")


def _curve(axes: Axes, points: Sequence[_Point], i: int, label: str, chosen: int | None) -> None:
    colour = TOKENS[f"s{i + 1}"]
    x = [_place(p.r) for p in points]
    if all(p.low is not None and p.high is not None for p in points):
        low = [p.low or 0.0 for p in points]
        high = [p.high or 0.0 for p in points]
        axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
    axes.plot(
        x,
        [p.value for p in points],
        color=colour,
        lw=1.8,
        ls=DASHES[i],
        marker=MARKERS[i],
        markevery=_marked([p.r for p in points]),
        ms=6.0,
        mew=0,
        label=_legend_text(label),
    )
    ring = [(_place(p.r), p.value) for p in points if p.r == chosen]
    for x0, y0 in ring:
        axes.plot([x0], [y0], ls="none", marker="o", ms=14, mfc="none", mec=colour, mew=1.5)


def forecast_figure(data: ReportData, *, width: int, height: int, name: str) -> Markup | None:
    """Expected misalignment with more pairs of the same kind; None where no pair set has a forecast."""
    found = []
    for pairs in data.pair_sets:
        rows = [
            (n, value, as_float(row.get("low")), as_float(row.get("high")))
            for row in as_rows(pairs.quality.get("forecast"))
            if (n := as_int(row.get("n_pairs"))) and (value := as_float(row.get("misalignment"))) is not None
        ]
        if rows:
            found.append((pairs.name, sorted(rows)))
    if not found:
        return None
    canvas = Canvas(name, width, height)
    axes = canvas.axes("pairs of the same kind", "misalignment: 0 exact, 1 unrelated")
    axes.set_xscale("log")
    for i, (label, rows) in enumerate(found[:MAX_SERIES]):
        x = [row[0] for row in rows]
        colour = TOKENS[f"s{i + 1}"]
        low, high = ([v for row in rows if (v := row[side]) is not None] for side in (2, 3))
        if len(low) == len(high) == len(rows):
            axes.fill_between(x, low, high, color=colour, alpha=0.13, lw=0)
        axes.plot(
            x, [row[1] for row in rows], color=colour, lw=1.8, ls=DASHES[i], marker=MARKERS[i], ms=6.0, mew=0,
            label=_legend_text(label),
        )  # fmt: skip
    _pairs_axis(axes, [row[0] for _, rows in found for row in rows])
    canvas.legend(axes)
    return canvas.svg("Expected misalignment of the directions against the number of pairs.")


def _pairs_axis(axes: Axes, sizes: Sequence[int]) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = sorted(set(sizes))
    if len(ticks) > 6:
        ticks = ticks[:: -(-len(ticks) // 6)]
    axes.set_xticks(ticks, [f"{n:,}" for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(-0.02, 1.05)


def scree_figure(pairs: PairSetView, *, width: int, height: int, name: str) -> Markup | None:
    """Singular values of the differences with the noise edge and the chosen r; None without a spectrum."""
    values = [v for v in as_floats(pairs.quality.get("singular_values")) if v > 0]
    if len(values) < 2:
        return None
    edge = as_float(pairs.quality.get("noise_edge"))
    above = [v for v in values if edge is None or v > edge]
    below = values[len(above) :]
    canvas = Canvas(name, width, height)
    axes = canvas.axes("component", "singular value")
    axes.set_xscale("log")
    axes.set_yscale("log")
    if below:
        start = max(len(above), 1)
        axes.plot(
            range(start, len(values) + 1), values[start - 1 :], color=TOKENS["muted"], lw=1.6, label="below"
        )
    if above:
        axes.plot(
            range(1, len(above) + 1),
            above,
            color=TOKENS["s1"],
            lw=1.2,
            marker="o",
            ms=6.0,
            mew=0,
            label="signal" if edge is not None else "components",
        )
    ends = as_floats(pairs.quality.get("rank_interval"))
    if len(ends) == 2 and 0 <= ends[0] <= ends[1] < len(values):
        axes.axvspan(
            max(ends[0], 0.4) + 0.5, ends[1] + 0.5, color=TOKENS["s3"], alpha=0.2, lw=0,
            label="signal ends",
        )  # fmt: skip
    if edge is not None and edge > 0:
        axes.axhline(edge, color=TOKENS["s2"], lw=1.3, ls=(0, (5, 2.5)), label="noise edge")
    if pairs.r is not None and 0 < pairs.r < len(values):
        _mark_r(axes, pairs.r + 0.5, f"r = {pairs.r}", place=False)
    _log_axes(axes, values, edge)
    canvas.legend(axes)
    return canvas.svg(f"Singular values of the differences of the {pairs.name} pairs, strongest first.")


def tradeoff_figure(pairs: PairSetView, *, width: int, height: int, name: str) -> Markup | None:
    """Shares removed of environment, label and variance against r; None without a trade-off."""
    rows = [row for row in as_rows(pairs.quality.get("tradeoff")) if as_int(row.get("r")) is not None]
    rows.sort(key=lambda row: int(row["r"]))
    lines = (
        ("environment_removed", "environment"),
        ("label_removed", "label"),
        ("label_removed_deconfounded", "label, deconfounded"),
        ("variance_removed", "variance"),
    )
    drawn = [(i, key, text) for i, (key, text) in enumerate(lines) if len(_known(rows, key)) > 1]
    if not drawn:
        return None
    canvas = Canvas(name, width, height)
    axes = canvas.axes("directions removed, r", "share removed")
    for i, key, text in drawn:
        known = _known(rows, key)
        axes.plot(
            [_place(r) for r, _ in known],
            [value for _, value in known],
            color=TOKENS[f"s{i + 1}"],
            lw=1.7,
            ls=DASHES[i],
            marker=MARKERS[i],
            markevery=_marked([r for r, _ in known]),
            ms=5.5,
            mew=0,
            label=text,
        )
    last = max(int(row["r"]) for row in rows)
    if pairs.r is not None and 0 < pairs.r <= last:
        _mark_r(axes, pairs.r, f"r = {pairs.r}")
    _rank_axis(axes, last)
    _per_cent_axis(axes)
    canvas.legend(axes)
    return canvas.svg(
        f"Shares of environment, label and variance removed against r, for the {pairs.name} pairs."
    )


def _known(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[int, float]]:
    pairs = [(int(row["r"]), as_float(row.get(key))) for row in rows]
    return [(r, value) for r, value in pairs if value is not None]


def _place(r: float) -> float:
    """Where a rank stands on the axis: 0, 1, 2, 4, 8 ... at nearly even steps, 0 included."""
    return math.log2(1.0 + r)


def _marked(ranks: Sequence[int]) -> list[int]:
    """Which points carry a marker: all, or those at the axis' ticks where the others would run together."""
    if len(ranks) <= MOST_MARKERS:
        return list(range(len(ranks)))
    return [i for i, r in enumerate(ranks) if r & (r - 1) == 0]


def _rank_axis(axes: Axes, last: int) -> None:
    ticks = [0, *(2**i for i in range(max(last, 1).bit_length()))]
    axes.set_xticks([_place(r) for r in ticks], [str(r) for r in ticks])
    axes.set_xlim(-0.15, _place(max(last, 1)) + 0.15)


def _per_cent_axis(axes: Axes) -> None:
    axes.set_ylim(-0.02, 1.12)  # room for the name of the marked r above 100 %
    steps = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    axes.set_yticks(steps, [f"{round(100 * s)} %" for s in steps])


def _log_axes(axes: Axes, values: Sequence[float], edge: float | None) -> None:
    from matplotlib.ticker import NullFormatter, NullLocator

    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if t <= len(values)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xlim(0.9, len(values) * 1.1)
    low, high = min(values), max(values)
    low = max(low, high * 1e-4)  # a numerical zero must not flatten the rest
    low, high = (min(low, edge) if edge else low) * 0.85, (max(high, edge) if edge else high) * 1.25
    marks = [m * 10.0**e for e in range(-12, 13) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    if len(marks) > 6:
        marks = [m for m in marks if f"{m:e}".startswith("1")]
    axes.set_ylim(low, high)
    axes.set_yticks(marks, [f"{m:g}" for m in marks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())


def _mark_r(axes: Axes, r: float, text: str, *, place: bool = True) -> None:
    """A dotted line down to the axis, with its name at the top on the side that has room."""
    x = _place(r) if place else r
    axes.axvline(x, color=TOKENS["ink"], lw=1.0, ls=(0, (1, 2)))
    axes.annotate(
        text,
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        xytext=(5, -2),
        textcoords="offset points",
        va="top",
        ha="left",
        fontsize=FONT,
        color=TOKENS["ink"],
        zorder=5,
    )


def _legend_text(label: str) -> str:
    return f" {label}" if label.startswith("_") else label  # matplotlib hides names that begin with "_"
