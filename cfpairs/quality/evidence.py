"""What the verdict and the advice rest on, and the thresholds they go by."""

from __future__ import annotations

from dataclasses import dataclass

from cfpairs.quality.curves import LabelCheck
from cfpairs.quality.partners import Partners
from cfpairs.quality.result import (
    CellRow,
    FlagRow,
    ForecastRow,
    MorePairs,
    SplitHalf,
    Systematics,
    TradeoffRow,
)

__all__ = ["Evidence"]

GOOD_DISTANCE = 0.3
LABEL_RED, LABEL_AMBER = 0.2, 0.1
MOST_CHANGED, SOME_CHANGED = 0.6, 0.35
FEW_REMOVED = 0.5
CHANCE = 0.53  # likeness of random partners, which share a side now and then
BROKEN_SHARE = 0.1
MUCH_LEFT, SOME_LEFT = 3.0, 2.0
BROKEN = ("duplicate", "failed edit", "outlier", "wrong match")


@dataclass(frozen=True)
class Evidence:
    """Everything that the verdict rests on; see `PairQuality`.

    `core` is the number of directions that hold the environment's shift; the reliability figures are
    theirs. `n_sources` counts clusters of sound pairs, `bend` is how far the directions move when long
    pairs are shortened, `turn` how far uneven noise turns them, `uneven` that nothing tells signal from
    uneven noise, `edge_rank` counts directions over the isotropic edge.
    """

    n_pairs: int
    n_sources: int
    dim: int
    rank: int
    core: int
    recommended_r: int
    confident: bool
    split_half: SplitHalf | None
    misalignment: float | None
    tradeoff: tuple[TradeoffRow, ...]
    labels: LabelCheck
    partners: Partners | None
    bend: float
    edge_rank: int
    systematics: Systematics
    more: MorePairs
    has_labels: bool
    has_environments: bool
    forecast: tuple[ForecastRow, ...]
    flags: tuple[FlagRow, ...]
    cells: tuple[CellRow, ...]
    turn: float = 0.0
    uneven: bool = False

    @property
    def row(self) -> TradeoffRow | None:
        """Trade-off at the recommended r."""
        return next((row for row in self.tradeoff if row.r == self.recommended_r), None)

    @property
    def core_row(self) -> TradeoffRow | None:
        """Trade-off of the core directions."""
        return next((row for row in self.tradeoff if row.r == self.core), None)

    @property
    def label_lost(self) -> float | None:
        """Share of the label signal, shortcut set aside, that goes with the core directions."""
        return None if self.core_row is None else self.core_row.label_removed_deconfounded

    @property
    def artefact(self) -> float | None:
        """Mean cosine of the core directions with those of control pairs."""
        return self.systematics.control_overlap

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
