"""What to do about a pair set: one imperative sentence each, with the figures that speak for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cfpairs.quality.evidence import (
    BROKEN_SHARE,
    FEW_REMOVED,
    GOOD_DISTANCE,
    LABEL_RED,
    MUCH_LEFT,
    SOME_CHANGED,
    SOME_LEFT,
    Evidence,
)
from cfpairs.quality.more import MARKED
from cfpairs.quality.result import AdviceRow
from cfpairs.quality.words import agree, count, directions, listed, percent

__all__ = ["BENT", "advice", "advice_on_labels"]

BENT = 0.3
"""How far directions may turn before it is worth a word."""

MOST_CELLS = 3

Part = Callable[[Evidence], Sequence[AdviceRow]]


def advice(seen: Evidence) -> tuple[AdviceRow, ...]:
    """Everything worth doing, most important first: what more pairs could not mend, then more pairs.

    Flagged pairs come last where they are few.
    """
    few = seen.broken <= BROKEN_SHARE * seen.n_pairs
    parts: list[Part] = [_changed, _mend, _missed, _unlike, _more, _coverage]
    parts.insert(len(parts) if few else 1, _flagged)
    return _all(parts, seen)


def advice_on_labels(seen: Evidence) -> tuple[AdviceRow, ...]:
    """What to do about pairs that must not be used as they are."""
    return _all([_changed, _flagged], seen)


def _all(parts: Sequence[Part], seen: Evidence) -> tuple[AdviceRow, ...]:
    """What the parts say; of two numbers of pairs to make, the graver reason's."""
    rows: list[AdviceRow] = []
    for row in (row for part in parts for row in part(seen)):
        if row.kind != "add" or all(other.kind != "add" for other in rows):
            rows.append(row)
    return tuple(rows)


def _changed(seen: Evidence) -> Sequence[AdviceRow]:
    kept, lost = seen.labels.kept, seen.label_lost
    if seen.label_changed:
        return [
            AdviceRow(
                "remake",
                "Make pairs whose two sides show the same thing: a projection learned from these "
                f"{count(seen.n_pairs, 'pair')} removes the label.",
            )
        ]
    if kept is not None and kept.changed > SOME_CHANGED and kept.changed > 2.0 * kept.error:
        return [
            AdviceRow(
                "review",
                "Drop pairs that change the label: on average the middles of these pairs lie "
                f"{percent(kept.changed)} of the way to halfway between the labels.",
            )
        ]
    if lost is not None and lost > LABEL_RED:
        return [
            AdviceRow(
                "review",
                "Look for what changes with the environment in these pairs and belongs to the label: "
                f"{percent(lost)} of the label signal lies along it.",
            )
        ]
    return []


def _flagged(seen: Evidence) -> Sequence[AdviceRow]:
    counts: dict[str, int] = {}
    for flag in seen.flags:
        counts[flag.flag] = counts.get(flag.flag, 0) + 1
    if not counts:
        return []
    pairs = len({flag.pair_id for flag in seen.flags})
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = listed([f"{name} ({number})" for name, number in ordered])
    what = "flagged pair" if pairs == 1 else f"{pairs} flagged pairs"
    return [AdviceRow("review", f"Look at the {what} and drop what is wrong: {kinds}.")]


def _mend(seen: Evidence) -> Sequence[AdviceRow]:
    rows = []
    if seen.rank and seen.artefact is not None and seen.artefact > MARKED:
        rows.append(
            AdviceRow(
                "mend",
                "Mend the way the pairs are made: it leaves a mark of its own, as control pairs show the "
                f"same directions (cosine {seen.artefact:.2f}), and more pairs would not help.",
            )
        )
    if seen.rank and seen.bend > BENT:
        rows.append(
            AdviceRow(
                "review",
                "Drop or mend the longest pairs first: a few of them bend the directions, which lie "
                f"{seen.bend:.2f} from those of the others (0 the same, 1 unrelated).",
            )
        )
    if seen.uneven:
        rows.append(
            AdviceRow(
                "control",
                "Make control pairs (the same edit with nothing changed), or label the training items: the "
                f"noise is uneven, and some of the {directions(seen.rank)} may be its long axes, which "
                "repeat as signal does.",
            )
        )
    elif seen.rank and seen.confident and seen.turn > BENT:
        rows.append(
            AdviceRow(
                "mend",
                "Make pairs with less noise rather than more of these: the noise is uneven, and its long "
                f"axes turn the directions by {seen.turn:.2f} (0 not at all, 1 wholly) however many pairs "
                "there are.",
            )
        )
    return rows


