"""What an assessment of pairs says, as plain frozen data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from cfpairs.notebook import html_table
from cfpairs.quality.parts import (
    CellRow,
    DirectionRow,
    DropRow,
    FlagRow,
    ForecastRow,
    GroupSplit,
    MetricFit,
    MorePairs,
    RankChecks,
    RobustRow,
    SplitHalf,
    Systematics,
    TermTwo,
    TradeoffRow,
    Wedin,
)

__all__ = [
    "LEVELS",
    "AdviceRow",
    "CellRow",
    "DirectionRow",
    "DropRow",
    "FlagRow",
    "ForecastRow",
    "GroupSplit",
    "MetricFit",
    "MorePairs",
    "PairQuality",
    "RankChecks",
    "RemarkRow",
    "RobustRow",
    "SplitHalf",
    "Systematics",
    "TermTwo",
    "TradeoffRow",
    "Verdict",
    "Wedin",
]

LEVELS = ("good", "usable", "needs_pairs", "fix_pairs", "changes_label")


@dataclass(frozen=True)
class AdviceRow:
    """One thing to do about the pairs.

    Attributes
    ----------
    kind : str
        ``review`` (look at pairs and drop the wrong ones), ``add`` (more of the same), ``cover`` (more for
        one label and change of environment), ``sources`` (from other sources), ``remake`` (in another way),
        ``mend`` (the way they are made) or ``control`` (make control pairs).
    text : str
        What to do, in the imperative, and the figures that speak for it; one sentence.
    n_pairs : int or None
        How many pairs an ``add`` should come to, where that is known.
    label, env_a, env_b : int or None
        Codes of what the pairs of a ``cover`` should show.
    """

    kind: str
    text: str
    n_pairs: int | None = None
    label: int | None = None
    env_a: int | None = None
    env_b: int | None = None


@dataclass(frozen=True)
class RemarkRow:
    """One thing that is worth knowing and asks for nothing.

    Attributes
    ----------
    about : str
        ``removal`` (what removing takes), ``missing`` (what could not be measured), ``noise`` (what stands
        above it) or ``reliability``.
    text : str
        One sentence.
    """

    about: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """The answer in one word and one sentence.

    Attributes
    ----------
    level : str
        One of `LEVELS`.
    text : str
        One sentence with the figures that decided.
    recommended_r : int
        Number of directions to remove; 0 if none should be.
    """

    level: str
    text: str
    recommended_r: int


@dataclass(frozen=True)
class PairQuality:
    """Quality of a set of counterfactual pairs, as `cfpairs.assess_pairs` finds it.

    Attributes
    ----------
    n_pairs, dim : int
        Number of pairs k and of dimensions d.
    n_sources : int
        Number of independent sources: pairs that share a side or a source count once.
    n_control : int
        Number of control pairs that the noise and failed edits were measured by; 0 without any.
    metric : str
        Where the spectrum was measured: ``identity`` (as embedded), ``within-group`` (in units of the
        items' own variation within label and environment) or ``control`` (in units of the control pairs).
    singular_values : tuple of float
        Of the differences in that metric, largest first.
    sigma : float or None
        Noise per dimension of a difference in that metric, taken as equal in all dimensions.
    noise_edge : float or None
        Singular value that noise alone reaches; directions above it count.
    noise_share : float or None
        Part of the differences' energy in that metric that is noise, 0 to 1.
    rank : int
        Number of directions above the noise. It bounds the number to remove; it is not that number.
    rank_interval : tuple of int
        Range for the rank; directions too weak to detect are in neither.
    recommended_r : int
        Number of directions whose removal serves the rare groups best.
    metrics : tuple of MetricFit
        Every metric that was tried.
    rank_checks : RankChecks
        What other rules would take for the rank.
    alignment : tuple of float
        Cosine of each found direction, up to the rank, with the true ones.
    directions : tuple of DirectionRow
        What is known of each direction up to the rank.
    misalignment : float or None
        Root mean squared sine between the directions that hold the environment's shift (`split_half.r` of
        them) and the true ones; 0 is right, 1 unrelated.
    noise_turn : float
        Part of the misalignment that uneven noise makes, whose long axes draw the directions as embedded away
        from those that `metric` shows; it does not fall with more pairs.
    noise_uneven : bool
        Whether the noise is uneven and neither items nor control pairs tell signal from it: the rank may
        then be as low as the lower end of its interval.
    forecast : tuple of ForecastRow
        Misalignment of as many directions to expect with more pairs.
    tradeoff : tuple of TradeoffRow
        What removing the first r directions takes away.
    split_half : SplitHalf or None
        Agreement in that metric between random halves of the pairs on the directions that hold the
        environment's shift.
    robust : RobustRow or None
        The directions when long pairs are shortened, next to the plain ones.
    term_two : TermTwo or None
        What is left to a probe of what the pairs show; needs a probe.
    wedin : Wedin or None
    systematics : Systematics
    more_pairs : MorePairs
    flags : tuple of FlagRow
        Pairs to look at, the worst first.
    dropping : tuple of DropRow
        Effect of dropping the worst flagged pairs.
    cells : tuple of CellRow
        Pairs for each label and ordered pair of environments.
    verdict : Verdict
    advice : tuple of AdviceRow
        What to do and why, most important first.
    remarks : tuple of RemarkRow
        What the figures say beside the verdict.
    """

    n_pairs: int
    n_sources: int
    n_control: int
    dim: int
    metric: str
    metrics: tuple[MetricFit, ...]
    singular_values: tuple[float, ...]
    sigma: float | None
    noise_edge: float | None
    noise_share: float | None
    rank: int
    rank_interval: tuple[int, int]
    rank_checks: RankChecks
    recommended_r: int
    alignment: tuple[float, ...]
    directions: tuple[DirectionRow, ...]
    misalignment: float | None
    noise_turn: float
    noise_uneven: bool
    forecast: tuple[ForecastRow, ...]
    tradeoff: tuple[TradeoffRow, ...]
    split_half: SplitHalf | None
    robust: RobustRow | None
    term_two: TermTwo | None
    wedin: Wedin | None
    systematics: Systematics
    more_pairs: MorePairs
    flags: tuple[FlagRow, ...]
    dropping: tuple[DropRow, ...]
    cells: tuple[CellRow, ...]
    verdict: Verdict
    advice: tuple[AdviceRow, ...]
    remarks: tuple[RemarkRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, numbers and strings, fit for JSON; what is not finite becomes None."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}

    def _repr_html_(self) -> str:
        """Small table for notebooks."""
        rows = [
            ("verdict", f"{self.verdict.level}: {self.verdict.text}"),
            ("pairs", f"{self.n_pairs} in {self.dim} dimensions"),
            ("rank", f"{self.rank} ({self.rank_interval[0]} to {self.rank_interval[1]})"),
            ("remove r", str(self.recommended_r)),
            ("noise share", _percent(self.noise_share)),
            ("misalignment", "unknown" if self.misalignment is None else f"{self.misalignment:.2f}"),
            ("flagged pairs", str(len({row.pair_id for row in self.flags}))),
        ]
        return html_table(rows)


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.0f} %"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
