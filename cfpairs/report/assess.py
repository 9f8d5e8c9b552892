"""Everything the workspace holds, as one typed object that the renderings only have to write down."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfpairs.metrics import wilson_interval
from cfpairs.report.actions import Adviser
from cfpairs.report.gallery import gallery_of, image_or_none
from cfpairs.report.groups import Names, cell_views, group_views, group_warnings, splits_of
from cfpairs.report.maps import map_views
from cfpairs.report.model import (
    Curve,
    CurvePoint,
    PairSetInput,
    PairSetView,
    ReportData,
    Result,
    RuleView,
)
from cfpairs.report.values import as_float, as_floats, as_int, as_mapping, params_of
from cfpairs.report.verdict import choose, matching_erm, overall, quality_level
from cfpairs.report.words import rule

__all__ = ["PairSetInput", "ReportData", "assess", "recommended"]

PROBE_ORDER = ("erm", "ncm")


def assess(
    *,
    title: str,
    groups: list[dict[str, Any]],
    pair_sets: list[PairSetInput],
    results: list[dict[str, Any]],
    curves: list[dict[str, Any]],
    selection: str,
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
    data: dict[str, Any],
    provenance: dict[str, Any],
    gallery: int,
    comparison: Sequence[Mapping[str, Any]] = (),
    grid: Iterable[Mapping[str, Any]] = (),
    commands: Sequence[str] = (),
    configuration: str = "",
) -> ReportData:
    """Put the findings together and say what they mean.

    Parameters
    ----------
    title : str
    groups : list of dict
        Rows ``split``, ``label``, ``label_name``, ``env``, ``env_name``, ``n``.
    pair_sets : list of PairSetInput
    results : list of dict
        Rows of ``results.parquet`` (schema ``tables.RESULTS``); ``seed`` None marks the mean over seeds.
        ``params`` is JSON; its ``score`` is the validation score under the row's selection rule.
    curves : list of dict
        Rows ``pair_set``, ``method``, ``r``, ``C``, ``worst_group``, ``worst_group_low``,
        ``worst_group_high``, ``average``: test accuracy at each r, with C chosen by the primary rule.
    selection : str
        The primary selection rule. Where no result has it, the first rule without test labels is used.
    image_of : callable
        Item id -> image file, or None.
    item_of : callable
        Item id -> its row of the manifest; an unknown id may give an empty row or raise ``KeyError``.
    data, provenance : dict
        Shown as they are.
    comparison : sequence of dict
        Pair sets on equal numbers of pairs, the best first.
    grid : iterable of dict
        Rows of ``grid.parquet``, one a fit, for the map of accuracy over r and ridge.
    commands : sequence of str
    configuration : str
        What makes it all again; see `ReportData`.
    gallery : int
        How many sound pairs of each pair set to show, and at most as many that were set apart.
    """
    n_test = _test_items(data, groups)
    summaries = [_with_average_interval(row, n_test) for row in _summaries(results)]
    primary = _primary_rule(summaries, selection)
    chosen_by = [row for row in summaries if row.selection == primary]
    order = [None, *(p.name for p in pair_sets)]
    levels = {p.name: quality_level(p.quality) for p in pair_sets}
    best = choose(chosen_by, levels)
    baseline = matching_erm(chosen_by, best)
    chosen_r = {(row.pair_set, row.method): row.r for row in chosen_by}
    splits = splits_of(groups)
    names = Names.of(groups)
    run = provenance.get("probe_run")
    adviser = Adviser(
        names,
        _has_images(pair_sets, image_of),
        frozenset(p.method for p in pair_sets),
        f"probes/{run}/coefficients.safetensors" if run else None,
    )
    return ReportData(
        title=title,
        verdict=overall(pair_sets, best, baseline, bool(summaries), adviser),
        selection=primary,
        rules=_rules(summaries, primary, order),
        best=best,
        baseline=baseline,
        curves=_curves(curves, chosen_r, order, n_test),
        pair_sets=tuple(
            _pair_set_view(p, chosen_r.get((p.name, "ncm")), image_of, item_of, gallery, adviser)
            for p in pair_sets
        ),
        splits=splits,
        groups=group_views(groups, splits),
        warnings=group_warnings(groups, splits),
        data=dict(data),
        provenance=dict(provenance),
        results=tuple({**row, "params": params_of(row)} for row in results),
        group_rows=tuple(groups),
        curve_rows=tuple(
            {**row, **dict(zip(AVERAGE_ENDS, _interval(as_float(row.get("average")), n_test), strict=True))}
            for row in curves
        ),
        comparison=tuple(comparison),
        maps=map_views(grid, chosen_by, order, best),
        commands=tuple(commands),
        configuration=configuration,
    )


def recommended(
    results: Iterable[Mapping[str, Any]], selection: str, levels: Mapping[str, str | None]
) -> tuple[Result | None, Result | None]:
    """The result that the verdict would recommend and the ERM result beside it.

    Without an NCM probe the one with the best validation score stands in.
    """
    summaries = _summaries(results)
    primary = _primary_rule(summaries, selection)
    chosen_by = [row for row in summaries if row.selection == primary]
    best = choose(chosen_by, levels)
    scored = [row for row in chosen_by if row.score is not None]
    if best is None and scored:
        best = max(scored, key=lambda row: row.score or 0.0)
    return best, matching_erm(chosen_by, best)


AVERAGE_ENDS = ("average_low", "average_high")


def _test_items(data: Mapping[str, Any], groups: Iterable[Mapping[str, Any]]) -> int:
    """Test items that accuracies were measured on."""
    known = as_int(data.get("test"))
    if known is not None:
        return known
    return sum(as_int(row.get("n")) or 0 for row in groups if row.get("split") == "test")


def _interval(share: float | None, n: int) -> tuple[float | None, float | None]:
    """95 % interval of a share of `n` items (Wilson)."""
    if share is None or n <= 0 or not 0 <= share <= 1:
        return None, None
    low, high = wilson_interval(share * n, n)
    return float(low), float(high)


def _with_average_interval(row: Result, n: int) -> Result:
    low, high = _interval(row.average, n)
    return replace(row, average_low=low, average_high=high)


def _result(row: Mapping[str, Any], spread: float | None) -> Result:
    params = params_of(row)
    return Result(
        pair_set=row.get("pair_set"),
        method=str(row.get("method")),
        r=as_int(row.get("r")),
        selection=str(row.get("selection")),
        seed=as_int(row.get("seed")),
        worst_group=as_float(row.get("worst_group")),
        worst_group_low=as_float(row.get("worst_group_low")),
        worst_group_high=as_float(row.get("worst_group_high")),
        average=as_float(row.get("average")),
        adjusted=as_float(row.get("adjusted")),
        flip_rate=as_float(row.get("flip_rate")),
        n_pairs=as_int(row.get("n_pairs")),
        C=as_float(params.get("C")),
        score=as_float(params.get("score")),
        spread=spread,
        ranks=_differing(params.get("r_by_seed")),
        others=_others(params),
        tried=as_int(params.get("settings_tried")),
        fits=as_int(params.get("fits")),
        seconds=as_float(row.get("seconds")),
        gain=as_float(row.get("gain")),
        gain_low=as_float(row.get("gain_low")),
        gain_high=as_float(row.get("gain_high")),
        gain_p=as_float(row.get("gain_p")),
    )


def _others(params: Mapping[str, Any]) -> tuple[tuple[str, float | int | str | bool], ...]:
    """Hyperparameters beside r and C; a file without this record has none."""
    found = as_mapping(params.get("setting"))
    return tuple((str(k), v) for k, v in sorted(found.items()) if isinstance(v, (bool, int, float, str)))


def _differing(ranks: object) -> tuple[int, ...]:
    found = sorted({round(r) for r in as_floats(ranks)})
    return tuple(found) if len(found) > 1 else ()


def _summaries(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
    """The means over seeds; the single runs of a probe that has no mean."""
    by_probe: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        key = (row.get("pair_set"), row.get("method"), row.get("selection"))
        by_probe.setdefault(key, []).append(row)
    found = []
    for group in by_probe.values():
        means = [row for row in group if as_int(row.get("seed")) is None]
        runs = [row for row in group if as_int(row.get("seed")) is not None]
        if means:
            worst = [w for w in (as_float(row.get("worst_group")) for row in runs) if w is not None]
            # with several ranks a probe, the runs of one rank cannot be told from the others' choice
            spread = statistics.stdev(worst) if len(means) == 1 and len(worst) > 1 else None
            found += [_result(row, spread) for row in means]
        else:
            found += [_result(row, None) for row in runs]
    return found


def _primary_rule(results: Sequence[Result], wanted: str) -> str | None:
    rules = list(dict.fromkeys(row.selection for row in results))
    if not rules or wanted in rules:
        return wanted if rules else None
    return next((name for name in rules if not rule(name).test_labels), rules[0])


def _rules(
    results: Sequence[Result], primary: str | None, order: Sequence[str | None]
) -> tuple[RuleView, ...]:
    names = sorted(
        dict.fromkeys(row.selection for row in results),
        key=lambda name: (name != primary, rule(name).test_labels),
    )
    return tuple(
        RuleView(name, tuple(sorted((r for r in results if r.selection == name), key=_table_order(order))))
        for name in names
    )


def _table_order(order: Sequence[str | None]) -> Callable[[Result], tuple[int, int, str, int, int]]:
    def key(row: Result) -> tuple[int, int, str, int, int]:
        place = order.index(row.pair_set) if row.pair_set in order else len(order)
        probe = PROBE_ORDER.index(row.method) if row.method in PROBE_ORDER else len(PROBE_ORDER)
        return place, probe, row.method, row.r or 0, row.seed or 0

    return key


def _curves(
    rows: Iterable[Mapping[str, Any]],
    chosen_r: Mapping[tuple[str | None, str], int | None],
    order: Sequence[str | None],
    n_test: int,
) -> tuple[Curve, ...]:
    points: dict[tuple[str | None, str], list[CurvePoint]] = {}
    for row in rows:
        r, worst = as_int(row.get("r")), as_float(row.get("worst_group"))
        if r is None or worst is None:
            continue
        key = (row.get("pair_set"), str(row.get("method")))
        average = as_float(row.get("average"))
        low, high = _interval(average, n_test)
        points.setdefault(key, []).append(
            CurvePoint(
                r=r,
                C=as_float(row.get("C")),
                worst_group=worst,
                low=as_float(row.get("worst_group_low")),
                high=as_float(row.get("worst_group_high")),
                average=average,
                average_low=low,
                average_high=high,
            )
        )
    keys = sorted(points, key=lambda k: (order.index(k[0]) if k[0] in order else len(order), k[1]))
    return tuple(
        Curve(pair_set, method, _with_start(points, pair_set, method), chosen_r.get((pair_set, method)))
        for pair_set, method in keys
        if method != "erm"  # one line across the figure, drawn from the baseline
    )


def _with_start(
    points: Mapping[tuple[str | None, str], list[CurvePoint]], pair_set: str | None, method: str
) -> tuple[CurvePoint, ...]:
    """The points of a curve by r; NCM that was not fitted at r = 0 begins with ERM, which it is there."""
    own = sorted(points[pair_set, method], key=lambda p: p.r)
    if method == "ncm" and own[0].r > 0:
        own = [p for p in points.get((pair_set, "erm"), []) if p.r == 0][:1] + own
    return tuple(own)


def _pair_set_view(
    pairs: PairSetInput,
    chosen: int | None,
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
    gallery: int,
    adviser: Adviser,
) -> PairSetView:
    quality, names = as_mapping(pairs.quality), adviser.names
    shown = gallery_of(pairs.pairs, quality, image_of, item_of, gallery, names)
    return PairSetView(
        name=pairs.name,
        method=pairs.method,
        counts=dict(pairs.counts),
        quality=quality,
        level=quality_level(quality),
        r=as_int(quality.get("recommended_r")) if chosen is None else chosen,
        r_chosen=chosen is not None,
        cells=cell_views(quality.get("cells"), names),
        gallery=shown.sound,
        set_apart=shown.apart,
        n_sound=shown.n_sound,
        n_apart=shown.n_apart,
        card=pairs.card,
        steps=adviser.pair_steps(pairs),
    )


def _has_images(pair_sets: Iterable[PairSetInput], image_of: Callable[[str], Path | None]) -> bool:
    """Whether the first pair of any set starts from an image; data have images throughout or not at all."""
    first = [str(row.get("a_id")) for pairs in pair_sets for row in pairs.pairs[:1]]
    return any(image_or_none(item, image_of) is not None for item in first)
