"""What the figures of a pair set say beside its verdict, where nothing has to be done about it."""

from __future__ import annotations

from cfpairs.quality.advice import BENT
from cfpairs.quality.evidence import GOOD_DISTANCE, LABEL_RED, Evidence
from cfpairs.quality.result import RemarkRow, TradeoffRow
from cfpairs.quality.words import directions, listed, percent

__all__ = ["remarks"]

UNEVEN = 5


def remarks(seen: Evidence) -> tuple[RemarkRow, ...]:
    """Everything worth knowing, in the order of the report's figures."""
    found = (("removal", _removal), ("missing", _unknown), ("noise", _noise), ("reliability", _reliability))
    return tuple(RemarkRow(about, text) for about, part in found for text in part(seen))


def _removal(seen: Evidence) -> list[str]:
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


def _unknown(seen: Evidence) -> list[str]:
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


def _noise(seen: Evidence) -> list[str]:
    if not seen.rank:
        return []
    stand = "1 direction stands" if seen.rank == 1 else f"{seen.rank} directions stand"
    lines = [f"{stand} above the noise: a larger r would remove what looks like chance."]
    even = seen.confident and not seen.uneven and seen.turn <= BENT
    if even and seen.edge_rank > 2 * seen.rank + UNEVEN:
        lines.append(
            f"The noise is uneven: taken as even, {seen.edge_rank} directions would seem to stand above it "
            f"instead of {seen.rank}."
        )
    return lines


def _reliability(seen: Evidence) -> list[str]:
    distance = seen.misalignment
    ahead = next((row for row in seen.forecast if row.n_pairs >= 2 * seen.n_pairs), None)
    if not seen.rank or distance is None or ahead is None:
        return []
    if not GOOD_DISTANCE / 2.0 < distance < GOOD_DISTANCE:
        return []
    return [
        f"With {ahead.n_pairs} pairs like these the {directions(seen.core)} found would be about "
        f"{ahead.misalignment:.2f} off ({ahead.low:.2f} to {ahead.high:.2f}), now {distance:.2f}."
    ]
