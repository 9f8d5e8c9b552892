"""The table of noise, rank and reliability: one row a measure, with its meaning, one column a pair set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cfpairs.report.model import PairSetView
from cfpairs.report.values import ABSENT, as_float, as_floats, as_int, as_mapping, count, distance, number
from cfpairs.report.values import per_cent as _per_cent

__all__ = ["Measure", "measures"]


class Measure(NamedTuple):
    """One row of the table."""

    name: str
    meaning: str
    values: tuple[str, ...]


def measures(pair_sets: Sequence[PairSetView]) -> tuple[Measure, ...]:
    """Every measure that at least one pair set has."""
    rows = (
        Measure(name, meaning, tuple(read(pairs.quality) for pairs in pair_sets))
        for name, meaning, read in _MEASURES
    )
    return tuple(row for row in rows if any(value != ABSENT for value in row.values))


METRICS = {
    "identity": "coordinates as embedded",
    "within-group": "spread of the items within groups",
    "control": "spread of control pairs",
}


def _metric(quality: Mapping[str, Any]) -> str:
    metric = quality.get("metric")
    return METRICS.get(metric, metric) if isinstance(metric, str) else ABSENT


def _rank(quality: Mapping[str, Any]) -> str:
    rank = as_int(quality.get("rank"))
    if rank is None:
        return ABSENT
    ends = as_floats(quality.get("rank_interval"))
    return f"{rank} ({ends[0]:.0f} to {ends[1]:.0f})" if len(ends) == 2 else str(rank)


def _cosines(quality: Mapping[str, Any]) -> str:
    values = as_floats(as_mapping(quality.get("split_half")).get("cosines"))
    more = " \u2026" if len(values) > 3 else ""
    return ", ".join(f"{v:.2f}" for v in values[:3]) + more if values else ABSENT


def _alignment(quality: Mapping[str, Any]) -> str:
    values = as_floats(quality.get("alignment"))
    more = " \u2026" if len(values) > 3 else ""
    return ", ".join(f"{v:.2f}" for v in values[:3]) + more if values else ABSENT


_MEASURES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("Pairs measured", "sound pairs that the figures rest on", lambda q: count(as_int(q.get("n_pairs")))),
    ("Measured in", "the unit of noise level and singular values", _metric),
    (
        "Noise level",
        "random part of a difference in one coordinate",
        lambda q: number(as_float(q.get("sigma"))),
    ),
    (
        "Noise share",
        "how much of the differences' squared length is random",
        lambda q: _per_cent(as_float(q.get("noise_share"))),
    ),
    ("Rank", "components that can be told from noise; an upper bound on r", _rank),
    (
        "Recommended r",
        "what the pairs alone suggest, before any probe is fitted",
        lambda q: ABSENT if as_int(q.get("recommended_r")) is None else str(as_int(q.get("recommended_r"))),
    ),
    (
        "Misalignment",
        "expected distance of the directions found from the true ones: 0 exact, 1 unrelated",
        lambda q: distance(as_float(q.get("misalignment"))),
    ),
    ("Alignment", "estimated cosine of each direction with the true one, strongest first", _alignment),
    (
        "Split-half distance",
        "how far the directions from only half of the pairs are from the true ones, by how well two halves "
        "agree: 0 exact, 1 unrelated",
        lambda q: distance(as_float(as_mapping(q.get("split_half")).get("distance"))),
    ),
    ("Split-half cosines", "agreement of the two halves, direction by direction; 1 is full", _cosines),
)
