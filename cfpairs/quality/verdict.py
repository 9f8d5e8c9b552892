"""The assessment in one word and one sentence."""

from __future__ import annotations

from cfpairs.quality.advice import advice, advice_on_labels
from cfpairs.quality.curves import by_chance
from cfpairs.quality.evidence import (
    BROKEN_SHARE,
    FEW_REMOVED,
    GOOD_DISTANCE,
    LABEL_AMBER,
    LABEL_RED,
    MUCH_LEFT,
    SOME_LEFT,
    Evidence,
)
from cfpairs.quality.more import MARKED
from cfpairs.quality.remarks import remarks
from cfpairs.quality.result import AdviceRow, RemarkRow, Verdict
from cfpairs.quality.words import agree, count, directions, listed, percent

__all__ = ["changes_label", "judge"]


def judge(seen: Evidence) -> tuple[Verdict, tuple[AdviceRow, ...], tuple[RemarkRow, ...]]:
    """Verdict, what to do, and what else the figures say.

    The level is the first that holds: *changes_label* where one side of most pairs carries another label,
    or the directions that hold the environment's shift (the core) hold more than .2 of the deconfounded
    label signal and more than chance; *fix_pairs* where a tenth of the pairs is flagged as broken;
    *needs_pairs* without a direction above the noise, or where nothing tells the long axes of uneven noise
    from signal; *fix_pairs* where control pairs show the same
    directions, or where the core holds less than half of the shift, or where removing the recommended
    directions leaves the environments four times as far apart as the labels; *needs_pairs* where it leaves
    them three times as far, or where the core is over .3 off and more pairs or sources would mend that;
    *usable* where they would not, or the core costs more than .1 of the label, or twice the labels' distance
    is left, or partners are no more alike than strangers, or the sides of the pairs do not tell the labels
    apart; *good* otherwise.
    """
    level, text = _level(seen)
    if level == "changes_label":
        return Verdict(level, text, 0), advice_on_labels(seen), ()
    verdict = Verdict(level, text, seen.recommended_r if seen.rank else 0)
    return verdict, advice(seen), remarks(seen)


def changes_label(seen: Evidence) -> bool:
    """Whether the pairs change the label, or what they show belongs to it."""
    lost = seen.label_lost
    return seen.label_changed or (
        lost is not None and lost > LABEL_RED and lost > by_chance(seen.core, seen.dim)
    )


def _level(seen: Evidence) -> tuple[str, str]:
    lost, distance = seen.label_lost, seen.misalignment
    if seen.n_pairs == 0:
        return "needs_pairs", "there are no pairs"
    if seen.label_changed:
        return "changes_label", "in most of these pairs the two sides carry different labels"
    if changes_label(seen) and lost is not None:
        return (
            "changes_label",
            f"the first {directions(seen.core)} found {agree(seen.core, 'holds', 'hold')} {percent(lost)} "
            "of the label signal, shortcut set aside",
        )
    if seen.broken > max(1.0, BROKEN_SHARE * seen.n_pairs):
        return "fix_pairs", f"{seen.broken} of {seen.n_pairs} pairs look broken"
    if seen.rank == 0:
        if not seen.confident:
            return "needs_pairs", f"{count(seen.n_pairs, 'pair')} cannot tell signal from noise"
        return "needs_pairs", f"no direction of the {seen.n_pairs} pairs stands above the noise"
    if seen.artefact is not None and seen.artefact > MARKED:
        return "fix_pairs", "the pairs show what making a pair does by itself, as control pairs show it too"
    gone = None if seen.core_row is None else seen.core_row.environment_removed
    if gone is not None and gone < FEW_REMOVED:
        return (
            "fix_pairs",
            f"the pairs miss the environment: their {directions(seen.rank)} above the noise hold only "
            f"{percent(gone)} of its shift",
        )
    left = None if seen.row is None else seen.row.environment_left
    if left is not None and left > MUCH_LEFT:
        # What noise leaves falls with the square root of the number of pairs.
        level = "needs_pairs" if left / 2.0 <= SOME_LEFT else "fix_pairs"
        return (
            level,
            f"with r = {seen.recommended_r} removed the environments are still {left:.1f} times as far "
            "apart as the labels"
            + ("; four times as many pairs may halve that" if level == "needs_pairs" else ""),
        )
    if distance is None:
        return "needs_pairs", f"{count(seen.n_pairs, 'pair')} cannot tell how reliable the directions are"
    if seen.uneven:
        which = f"which of the {seen.rank} directions are its long axes"
        if seen.rank == 1:
            which = "whether the one direction found is its long axis"
        return (
            "needs_pairs",
            f"the noise is uneven, and {which} cannot be told: "
            "control pairs or labelled items would tell signal from noise",
        )
    if distance >= GOOD_DISTANCE:
        return _too_far(seen, distance)
    text = _found(seen, distance, gone, lost)
    if seen.unlike:
        return "usable", f"{text}, but the sides of a pair differ in more than the environment"
    if left is not None and left > SOME_LEFT:
        return "usable", f"{text}, but the rest of the shift is {left:.1f} times the labels' distance"
    if seen.partners is not None and seen.has_environments and lost is None:
        return "usable", f"{text}, but the labels cannot be told apart between the sides of the pairs"
    return "good" if lost is None or lost <= LABEL_AMBER else "usable", text


def _too_far(seen: Evidence, distance: float) -> tuple[str, str]:
    r = seen.core
    off = f"the first {directions(r)} found {agree(r, 'is', 'are')} {distance:.2f} off (0 exact, 1 unrelated)"
    if 2 * seen.n_sources <= seen.n_pairs:
        return "needs_pairs", f"{off}, and the {seen.n_pairs} pairs rest on only {seen.n_sources} sources"
    for row in seen.forecast:
        if row.n_pairs <= 4 * seen.n_pairs and row.misalignment < GOOD_DISTANCE:
            return "needs_pairs", f"{off}; about {row.n_pairs} pairs would bring that under {GOOD_DISTANCE}"
    return "usable", f"{off}, and more pairs like these would help little"


def _found(seen: Evidence, distance: float, gone: float | None, lost: float | None) -> str:
    r = seen.core
    parts = [f"{agree(r, 'is', 'are')} {distance:.2f} off (0 exact, 1 unrelated)"]
    if gone is not None:
        parts.append(f"{agree(r, 'holds', 'hold')} {percent(gone)} of the environment's shift")
    if lost is not None:
        parts.append(f"{agree(r, 'costs', 'cost')} {percent(lost)} of the label signal")
    return f"the first {directions(r)} found {listed(parts)}"
