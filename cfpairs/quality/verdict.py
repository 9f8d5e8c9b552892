"""The assessment in words: one level, one sentence, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cfpairs.quality.curves import LabelCheck, by_chance
from cfpairs.quality.partners import Partners
from cfpairs.quality.result import CellRow, FlagRow, ForecastRow, SplitHalf, TradeoffRow, Verdict

__all__ = ["Evidence", "judge"]

GOOD_DISTANCE = 0.3
LABEL_RED, LABEL_AMBER = 0.2, 0.1
MOST_CHANGED, SOME_CHANGED = 0.6, 0.35
FEW_REMOVED = 0.5
CHANCE = 0.53  # likeness of random partners, which share a side now and then
BENT = 0.3
UNEVEN = 5
BROKEN_SHARE = 0.1
BROKEN = ("duplicate", "failed edit", "outlier", "wrong match")


@dataclass(frozen=True)
class Evidence:
    """Everything that the verdict rests on; see `PairQuality`.

    `n_sources` counts clusters of sound pairs, `bend` is how far the directions move when long pairs are
    shortened, `edge_rank` counts directions over the isotropic edge.
    """

    n_pairs: int
    n_sources: int
    dim: int
    rank: int
    recommended_r: int
    confident: bool
    split_half: SplitHalf | None
    misalignment: float | None
    tradeoff: tuple[TradeoffRow, ...]
    labels: LabelCheck
    partners: Partners | None
    bend: float
    edge_rank: int
    has_labels: bool
    has_environments: bool
    forecast: tuple[ForecastRow, ...]
    flags: tuple[FlagRow, ...]
    cells: tuple[CellRow, ...]

    @property
    def row(self) -> TradeoffRow | None:
        """Trade-off at the recommended r."""
        return next((row for row in self.tradeoff if row.r == self.recommended_r), None)

    @property
    def distance(self) -> float | None:
        """Misalignment of the recommended directions; of all up to the rank where halves cannot tell."""
        return self.misalignment if self.split_half is None else self.split_half.misalignment

    @property
    def label_lost(self) -> float | None:
        """Share of the label signal, shortcut set aside, that goes with the recommended directions."""
        return None if self.row is None else self.row.label_removed_deconfounded

    @property
    def label_changed(self) -> bool:
        """Whether one side of most pairs carries another label."""
        kept = self.labels.kept
        return kept is not None and kept.changed >= MOST_CHANGED and kept.changed > 2.0 * kept.error

    @property
    def unlike(self) -> bool:
        """Whether the sides of a pair are no more alike than sides of different pairs."""
        return self.partners is not None and self.partners.likeness <= CHANCE + 2.0 * self.partners.error

    @property
    def broken(self) -> int:
        """Number of pairs with a flag that says that the pair is wrong."""
        return len({flag.pair_id for flag in self.flags if flag.flag in BROKEN})


def judge(seen: Evidence) -> tuple[Verdict, tuple[str, ...]]:
    """Verdict and advice.

    The level is the first that holds: *changes_label* where one side of most pairs carries another label,
    or the recommended directions hold more than .2 of the deconfounded label signal and more than chance;
    *fix_pairs* where a tenth of the pairs is flagged as broken; *needs_pairs* without a direction above the
    noise; *fix_pairs* where the directions hold less than half of the environment's shift; *needs_pairs*
    where the directions are over .3 off and up to four times as many pairs would mend that; *usable* where
    they are, or cost more than .1 of the label, or where partners are no more alike than strangers; *good*
    otherwise.
    """
    level, text = _level(seen)
    if level == "changes_label":
        parts = [_changed(seen), _broken(seen)]
        return Verdict(level, text, 0), tuple(line for part in parts for line in part)
    found = (_removal, _unknown, _changed, _broken, _noise, _more, _coverage)
    parts = [part(seen) for part in found]
    recommended = seen.recommended_r if seen.rank else 0
    return Verdict(level, text, recommended), tuple(line for part in parts for line in part)


def _level(seen: Evidence) -> tuple[str, str]:
    lost, distance = seen.label_lost, seen.distance
    if seen.n_pairs == 0:
        return "needs_pairs", "there are no pairs"
    if seen.label_changed:
        return "changes_label", "in most of these pairs the two sides carry different labels"
    if lost is not None and lost > LABEL_RED and lost > by_chance(seen.recommended_r, seen.dim):
        return (
            "changes_label",
            f"removing r = {seen.recommended_r} costs {_percent(lost)} of the label signal, "
            "shortcut set aside",
        )
    if seen.broken > max(1.0, BROKEN_SHARE * seen.n_pairs):
        return "fix_pairs", f"{seen.broken} of {seen.n_pairs} pairs look broken"
    if seen.rank == 0:
        if not seen.confident:
            return "needs_pairs", f"{_count(seen.n_pairs, 'pair')} cannot tell signal from noise"
        return "needs_pairs", f"no direction of the {seen.n_pairs} pairs stands above the noise"
    gone = None if seen.row is None else seen.row.environment_removed
    if gone is not None and gone < FEW_REMOVED:
        return (
            "fix_pairs",
            f"the pairs miss the environment: their {_directions(seen.rank)} above the noise hold only "
            f"{_percent(gone)} of its shift",
        )
    if distance is None:
        return "needs_pairs", f"{_count(seen.n_pairs, 'pair')} cannot tell how reliable the directions are"
    if distance >= GOOD_DISTANCE:
        return _too_far(seen, distance)
    text = _found(seen, distance, gone, lost)
    if seen.unlike:
        return "usable", f"{text}, but the sides of a pair differ in more than the environment"
    return "good" if lost is None or lost <= LABEL_AMBER else "usable", text


def _too_far(seen: Evidence, distance: float) -> tuple[str, str]:
    r = seen.recommended_r
    off = (
        f"the first {_directions(r)} found {_agree(r, 'is', 'are')} {distance:.2f} off (0 exact, 1 unrelated)"
    )
    if 2 * seen.n_sources <= seen.n_pairs:
        return "needs_pairs", f"{off}, and the {seen.n_pairs} pairs rest on only {seen.n_sources} sources"
    for row in seen.forecast:
        if row.n_pairs <= 4 * seen.n_pairs and row.misalignment < GOOD_DISTANCE:
            return "needs_pairs", f"{off}; about {row.n_pairs} pairs would bring that under {GOOD_DISTANCE}"
    return "usable", f"{off}, and more pairs like these would help little"


def _found(seen: Evidence, distance: float, gone: float | None, lost: float | None) -> str:
    r = seen.recommended_r
    parts = [f"{_agree(r, 'is', 'are')} {distance:.2f} off (0 exact, 1 unrelated)"]
    if gone is not None:
        parts.append(f"{_agree(r, 'holds', 'hold')} {_percent(gone)} of the environment's shift")
    if lost is not None:
        parts.append(f"{_agree(r, 'costs', 'cost')} {_percent(lost)} of the label signal")
    return f"the first {_directions(r)} found {_listed(parts)}"


def _removal(seen: Evidence) -> Sequence[str]:
    row = seen.row
    if row is None or seen.rank == 0:
        return []
    parts = []
    if row.environment_removed is not None:
        parts.append(f"{_percent(row.environment_removed)} of the environment's shift")
    if row.label_removed_deconfounded is not None:
        parts.append(f"{_percent(row.label_removed_deconfounded)} of the label signal")
    if not parts and row.variance_removed is not None:
        parts.append(f"{_percent(row.variance_removed)} of the items' variance")
    lines = [f"Remove r = {row.r}: it takes away {_listed(parts)}."]
    if seen.rank > row.r:
        lines.append(
            f"{seen.rank} directions stand above the noise; the later ones hold little of the shift, so try "
            f"an r between {row.r} and {seen.rank} only in validation."
        )
    trained, fair = row.label_removed, row.label_removed_deconfounded
    if trained is not None and fair is not None and trained > LABEL_RED and fair <= LABEL_AMBER:
        lines.append(
            f"In training {_percent(trained)} of what separates the labels goes, with balanced environments "
            f"only {_percent(fair)}: the rest was the shortcut."
        )
    return lines


def _unknown(seen: Evidence) -> Sequence[str]:
    missing = [
        name
        for name, there in (("labels", seen.has_labels), ("environments", seen.has_environments))
        if not there
    ]
    if missing:
        return [
            "What a removal takes from environment and label is not available: it needs training items with "
            f"{_listed(missing)}."
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
            f"{_percent(kept.changed)} of the way to halfway between the labels. Look at the pairs."
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
    return [f"Look at the flagged pairs: {_listed([f'{name} ({count})' for name, count in ordered])}."]


def _more(seen: Evidence) -> Sequence[str]:
    lines = []
    distance = seen.distance
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
            f"The {seen.n_pairs} pairs rest on {_count(seen.n_sources, 'independent source')}: new sources "
            "help more than further pairs of these."
        )
    return lines


def _noise(seen: Evidence) -> Sequence[str]:
    lines = []
    if seen.unlike and seen.partners is not None:
        lines.append(
            "Once the common directions are out, a side is nearer to its partner than to another pair's side "
            f"{_percent(seen.partners.likeness)} of the time, as by chance: the pairs differ in their subjects "
            "too. Edits of the same image are cleaner."
        )
    if seen.rank and seen.bend > BENT:
        lines.append(
            f"A few long pairs bend the directions, which lie {seen.bend:.2f} from those of the others; drop "
            "or mend the flagged ones first."
        )
    if seen.rank and not seen.confident:
        lines.append(
            f"Noise and rank are uncertain: {_count(seen.n_pairs, 'pair')} leave too little noise to "
            f"measure beside {_directions(seen.rank)}."
        )
    elif seen.rank and seen.edge_rank > 2 * seen.rank + UNEVEN:
        lines.append(
            f"The noise is uneven: taken as even, {seen.edge_rank} directions would seem to stand above it "
            f"instead of {seen.rank}."
        )
    return lines


def _coverage(seen: Evidence) -> Sequence[str]:
    lines = [
        f"The {row.n_pairs} pairs of label {row.label} from environment {row.env_a} to {row.env_b} show a "
        f"shift that the others show only to {_percent(row.covered)}: make more of them."
        for row in seen.cells
        if row.covered is not None and row.covered < FEW_REMOVED
    ]
    return lines[:3]


def _directions(count: int) -> str:
    return "direction" if count == 1 else f"{count} directions"


def _agree(count: int, one: str, many: str) -> str:
    return one if count == 1 else many


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _percent(share: float) -> str:
    if 0.0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= share < 1.0 else f"{100.0 * share:.0f} %"


def _listed(parts: Sequence[str]) -> str:
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]
