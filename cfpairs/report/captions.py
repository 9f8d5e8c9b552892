"""What the figures of a pair set show, worked out from their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cfpairs.report.model import PairSetView
from cfpairs.report.values import as_float, as_floats, as_int, as_rows, count, distance, per_cent
from cfpairs.report.words import LEVEL_NAMES

__all__ = [
    "cells_caption",
    "comparison_caption",
    "forecast_caption",
    "row_at",
    "scree_caption",
    "tradeoff_caption",
]

MOST = 0.9
"""From this share on, removing is called nearly all."""

SHOWN = 0.5
"""Share of a change that other pairs must show for them to stand in."""

LABEL_RED, LABEL_AMBER = 0.2, 0.1
"""Shares of the label signal (after deconfounding) whose loss is called costly and noticeable."""


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
        text += _certain(pairs.quality, above)
        text += _against_edge(pairs.r, above, as_int(pairs.quality.get("rank")))
    if noise is not None:
        text += f" {per_cent(noise)} of the differences' squared length follows no common direction."
    return text


def _certain(quality: Mapping[str, Any], above: int) -> str:
    """How many of those above the edge are certain, and what strength is measured against."""
    rank = as_int(quality.get("rank"))
    ends = as_floats(quality.get("rank_interval"))
    between = f" (95 % interval {ends[0]:.0f} to {ends[1]:.0f}, shaded)" if len(ends) == 2 else ""
    if not above:
        text = ": these pairs show no direction beyond chance."
    elif rank is not None and 0 < rank < above:
        text = f"; a test that does not take the noise as even is sure of {rank}{between}."
    elif rank and between:
        text = f" and can be told from chance. The count of what can be told is {rank}{between}."
    else:
        text = " and can be told from chance."
    if quality.get("metric") == "within-group":
        text += " Strength is measured against the spread of items within a group."
    return text


def _against_edge(r: int | None, above: int, rank: int | None) -> str:
    """Where r stands between what is certain and what is noise; `rank` is the stricter count."""
    if r is None or above == 0:
        return ""
    if rank is not None and 0 < rank < min(r, above):
        return (
            f" r = {r} goes beyond the {rank} that {'is' if rank == 1 else 'are'} certain, into components "
            "that may hold more of the environment or chance alone."
        )
    if rank is not None and 0 < rank < above and r == rank:
        return f" r = {r} removes exactly these."
    if r > above:
        return f" r = {r} reaches {r - above} component{'s' if r - above > 1 else ''} into the noise."
    if r == above:
        return f" r = {r} removes all of them."
    if r == 0:
        return " r = 0 removes none of them."
    return (
        f" r = {r} removes only the strongest: what can be told from chance need not all be worth removing."
    )


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
        every = {1: "The one change has", 2: "Both changes have"}.get(
            len(pairs.cells), f"All {len(pairs.cells)} changes have"
        )
        each = "" if len(pairs.cells) == 1 else " each: none is neglected"
        return f"{every} {count(fewest.n_pairs)} pairs{each}."
    text = f"Fewest for {where}: {count(fewest.n_pairs)}."
    if fewest.n_pairs == 0:
        return f"{text} A shortcut of this label between these two would not be seen."
    if fewest.covered is None:
        return text
    if fewest.covered < SHOWN:
        return f"{text} The others show only {per_cent(fewest.covered)} of that change: make more of these."
    return f"{text} The others show {per_cent(fewest.covered)} of that change too, so they can stand in."


def comparison_caption(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which way of making pairs is the better one, and whether the draws of pairs can tell."""
    if len(rows) < 2:
        return ""
    best, second = rows[0], rows[1]
    k = count(as_int(best.get("n_pairs")))
    text = f"On {k} pairs each, {best.get('name')} is best"
    levels = (str(best.get("level")), str(second.get("level")))
    behind, spread = as_float(second.get("behind")), as_float(second.get("spread"))
    if levels[0] != levels[1]:
        names = [LEVEL_NAMES.get(level, level).lower() for level in levels]
        text += (
            f": its verdict is \u201c{names[0]}\u201d, that of {second.get('name')} \u201c{names[1]}\u201d"
        )
    elif behind is not None and spread is not None and abs(behind) < 2 * spread:
        text += f", but {second.get('name')} is so close that another draw of pairs may turn the order"
    elif behind is not None:
        text += f": the directions of {second.get('name')}, the next, are {distance(behind)} further off"
    return f"{text}. More pairs of a worse kind do not make up for the kind."


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
    sources = as_int(pairs.quality.get("n_sources"))
    if sources is not None and have is not None and 2 * sources <= have:
        return (
            f"{text} against {distance(now)} now, if they came from new sources: these {count(have)} rest on "
            f"only {count(sources)}."
        )
    return f"{text} against {distance(now)} now: more pairs would help."
