"""The findings for programs: the content of ``report.json``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cfpairs.report.model import ReportData
from cfpairs.report.notes import figure_notes
from cfpairs.report.probe_captions import choice_text
from cfpairs.report.values import jsonable

__all__ = ["QUALITY_FIELDS", "SCHEMA_VERSION", "render_json"]

SCHEMA_VERSION = 2
"""Changes when a key changes its meaning or goes away; new keys do not change it."""

QUALITY_FIELDS = (
    "n_pairs",
    "dim",
    "metric",
    "singular_values",
    "sigma",
    "noise_edge",
    "noise_share",
    "rank",
    "rank_interval",
    "recommended_r",
    "alignment",
    "misalignment",
    "noise_turn",
    "noise_uneven",
    "split_half",
    "forecast",
    "tradeoff",
    "flags",
    "cells",
    "verdict",
    "advice",
    "remarks",
    "n_sources",
    "n_control",
    "metrics",
    "rank_checks",
    "directions",
    "robust",
    "term_two",
    "wedin",
    "systematics",
    "more_pairs",
    "dropping",
)
"""Fields that every pair set has in the file; None where they were not measured."""


def render_json(data: ReportData) -> dict[str, Any]:
    """What ``json.dumps`` turns into ``report.json``.

    Returns
    -------
    dict
        ``schema_version``, ``verdict``, ``figures``, ``pair_sets`` (name -> `QUALITY_FIELDS`, ``method``,
        ``counts``), ``results``, ``curves``, ``maps``, ``groups``, ``comparison``, ``data`` and
        ``provenance``, as ``docs/report-json.md`` says. Accuracies and shares are shares of 1; a number that
        is not available is None.
    """
    verdict = data.verdict
    pair_sets = {
        pairs.name: {
            **dict.fromkeys(QUALITY_FIELDS),
            **pairs.quality,
            "method": pairs.method,
            "counts": pairs.counts,
        }
        for pairs in data.pair_sets
    }
    found: dict[str, Any] = jsonable(
        {
            "schema_version": SCHEMA_VERSION,
            "verdict": {
                "level": verdict.level,
                "text": verdict.text,
                "recommended_r": verdict.recommended_r,
                "pair_set": verdict.pair_set,
                "headline": verdict.headline,
                "evidence": verdict.evidence,
                "reason": verdict.reason,
                "next_steps": [asdict(step) for step in verdict.next_steps],
                "choice": choice_text(data),
            },
            "figures": [asdict(note) for note in figure_notes(data).values()],
            "pair_sets": pair_sets,
            "results": data.results,
            "curves": data.curve_rows,
            "maps": {
                view.pair_set: {
                    "chosen": None if view.chosen is None else dict(zip("rC", view.chosen, strict=True)),
                    "cells": [asdict(cell) for row in view.rows for cell in row],
                }
                for view in data.maps
            },
            "groups": data.group_rows,
            "comparison": data.comparison,
            "data": data.data,
            "provenance": data.provenance,
        }
    )
    return found
