"""The table of noise, rank and reliability: one row a measure, with its meaning, one column a pair set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cfpairs.report.model import PairSetView
from cfpairs.report.values import (
    ABSENT,
    as_float,
    as_floats,
    as_int,
    as_mapping,
    as_rows,
    count,
    distance,
    number,
)
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


def _rules(quality: Mapping[str, Any]) -> str:
    checks = as_mapping(quality.get("rank_checks"))
    names = (
        "tracy_widom",
        "flip_pa",
        "eigenvalue_ratio",
        "gavish_donoho",
        "screenot",
        "bi_cross_validation",
    )
    return " / ".join(count(as_int(checks.get(name))) for name in names) if checks else ABSENT


def _least(quality: Mapping[str, Any]) -> str:
    rows = as_rows(quality.get("directions"))
    known = [f for f in (as_float(row.get("frequency")) for row in rows) if f is not None]
    return _per_cent(min(known)) if known else ABSENT


def _term_two(quality: Mapping[str, Any]) -> str:
    found = as_mapping(quality.get("term_two"))
    value, error = as_float(found.get("value")), as_float(found.get("error"))
    return ABSENT if value is None else f"{number(value)} ({number(error)})"


def _wedin(quality: Mapping[str, Any]) -> str:
    found = as_mapping(quality.get("wedin"))
    if not found:
        return ABSENT
    return distance(as_float(found.get("bound"))) if found.get("applies") else "does not apply"


def _mean(quality: Mapping[str, Any]) -> str:
    found = as_mapping(quality.get("systematics"))
    share, p = as_float(found.get("mean_share")), as_float(found.get("mean_p"))
    return ABSENT if share is None or p is None else f"{_per_cent(share)} (p {p:.2f})"


def _control(quality: Mapping[str, Any]) -> str:
    used = as_int(quality.get("n_control"))
    overlap = as_float(as_mapping(quality.get("systematics")).get("control_overlap"))
    if not used:
        return ABSENT
    return count(used) if overlap is None else f"{count(used)} (cosine {overlap:.2f})"


def _splits(quality: Mapping[str, Any]) -> str:
    rows = as_rows(as_mapping(quality.get("systematics")).get("splits"))
    if not rows:
        return ABSENT
    found = [str(row.get("by")) for row in rows if (as_float(row.get("p")) or 1.0) <= _SURE]
    return ", ".join(found) or "nothing"


def _needed(quality: Mapping[str, Any]) -> str:
    found = as_mapping(quality.get("more_pairs"))
    n, low, high = (as_int(found.get(name)) for name in ("n_pairs", "low", "high"))
    if n is None:
        return ABSENT
    return f"{count(n)} ({count(low)} to {count(high)})"


_SURE = 0.02

_MEASURES: tuple[tuple[str, str, Callable[[Mapping[str, Any]], str]], ...] = (
    ("Pairs measured", "sound pairs that the figures rest on", lambda q: count(as_int(q.get("n_pairs")))),
    (
        "Control pairs",
        "edits with nothing to change, by which failed edits are told; their cosine with the directions is "
        "near 1 where these are only what the editor does to every image",
        _control,
    ),
    ("Measured in", "the unit of spread and singular values", _metric),
    (
        "Spread",
        "part of a difference in one coordinate that follows no common direction: noise, and in exact pairs "
        "how the change differs from item to item",
        lambda q: number(as_float(q.get("sigma"))),
    ),
    (
        "Share of the spread",
        "how much of the differences' squared length it makes up",
        lambda q: _per_cent(as_float(q.get("noise_share"))),
    ),
    ("Rank", "components that can be told from noise for certain", _rank),
    (
        "Rank by other rules",
        "over the even edge / plain sign flips / largest gap / Gavish-Donoho / ScreeNOT / "
        "bi-cross-validation; a strong one hides others from the second and third, the last three drop weak "
        "ones",
        _rules,
    ),
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
    (
        "Weakest frequency",
        "share of subsamples that show the least repeatable component above the noise",
        _least,
    ),
    (
        "Long pairs",
        "distance of the directions from those with long pairs shortened; over 0.3 a few pairs decide",
        lambda q: distance(as_float(as_mapping(q.get("robust")).get("distance"))),
    ),
    (
        "Left to the probe",
        "mean squared change of an NCM probe's logit over held-out pairs, noise set aside (standard error)",
        _term_two,
    ),
    ("Wedin's bound", "largest sine of the directions by Wedin's theorem, where it applies", _wedin),
    (
        "Common mean",
        "share of the squared length that all pairs share, and how often random signs give as much",
        _mean,
    ),
    ("Split by origin", "what sets pairs apart more than chance does (p at most 0.02)", _splits),
    ("Pairs for 0.3", "pairs in all that bring the misalignment to 0.3", _needed),
    ("Split-half cosines", "agreement of the two halves, direction by direction; 1 is full", _cosines),
)
