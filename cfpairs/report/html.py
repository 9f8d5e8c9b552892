"""The findings as one self-contained HTML page that needs no network and no JavaScript."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cfpairs.report import words
from cfpairs.report.captions import (
    cells_caption,
    curve_caption,
    forecast_caption,
    scree_caption,
    tradeoff_caption,
)
from cfpairs.report.figures import curve_figure, scree_figure, tradeoff_figure
from cfpairs.report.groups import TINY
from cfpairs.report.markdown import render_markdown
from cfpairs.report.measures import measures
from cfpairs.report.model import Item, PairSetView, ReportData, Result, RuleView
from cfpairs.report.thumbnails import thumbnail
from cfpairs.report.values import as_float, as_mapping, as_rows, count, distance, number, per_cent, share

__all__ = ["render_html"]

MOST_FLAGS = 40
FOLD_ROWS = 24
"""Tables of groups with more rows than this are folded."""


class PairSetPage(NamedTuple):
    """One pair set with what the page shows about it."""

    view: PairSetView
    anchor: str
    in_verdict: bool
    folded: bool
    text: str
    advice: tuple[str, ...]
    scree: Markup | None
    scree_caption: str
    tradeoff: Markup | None
    tradeoff_caption: str
    tradeoff_rows: tuple[Mapping[str, Any], ...]
    forecast_rows: tuple[Mapping[str, Any], ...]
    forecast_caption: str
    cells_caption: str
    flags: tuple[Mapping[str, Any], ...]
    n_flags: int
    dropping: tuple[Mapping[str, Any], ...]
    cannot_help: tuple[str, ...]
    card: Markup


def render_html(data: ReportData) -> str:
    """The page as text; the same findings give the same bytes.

    Everything that comes from the data is escaped. Pictures are data URIs, figures inline SVG.
    """
    template = _environment().get_template("page.html")
    return template.render(
        data=data,
        verdict=data.verdict,
        level_name=words.LEVEL_NAMES[data.verdict.level],
        style=Markup(_style_sheet()),  # noqa: S704 - a file of this package
        curve_wide=curve_figure(data, width=880, height=400, name="curve-wide"),
        curve_narrow=curve_figure(data, width=380, height=360, name="curve-narrow"),
        curve_caption=curve_caption(data),
        curve_table=_curve_table(data),
        pair_sets=[_pair_set_page(pairs, data, i) for i, pairs in enumerate(data.pair_sets)],
        measures=measures(data.pair_sets),
        n_items=sum(sum(g.counts.values()) for g in data.groups),
        shows_spread=any(row.spread is not None for rule in data.rules for row in rule.results),
        shows_ranks=any(row.ranks for rule in data.rules for row in rule.results),
        probes=_probes(data),
        tiny=TINY,
        fold_groups=len(data.groups) > FOLD_ROWS,
    )


def _environment() -> Environment:
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
        choices=_choices,
        set_name=words.set_name,
    )
    env.globals.update(rule=words.rule, level_names=words.LEVEL_NAMES, thumb=_thumb, chosen=_is_chosen)
    return env


def _style_sheet() -> str:
    return (files("cfpairs.report") / "templates" / "page.css").read_text(encoding="utf-8")


def _together(text: str) -> str:
    """Keep a number and its per cent sign, and "r = 4", on one line."""
    return text.replace(" %", "\u00a0%").replace("r = ", "r\u00a0=\u00a0")


def _thumb(item: Item) -> Any:
    return thumbnail(item.path)


def _is_chosen(row: Result, data: ReportData) -> bool:
    return data.best is not None and row == data.best


def _probes(data: ReportData) -> list[tuple[str, str]]:
    """Name and meaning of every known probe in the tables."""
    methods = dict.fromkeys(row.method for rule in data.rules for row in rule.results)
    return [(words.probe_name(m), words.probe_meaning(m)) for m in methods if words.probe_meaning(m)]


def _choices(rules: Sequence[RuleView]) -> list[Result]:
    """The results of all rules, those of one probe together."""
    order: dict[tuple[str | None, str], list[Result]] = {}
    for row in (row for view in rules for row in view.results):
        order.setdefault((row.pair_set, row.method), []).append(row)
    return [row for together in order.values() for row in together]


def _pair_set_page(pairs: PairSetView, data: ReportData, index: int) -> PairSetPage:
    quality = pairs.quality
    advice = quality.get("advice")
    return PairSetPage(
        view=pairs,
        anchor=f"set-{index + 1}",
        in_verdict=pairs.name == data.verdict.pair_set,
        folded=data.verdict.pair_set is not None and pairs.name != data.verdict.pair_set,
        text=words.sentence(as_mapping(quality.get("verdict")).get("text")),
        advice=tuple(filter(None, map(words.sentence, advice))) if isinstance(advice, (list, tuple)) else (),
        scree=scree_figure(pairs, width=400, height=290, name=f"scree-{index + 1}"),
        scree_caption=scree_caption(pairs),
        tradeoff=tradeoff_figure(pairs, width=400, height=290, name=f"tradeoff-{index + 1}"),
        tradeoff_caption=tradeoff_caption(pairs),
        tradeoff_rows=as_rows(quality.get("tradeoff")),
        forecast_rows=as_rows(quality.get("forecast")),
        forecast_caption=forecast_caption(pairs),
        cells_caption=cells_caption(pairs),
        flags=as_rows(quality.get("flags"))[:MOST_FLAGS],
        n_flags=len(as_rows(quality.get("flags"))),
        dropping=as_rows(quality.get("dropping")),
        cannot_help=_reasons(quality),
        card=render_markdown(pairs.card),
    )


def _reasons(quality: Mapping[str, Any]) -> tuple[str, ...]:
    found = as_mapping(quality.get("more_pairs")).get("cannot_help")
    return tuple(words.sentence(line) for line in found) if isinstance(found, (list, tuple)) else ()


class CurveTable(NamedTuple):
    """The numbers behind the accuracy curves: one column a curve, one row an r."""

    names: tuple[str, ...]
    rows: tuple[tuple[int, tuple[str, ...]], ...]


def _curve_table(data: ReportData) -> CurveTable:
    only_ncm = {c.method for c in data.curves} == {"ncm"}
    ranks = sorted({p.r for c in data.curves for p in c.points})
    at = [{p.r: p.worst_group for p in c.points} for c in data.curves]
    return CurveTable(
        tuple(words.series_name(c.pair_set, c.method, only_ncm) for c in data.curves),
        tuple((r, tuple(share(points.get(r)) for points in at)) for r in ranks),
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
