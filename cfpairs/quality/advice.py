"""What to do about a pair set, and why: plain sentences with the figures behind them."""

from __future__ import annotations

from collections.abc import Sequence

from cfpairs.quality.evidence import (
    FEW_REMOVED,
    GOOD_DISTANCE,
    LABEL_RED,
    SOME_CHANGED,
    Evidence,
)
from cfpairs.quality.more import MARKED
from cfpairs.quality.result import TradeoffRow
from cfpairs.quality.words import count, directions, listed, percent

__all__ = ["advice", "advice_on_labels"]

BENT = 0.3
UNEVEN = 5


def advice(seen: Evidence) -> tuple[str, ...]:
    """Everything worth saying, most important first."""
    parts = (_removal, _unknown, _changed, _broken, _noise, _more, _coverage)
    return tuple(line for part in parts for line in part(seen))


def advice_on_labels(seen: Evidence) -> tuple[str, ...]:
    """What to say of pairs that must not be used as they are."""
    return tuple(line for part in (_changed, _broken) for line in part(seen))


def _removal(seen: Evidence) -> Sequence[str]:
    row = seen.row
    if row is None or seen.rank == 0:
        return []
    parts = []
    if row.environment_removed is not None:
        parts.append(f"{percent(row.environment_removed)} of the environment's shift")
    if row.label_removed_deconfounded is not None:
        parts.append(f"{percent(row.label_removed_deconfounded)} of the label signal")
    if not parts and row.variance_removed is not None:
        parts.append(f"{percent(row.variance_removed)} of the items' variance")
    lines = [f"Removing r = {row.r} takes away {listed(parts)}{_remaining(row)}."]
    lines.append(f"{_above(seen.rank)} above the noise: a larger r would remove what looks like chance.")
    trained, fair = row.label_removed, row.label_removed_deconfounded
    if trained is not None and fair is not None and trained > LABEL_RED and fair < trained / 2.0:
        lines.append(
            f"In training {percent(trained)} of what separates the labels goes, with balanced environments "
            f"only {percent(fair)}: the rest was the shortcut."
        )
    return lines


def _remaining(row: TradeoffRow) -> str:
    if row.environment_left is None:
        return ""
    return f"; the environments stay {row.environment_left:.1f} times as far apart as the labels"


def _above(rank: int) -> str:
    return "1 direction stands" if rank == 1 else f"{rank} directions stand"


def _unknown(seen: Evidence) -> Sequence[str]:
    missing = [
        name
        for name, there in (("labels", seen.has_labels), ("environments", seen.has_environments))
        if not there
    ]
    if missing:
        return [
            "What a removal takes from environment and label is not available: it needs training items with "
            f"{listed(missing)}."
        ]
    if seen.n_pairs == 0:
        return []
    lines = []
    if seen.labels.deconfounded is None:
        lines.append(
            "The cost in label signal is not available: it needs the a sides and the labels of the pairs, "
            "and labels that the items separate."
        )
    if seen.labels.kept is None:
        lines.append(
            "Whether the pairs keep their label was not checked: it needs the a sides and the labels of the "
            "pairs, and every label in two environments outside the pairs."
        )
    return lines


def _changed(seen: Evidence) -> Sequence[str]:
    kept = seen.labels.kept
    if seen.label_changed:
        return [
            "Make pairs whose sides show the same thing: a projection learned from these removes the label."
        ]
    if kept is not None and kept.changed > SOME_CHANGED and kept.changed > 2.0 * kept.error:
        return [
            "Some pairs may change the label: on average their middles lie "
            f"{percent(kept.changed)} of the way to halfway between the labels. Look at the pairs."
        ]
    lost = seen.label_lost
    if lost is not None and lost > LABEL_RED:
        return ["Look for what changes with the environment in these pairs and belongs to the label."]
    return []


def _broken(seen: Evidence) -> Sequence[str]:
    counts: dict[str, int] = {}
    for flag in seen.flags:
        counts[flag.flag] = counts.get(flag.flag, 0) + 1
    if not counts:
        return []
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [f"Look at the flagged pairs: {listed([f'{name} ({number})' for name, number in ordered])}."]


def _more(seen: Evidence) -> Sequence[str]:
    lines = []
    distance = seen.misalignment
    if seen.n_pairs and seen.rank == 0:
        lines.append(
            "Check that the sides of a pair differ in the environment and in little else; make more."
        )
    ahead = [row for row in seen.forecast if row.n_pairs >= 2 * seen.n_pairs]
    if seen.rank and distance is not None and distance > GOOD_DISTANCE / 2.0 and ahead:
        row = ahead[0]
        lines.append(
            f"With {row.n_pairs} pairs like these the directions would be about {row.misalignment:.2f} off "
            f"({row.low:.2f} to {row.high:.2f}); they are {distance:.2f} off now."
        )
    if seen.n_pairs and 2 * seen.n_sources <= seen.n_pairs:
        lines.append(
            f"The {seen.n_pairs} pairs rest on {count(seen.n_sources, 'independent source')}: new sources "
            "help more than further pairs of these."
        )
    return lines


def _noise(seen: Evidence) -> Sequence[str]:
    lines = []
    if seen.unlike and seen.partners is not None:
        lines.append(
            "Once the common directions are out, a side is nearer to its partner than to another pair's side "
            f"{percent(seen.partners.likeness)} of the time, as by chance: the pairs differ in their "
            "subjects too. Edits of the same image are cleaner."
        )
    if seen.rank and seen.artefact is not None and seen.artefact > MARKED:
        lines.append(
            f"The directions agree with those of the control pairs (cosine {seen.artefact:.2f}): the edit "
            "leaves a mark of its own. Mend the edit; more pairs would not help."
        )
    if seen.rank and seen.bend > BENT:
        lines.append(
            f"A few long pairs bend the directions, which lie {seen.bend:.2f} from those of the others; drop "
            "or mend the flagged ones first."
        )
    if seen.rank and not seen.confident:
        lines.append(
            f"Noise and rank are uncertain: {count(seen.n_pairs, 'pair')} leave too little noise to "
            f"measure beside {directions(seen.rank)}."
        )
    elif seen.uneven:
        lines.append(
            f"The noise is uneven, so that some of the {directions(seen.rank)} may be its long axes, which "
            "repeat as signal does. Control pairs (the same edit with nothing changed) or labelled "
            "training items would tell signal from noise."
        )
    elif seen.rank and seen.turn > BENT:
        lines.append(
            f"The noise is uneven: its long axes turn the directions by {seen.turn:.2f} from those that "
            "stand out when every axis counts alike. More pairs do not mend that; pairs with less noise do."
        )
    elif seen.rank and seen.edge_rank > 2 * seen.rank + UNEVEN:
        lines.append(
            f"The noise is uneven: taken as even, {seen.edge_rank} directions would seem to stand above it "
            f"instead of {seen.rank}."
        )
    return lines


def _coverage(seen: Evidence) -> Sequence[str]:
    lines = [
        f"Label {row.label} has no pair between environments {row.env_a} and {row.env_b}: a shortcut of "
        "this label alone would not be seen."
        for row in seen.cells
        if row.n_pairs == 0
    ]
    lines += [
        f"The {row.n_pairs} pairs of label {row.label} from environment {row.env_a} to {row.env_b} show a "
        f"shift that the others show only to {percent(row.covered)}: make more of them."
        for row in seen.cells
        if row.covered is not None and row.covered < FEW_REMOVED
    ]
    return lines[:3]
