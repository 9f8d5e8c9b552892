"""What an assessment of pairs says, as plain frozen data."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from cfpairs.notebook import html_table

__all__ = [
    "LEVELS",
    "CellRow",
    "FlagRow",
    "ForecastRow",
    "PairQuality",
    "SplitHalf",
    "TradeoffRow",
    "Verdict",
]

LEVELS = ("good", "usable", "needs_pairs", "fix_pairs", "changes_label")


@dataclass(frozen=True)
class TradeoffRow:
    """What removing the first `r` directions takes away: shares from 0 to 1, None where not measurable.

    Attributes
    ----------
    r : int
        Number of directions removed.
    environment_removed : float or None
        Of the squared distance between the environments' means, within labels.
    label_removed : float or None
        Of the labels' squared Mahalanobis separation in the training items, shortcut included.
    label_removed_deconfounded : float or None
        The same where every label occurs equally in every environment: the price of the removal.
    variance_removed : float or None
        Of the variance of the training items.
    environment_left : float or None
        What stays of the distance between the environments, over the distance between the labels; both in
        units of the variation within groups, the first measured on items, and on pairs that the directions
        were not found from. Over 1 the shortcut is still stronger than the label.
    """

    r: int
    environment_removed: float | None
    label_removed: float | None
    label_removed_deconfounded: float | None
    variance_removed: float | None
    environment_left: float | None = None


@dataclass(frozen=True)
class ForecastRow:
    """Expected misalignment with `n_pairs` pairs like these, and a range for it."""

    n_pairs: int
    misalignment: float
    low: float
    high: float


@dataclass(frozen=True)
class FlagRow:
    """One thing that looks wrong with one pair: which, how strongly, and why in words."""

    pair_id: str
    flag: str
    score: float
    reason: str


@dataclass(frozen=True)
class CellRow:
    """How many pairs there are of one label from one environment to another.

    Attributes
    ----------
    label, env_a, env_b : int
        Codes of the pairs' label and of the environments of their two sides.
    n_pairs : int
    n_items : int or None
        Training items with this label in environment b: few of them, and the pairs carry the cell alone.
    covered : float or None
        Share of the squared length of the cell's mean difference that the first directions found *without*
        this cell span; a low one means that a shortcut is seen in this cell only. None where it cannot be
        told.
    """

    label: int
    env_a: int
    env_b: int
    n_pairs: int
    n_items: int | None
    covered: float | None


@dataclass(frozen=True)
class SplitHalf:
    """Agreement of the directions found in random halves of the pairs, averaged over the halvings.

    It measures reproducibility, not validity: an artefact that every pair shares looks perfect.

    Attributes
    ----------
    r : int
        Number of directions compared.
    cosine : float
        Mean cosine of the principal angles; unrelated subspaces give about ``sqrt(r / d)``.
    distance : float
        ``sqrt(1 - cosine)``: how far one half's directions are from the true ones, as both halves err alike.
    misalignment : float
        How far the directions of all pairs together are from the true ones.
    spread : float
        Standard deviation of the cosine over the halvings.
    cosines : tuple of float
        Length of each direction of one half within the subspace of the other, strongest direction first.
    repeats : int
        Number of halvings.
    """

    r: int
    cosine: float
    distance: float
    misalignment: float
    spread: float
    cosines: tuple[float, ...]
    repeats: int


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
    alignment : tuple of float
        Cosine of each found direction, up to the rank, with the true ones.
    misalignment : float or None
        Root mean squared sine between the directions that hold the environment's shift (`split_half.r` of
        them) and the true ones; 0 is right, 1 unrelated.
    forecast : tuple of ForecastRow
        Misalignment of as many directions to expect with more pairs.
    tradeoff : tuple of TradeoffRow
        What removing the first r directions takes away.
    split_half : SplitHalf or None
        Agreement between random halves of the pairs on the directions that hold the environment's shift.
    flags : tuple of FlagRow
        Pairs to look at.
    cells : tuple of CellRow
        Pairs for each label and ordered pair of environments.
    verdict : Verdict
    advice : tuple of str
        What to do and why, most important first; plain sentences.
    """

    n_pairs: int
    dim: int
    metric: str
    singular_values: tuple[float, ...]
    sigma: float | None
    noise_edge: float | None
    noise_share: float | None
    rank: int
    rank_interval: tuple[int, int]
    recommended_r: int
    alignment: tuple[float, ...]
    misalignment: float | None
    forecast: tuple[ForecastRow, ...]
    tradeoff: tuple[TradeoffRow, ...]
    split_half: SplitHalf | None
    flags: tuple[FlagRow, ...]
    cells: tuple[CellRow, ...]
    verdict: Verdict
    advice: tuple[str, ...]

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