def _missed(seen: Evidence) -> Sequence[AdviceRow]:
    """Where the pairs do not show the environment's shift, or most of it is left."""
    gone = None if seen.core_row is None else seen.core_row.environment_removed
    left = None if seen.row is None else seen.row.environment_left
    if not seen.rank or (gone is None and left is None):
        return []
    if gone is not None and gone < FEW_REMOVED:
        return [
            AdviceRow(
                "remake",
                f"Make pairs that show the environment: the {directions(seen.rank)} of these above the noise "
                f"{agree(seen.rank, 'holds', 'hold')} only {percent(gone)} of its shift.",
            )
        ]
    if left is None or left <= MUCH_LEFT:
        return []
    far = f"with r = {seen.recommended_r} removed the environments are still {left:.1f} times as far apart"
    if left / 2.0 > SOME_LEFT:
        return [AdviceRow("remake", f"Make pairs that show more of the shift: {far} as the labels.")]
    wanted = 4 * seen.n_pairs
    return [
        AdviceRow(
            "add",
            f"Make {wanted} pairs like these instead of {seen.n_pairs}: {far} as the labels, and four times "
            "as many pairs may halve that.",
            n_pairs=wanted,
        )
    ]


def _unlike(seen: Evidence) -> Sequence[AdviceRow]:
    if not seen.unlike or seen.partners is None:
        return []
    return [
        AdviceRow(
            "remake",
            "Edit images instead of matching them: these pairs differ in their subjects too. Without the "
            "directions that all pairs share, a side is nearer to its partner than to another pair's side "
            f"{percent(seen.partners.likeness)} of the time; chance gives 50 %.",
        )
    ]


def _more(seen: Evidence) -> Sequence[AdviceRow]:
    if seen.n_pairs == 0:
        return [AdviceRow("add", "Make pairs: there are none.")]
    if seen.rank == 0:
        check = "Check that the two sides of a pair differ in the environment and in little else"
        return [
            AdviceRow("review", f"{check}: no direction stands above the noise."),
            AdviceRow("add", f"Make more than {count(seen.n_pairs, 'pair')} once they do."),
        ]
    rows = []
    if 2 * seen.n_sources <= seen.n_pairs:
        rows.append(
            AdviceRow(
                "sources",
                f"Make pairs from new sources: the {seen.n_pairs} pairs rest on "
                f"{count(seen.n_sources, 'independent source')}, and further pairs of these add little.",
            )
        )
    elif seen.misalignment is None:
        rows.append(
            AdviceRow(
                "add",
                f"Make more pairs: {count(seen.n_pairs, 'pair')} cannot tell how reliable directions are.",
            )
        )
    elif not seen.confident:
        rows.append(
            AdviceRow(
                "add",
                f"Make more pairs: {seen.n_pairs} leave too little noise to measure beside "
                f"{directions(seen.rank)}, so noise and rank are uncertain.",
            )
        )
    elif (needed := _enough(seen)) is not None:
        rows.append(needed)
    return rows


def _enough(seen: Evidence) -> AdviceRow | None:
    """As many more pairs as the forecast says would do."""
    distance = seen.misalignment
    if distance is None or distance < GOOD_DISTANCE:
        return None
    for row in seen.forecast:
        if row.n_pairs > seen.n_pairs and row.misalignment < GOOD_DISTANCE:
            return AdviceRow(
                "add",
                f"Make {row.n_pairs} pairs like these instead of {seen.n_pairs}: the directions would then "
                f"be about {row.misalignment:.2f} off ({row.low:.2f} to {row.high:.2f}; 0 exact, 1 "
                f"unrelated) instead of {distance:.2f}.",
                n_pairs=row.n_pairs,
            )
    return None


def _coverage(seen: Evidence) -> Sequence[AdviceRow]:
    missing = [cell for cell in seen.cells if cell.n_pairs == 0]
    rows = [
        AdviceRow(
            "cover",
            f"Make pairs for label {cell.label} between environments {cell.env_a} and {cell.env_b}: there is "
            "none, and a shortcut of this label alone would not be seen.",
            label=cell.label,
            env_a=cell.env_a,
            env_b=cell.env_b,
        )
        for cell in missing
    ]
    rows += [
        AdviceRow(
            "cover",
            f"Make more pairs for label {cell.label} from environment {cell.env_a} to {cell.env_b}: the "
            f"{count(cell.n_pairs, 'pair')} there show a shift that the others show only to "
            f"{percent(cell.covered)}.",
            label=cell.label,
            env_a=cell.env_a,
            env_b=cell.env_b,
        )
        for cell in seen.cells
        if cell.covered is not None and cell.covered < FEW_REMOVED
    ]
    return rows[:MOST_CELLS]
