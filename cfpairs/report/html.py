"""The findings as one self-contained HTML page that needs no network; its script only sorts and prints."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cfpairs.report import words
from cfpairs.report.figures import curve_figure, forecast_figure, scree_figure, tradeoff_figure
from cfpairs.report.groups import TINY
from cfpairs.report.markdown import render_markdown
from cfpairs.report.measures import measures
from cfpairs.report.model import Item, MapCell, PairSetView, ReportData, Result, RuleView
from cfpairs.report.notes import figure_notes
from cfpairs.report.probe_captions import choice_text
from cfpairs.report.thumbnails import thumbnail
from cfpairs.report.values import as_float, as_mapping, as_rows, count, distance, number, per_cent, share

__all__ = ["make_environment", "page_parts", "render_html"]

MOST_FLAGS = 40
FOLD_ROWS = 24
"""Tables of groups with more rows than this are folded."""

MOST_PROBES = 60
"""Rows of the table of probes before the others wait behind a box to tick."""


class PairSetPage(NamedTuple):
    """One pair set with what the page shows about it."""

    view: PairSetView
    place: int
    in_verdict: bool
    folded: bool
    text: str
    missing: tuple[str, ...]
    scree: Markup | None
    tradeoff: Markup | None
    tradeoff_rows: tuple[Mapping[str, Any], ...]
    forecast_rows: tuple[Mapping[str, Any], ...]
    flags: tuple[Mapping[str, Any], ...]
    n_flags: int
    dropping: tuple[Mapping[str, Any], ...]
    cannot_help: tuple[str, ...]
    card: Markup


def render_html(data: ReportData) -> str:
    """The page as text; the same findings give the same bytes.

    Everything that comes from the data is escaped. Pictures are data URIs, figures inline SVG. Without
    JavaScript the tables cannot be sorted and nothing else is missing.
    """
    pages = [_pair_set_page(pairs, data, i) for i, pairs in enumerate(data.pair_sets)]
    pages.sort(key=lambda page: not page.in_verdict)
    return (
        make_environment()
        .get_template("page.html")
        .render(
            data=data,
            verdict=data.verdict,
            level_name=words.LEVEL_NAMES[data.verdict.level],
            notes=figure_notes(data),
            curves=curve_figure(data, width=430, height=330, name="worst-curve"),
            averages=curve_figure(data, width=430, height=330, name="average-curve", average=True),
            curve_table=_curve_table(data),
            choice=choice_text(data),
            maps=_maps(data),
            forecast=forecast_figure(data, width=620, height=300, name="forecasts"),
            pair_sets=pages,
            measures=measures([page.view for page in pages]),
            n_items=sum(sum(g.counts.values()) for g in data.groups),
            shows_spread=any(row.spread is not None for rule in data.rules for row in rule.results),
            shows_ranks=any(row.ranks for rule in data.rules for row in rule.results),
            probe_rows=_probe_rows(data.rules),
            probes=_probes(data),
            tiny=TINY,
            fold_groups=len(data.groups) > FOLD_ROWS,
            **page_parts(),
        )
    )


def page_parts() -> dict[str, Markup]:
    """The style sheet and the script of a page, and the hash by which the page lets that script run."""
    style, script = (_file(name) for name in ("page.css", "page.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    found = {"style": style, "script": script, "script_hash": f"sha256-{digest}"}
    return {name: Markup(text) for name, text in found.items()}  # noqa: S704 - files of this package


def make_environment() -> Environment:
    """The templates with the filters that they need."""
    env = Environment(
        loader=PackageLoader("cfpairs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    env.filters.update(
        share=share,
        per_cent=per_cent,
        distance=distance,
        number=number,
        count=count,
        float=as_float,
        facts=_facts,
        together=_together,
        probe=words.probe_name,
        setting=_fact,
        facts_of=_setting,
        set_name=words.set_name,
        sure=_sure,
        sort_key=_sort_key,
        sentence=words.sentence,
        times=_times,
    )
    env.globals.update(rule=words.rule, level_names=words.LEVEL_NAMES, thumb=_thumbs(), chosen=_is_chosen)
    return env


def _file(name: str) -> str:
    return (files("cfpairs.report") / "templates" / name).read_text(encoding="utf-8")


def _together(text: str) -> str:
    """Keep a number and its per cent sign, and "r = 4", on one line."""
    return text.replace(" %", "\u00a0%").replace("r = ", "r\u00a0=\u00a0")


def _thumbs() -> Callable[[Item], Any]:
    """Thumbnails for one page; an image that stands in several pairs is read once."""
    cached = lru_cache(maxsize=512)(thumbnail)
    return lambda item: cached(item.path)


def _is_chosen(row: Result, data: ReportData) -> bool:
    return data.best is not None and row == data.best


def _probes(data: ReportData) -> list[tuple[str, str]]:
    """Name and meaning of every known probe in the tables."""
    methods = dict.fromkeys(row.method for rule in data.rules for row in rule.results)
    return [(words.probe_name(m), words.probe_meaning(m)) for m in methods if words.probe_meaning(m)]


class ProbeRow(NamedTuple):
    """One row of the table of probes; `more` waits until all rows are asked for."""

    result: Result
    more: bool


def _probe_rows(rules: Sequence[RuleView]) -> list[ProbeRow]:
    """What every rule chose: the primary rule's first, the best worst group leading."""
    rows = []
    for i, view in enumerate(rules):
        ordered = sorted(
            view.results, key=lambda row: -1.0 if row.worst_group is None else row.worst_group, reverse=True
        )
        rows += [ProbeRow(row, i > 0 or place >= MOST_PROBES) for place, row in enumerate(ordered)]
    return rows


