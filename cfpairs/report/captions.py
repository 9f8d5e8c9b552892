"""What each figure shows, worked out from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cfpairs.report.model import PairSetView, ReportData
from cfpairs.report.svg import MAX_SERIES
from cfpairs.report.values import as_float, as_floats, as_int, as_rows, count, distance, per_cent
from cfpairs.report.verdict import gain
from cfpairs.report.words import rule

__all__ = [
    "cells_caption",
    "curve_caption",
    "forecast_caption",
    "row_at",
    "scree_caption",
    "tradeoff_caption",
]

MOST = 0.9
"""From this share on, removing is called nearly all."""

LABEL_RED, LABEL_AMBER = 0.2, 0.1
"""Shares of the label signal (after deconfounding) whose loss is called costly and noticeable."""


def curve_caption(data: ReportData) -> str:
    """What the accuracy curves say about the chosen r."""
    best, erm = data.best, data.baseline
    parts = []
    if best is None:
        parts.append("No probe of this kind was chosen by the primary rule, so no r is marked.")
    elif best.worst_group is None:
        parts.append("The worst group of the chosen probe could not be measured.")
    else:
        place = f"At r = {best.r}, chosen by {rule(best.selection).title}, {_who(best.pair_set)} reaches "
        place += per_cent(best.worst_group)
        if erm is not None and erm.worst_group is not None:
            points = 100 * (best.worst_group - erm.worst_group)
            place += f", {abs(points):.1f} points {'above' if points >= 0 else 'below'} the plain probe (ERM)"
            place += {
                "clear": "; the intervals do not overlap, so the gain is no accident of the test items.",
                "worse": "; the intervals do not overlap, so removing directions does harm here.",
                "unclear": "; the intervals overlap, so the test items cannot tell the two apart.",
                "unknown": ".",
            }[gain(best, erm)]
        else:
            place += "."
        parts.append(place)
        parts.append(_peak(data))
    if sum(c.chosen_r is not None for c in data.curves) > 1:
        parts.append("Rings mark the r that the rule chose for each pair set.")
    if len(data.curves) > MAX_SERIES:
        parts.append(f"Only {MAX_SERIES} of {len(data.curves)} curves are drawn; the numbers below have all.")
    return " ".join(part for part in parts if part)


def _who(pair_set: str | None) -> str:
    return "NCM" if pair_set is None else f"NCM with the {pair_set} pairs"


def _peak(data: ReportData) -> str:
    """Where the curve of the chosen probe is highest, against where it was chosen."""
    best = data.best
    curve = next(
        (c for c in data.curves if best and c.pair_set == best.pair_set and c.method == best.method), None
    )
    if best is None or best.worst_group is None or curve is None or len(curve.points) < 2:
        return ""
    top = max(curve.points, key=lambda p: p.worst_group)
    # on the curve itself, so that a mean over seeds is not held against a single fit
    here = next((p.worst_group for p in curve.points if p.r == best.r), best.worst_group)
    lost = 100 * (top.worst_group - here)
    if top.r == best.r or lost <= 0:
        return "No other r on its curve is higher."
    verdict = "a small loss" if lost < 3 else "a loss that better validation pairs could win back"
    return (
        f"Its curve is highest at r = {top.r} ({per_cent(top.worst_group)}), {verdict} of {lost:.1f} points; "
        "that peak is seen on test only and was not used to choose."
    )


def scree_caption(pairs: PairSetView) -> str:
    """How many components of the differences are signal, and what the chosen r keeps of them."""
    values = as_floats(pairs.quality.get("singular_values"))
    edge = as_float(pairs.quality.get("noise_edge"))
    noise = as_float(pairs.quality.get("noise_share"))
    if edge is None:
        text = f"{count(len(values))} components; no noise edge could be estimated, so read the elbow by eye."
    else:
        above = sum(value > edge for value in values)
        stand = "stands" if above == 1 else "stand"
        text = f"{above} of {count(len(values))} components {stand} above the noise edge"
        text += " and can be told from chance." if above else ": these pairs show no direction beyond chance."
        text += _stricter(pairs.quality, above)
        text += _against_edge(pairs.r, above)
    if noise is not None:
        text += f" {per_cent(noise)} of the differences' squared length follows no common direction."
    return text


def _stricter(quality: Mapping[str, Any], above: int) -> str:
    """The rank, where it is lower than the count above the edge, and what strength is measured against."""
    text = ""
    rank = as_int(quality.get("rank"))
    if rank is not None and 0 < rank < above:
        text = f" A test that does not take the noise as even finds {rank}."
    if quality.get("metric") == "within-group":
        text += " Strength is measured against the spread of items within a group."
    return text


def _against_edge(r: int | None, above: int) -> str:
    if r is None or above == 0:
        return ""
    if r > above:
        return f" r = {r} reaches {r - above} component{'s' if r - above > 1 else ''} into the noise."
    if r == above:
        return f" r = {r} removes all of them."
    if r == 0:
        return " r = 0 removes none of them."
    return f" r = {r} removes only the strongest: rank is an upper bound on r, not its best value."


def row_at(rows: tuple[Mapping[str, Any], ...], r: int | None) -> Mapping[str, Any] | None:
    """The row of the trade-off at `r`, or at the nearest smaller rank; None if there is none."""
    known = [row for row in rows if as_int(row.get("r")) is not None]
    fitting = [row for row in known if r is not None and int(row["r"]) <= r]
    return max(fitting, key=lambda row: int(row["r"])) if fitting else None


def tradeoff_caption(pairs: PairSetView) -> str:
    """What removing r directions takes from the environment, and what from the label."""
    row = row_at(as_rows(pairs.quality.get("tradeoff")), pairs.r)
    if row is None:
        return "No r is chosen here; look for one that takes much of the environment and little of the label."
    if pairs.r == 0:
        return "With r = 0 nothing is removed: no direction of these pairs is worth its price."
    env, label = as_float(row.get("environment_removed")), as_float(row.get("label_removed"))
    fair = as_float(row.get("label_removed_deconfounded"))
    text = f"Removing r = {row['r']} takes {per_cent(env)} of the environment's signal"
    text += f" and {per_cent(label)} of the label's"
    text += f" ({per_cent(fair)} after deconfounding)." if fair is not None else "."
    return f"{text} {_worth(env, label, fair)}".strip()


def _worth(env: float | None, label: float | None, fair: float | None) -> str:
    cost = label if fair is None else fair
    if cost is None:
        return ""
    if cost > LABEL_RED:
        return (
            "That costs too much of the label: use a smaller r or better pairs."
            if fair is not None
            else "Part of that loss may be the shortcut itself, which the label goes with in training."
        )
    if env is not None and env < 0.5:
        return "Most of the environment stays: these pairs miss it, or r is too small."
    cheap = (
        "the label hardly suffers"
        if cost <= LABEL_AMBER
        else "the label pays a noticeable but bearable price"
    )
    if fair is not None and label is not None and label - fair > LABEL_AMBER:
        cheap += "; most of what looked like label was the shortcut"
    gone = (
        "Nearly all of the environment goes"
        if env is not None and env >= MOST
        else "Part of the environment stays,"
    )
    joint = "and" if gone.startswith("Nearly") else "but"
    return f"{gone} {joint} {cheap}."


def cells_caption(pairs: PairSetView) -> str:
    """Which label and change of environment has the fewest pairs."""
    if not pairs.cells:
        return ""
    fewest = min(pairs.cells, key=lambda cell: cell.n_pairs)
    where = f"{fewest.label_name}, {fewest.env_a_name} to {fewest.env_b_name}"
    if fewest.n_pairs == max(cell.n_pairs for cell in pairs.cells):
        return f"All {len(pairs.cells)} changes have {count(fewest.n_pairs)} pairs each."
    return f"Fewest for {where}: {count(fewest.n_pairs)}."


def forecast_caption(pairs: PairSetView) -> str:
    """Whether more pairs of the same kind would make the directions more reliable."""
    rows = as_rows(pairs.quality.get("forecast"))
    now = as_float(pairs.quality.get("misalignment"))
    have = as_int(pairs.quality.get("n_pairs"))
    later = [
        (int(n), value)
        for n, value in ((as_int(row.get("n_pairs")), as_float(row.get("misalignment"))) for row in rows)
        if n is not None and value is not None and (have is None or n > have)
    ]
    if not later:
        return ""
    n, value = min(later)
    text = f"With {count(n)} pairs the misalignment would be about {distance(value)}"
    if now is None:
        return f"{text}."
    drop = now - value
    if drop < 0.05:
        return f"{text} against {distance(now)} now: more of the same pairs would change little."
    return f"{text} against {distance(now)} now: more pairs would help."