def _setting(row: Result) -> str:
    """The hyperparameters beside r and C."""
    return ", ".join(f"{name.replace('_', ' ')} {_fact(value)}" for name, value in row.others)


def _sure(row: Result) -> str:
    """Whether the difference from ERM is more than chance."""
    if row.gain is None or row.gain_low is None or row.gain_high is None:
        return ""
    if row.gain_low > 0:
        return "better"
    return "worse" if row.gain_high < 0 else "may be chance"


def _times(value: float | None) -> str:
    """How many times a limit; with one decimal, as 1.0 is at the limit."""
    return number(value) if value is None or value >= 10 else f"{value:.1f}"


def _sort_key(value: float | None) -> str:
    """A number for the page's script to sort by; empty where there is none."""
    return "" if value is None else f"{value:.6g}"


class MapPage(NamedTuple):
    """One map as the page shows it: the strengths on top, and each cell with its shade from 0 to 100."""

    pair_set: str
    strengths: tuple[float, ...]
    rows: tuple[tuple[int, tuple[tuple[MapCell, int, bool], ...]], ...]
    note: str


def _maps(data: ReportData) -> list[MapPage]:
    place = {pairs.name: i + 1 for i, pairs in enumerate(data.pair_sets)}
    made = []
    for view in data.maps:
        known = [c.worst_group for row in view.rows for c in row if c.worst_group is not None]
        low, high = min(known, default=0.0), max(known, default=1.0)
        rows = tuple(
            (row[0].r, tuple((c, _shade(c.worst_group, low, high), (c.r, c.C) == view.chosen) for c in row))
            for row in view.rows
        )
        strengths = tuple(cell.C for cell in view.rows[0]) if view.rows else ()
        made.append(MapPage(view.pair_set, strengths, rows, f"map-{place.get(view.pair_set, 0)}"))
    return made


def _shade(value: float | None, low: float, high: float) -> int:
    return 0 if value is None or high <= low else round(45 * (value - low) / (high - low))


def _pair_set_page(pairs: PairSetView, data: ReportData, index: int) -> PairSetPage:
    quality = pairs.quality
    return PairSetPage(
        view=pairs,
        place=index + 1,
        in_verdict=pairs.name == data.verdict.pair_set,
        folded=data.verdict.pair_set is not None and pairs.name != data.verdict.pair_set,
        text=words.sentence(as_mapping(quality.get("verdict")).get("text")),
        missing=tuple(
            words.sentence(row.get("text"))
            for row in as_rows(quality.get("remarks"))
            if row.get("about") == "missing"
        ),
        scree=scree_figure(pairs, width=400, height=290, name=f"scree-{index + 1}"),
        tradeoff=tradeoff_figure(pairs, width=400, height=290, name=f"tradeoff-{index + 1}"),
        tradeoff_rows=as_rows(quality.get("tradeoff")),
        forecast_rows=as_rows(quality.get("forecast")),
        flags=as_rows(quality.get("flags"))[:MOST_FLAGS],
        n_flags=len(as_rows(quality.get("flags"))),
        dropping=as_rows(quality.get("dropping")),
        cannot_help=_reasons(quality),
        card=render_markdown(pairs.card),
    )


def _reasons(quality: Mapping[str, Any]) -> tuple[str, ...]:
    found = as_mapping(quality.get("more_pairs")).get("cannot_help")
    return tuple(str(line).rstrip(".") for line in found) if isinstance(found, (list, tuple)) else ()


class CurveTable(NamedTuple):
    """The numbers behind the accuracy curves: two columns a curve, one row an r."""

    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[tuple[str, str], ...]], ...]


def _curve_table(data: ReportData) -> CurveTable:
    only_ncm = {c.method for c in data.curves} == {"ncm"}
    ranks = sorted({p.r for c in data.curves for p in c.points})
    at = [{p.r: (share(p.worst_group), share(p.average)) for p in c.points} for c in data.curves]
    return CurveTable(
        tuple(words.series_name(c.pair_set, c.method, only_ncm) for c in data.curves),
        tuple((r, tuple(points.get(r, (share(None), share(None))) for points in at)) for r in ranks),
    )


def _facts(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A mapping as rows of name and value; inner mappings are named by their path."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{prefix}{str(key).replace('_', ' ')}"
        if isinstance(value, Mapping) and value:
            rows += _facts(value, f"{name} \u203a ")
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(_fact(inner) for inner in value) or "none"))
        else:
            rows.append((name, _fact(value)))
    return rows


def _fact(value: object) -> str:
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value, 6)
    return str(value)
