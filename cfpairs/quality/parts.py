"""What an assessment of pairs is made of: one frozen row a finding, plain numbers and words only."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "CellRow",
    "DirectionRow",
    "DropRow",
    "FlagRow",
    "ForecastRow",
    "GroupSplit",
    "MetricFit",
    "MorePairs",
    "RankChecks",
    "RobustRow",
    "SplitHalf",
    "Systematics",
    "TermTwo",
    "TradeoffRow",
    "Wedin",
]


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
    """One thing that looks wrong with one pair: which, how strongly, and why in words.

    Attributes
    ----------
    pair_id, flag : str
    score : float
        In the unit of its kind, as the reason says.
    reason : str
    severity : float
        How far the score is beyond the limit of its kind, 1 at the limit; comparable between kinds.
    """

    pair_id: str
    flag: str
    score: float
    reason: str
    severity: float = 1.0


@dataclass(frozen=True)
class MetricFit:
    """A metric that the spectrum could be measured in, and how far its noise is from even noise there.

    Attributes
    ----------
    metric : str
    misfit : float
        Kolmogorov-Smirnov distance of the bulk to the Marchenko-Pastur law; over about .1 it is uneven.
    """

    metric: str
    misfit: float


@dataclass(frozen=True)
class RankChecks:
    """What each rule would take for the number of directions above the noise, in the same metric.

    Attributes
    ----------
    sign_flips : int
        Deflated sign flips; the default.
    tracy_widom : int
        Over the edge of even noise; more than by sign flips where the noise is uneven.
    gavish_donoho : int
        Over the threshold that denoises best for even noise; fewer, as weak directions are dropped.
    screenot : int or None
        Over the threshold that denoises best for any noise; more than by sign flips where pairs are
        heavy-tailed or the metric is wrong. None where too little noise is left to tell its shape.
    numerical : int
        That rounding cannot explain; no rule goes beyond.
    flip_pa : int
        Stronger than sign flips without taking directions out one by one; one strong direction hides others.
    eigenvalue_ratio : int
        Before the largest ratio of two eigenvalues; never 0, and one strong direction makes it 1.
    bi_cross_validation : int or None
        That best foretell a quarter of the entries from the others; fewer, as weak directions are dropped.
        None where the pairs are read in blocks, of few pairs, and where resampling is left out.
    """

    sign_flips: int
    tracy_widom: int
    gavish_donoho: int
    screenot: int | None
    numerical: int
    flip_pa: int
    eigenvalue_ratio: int
    bi_cross_validation: int | None


@dataclass(frozen=True)
class DirectionRow:
    """One direction above the noise.

    Attributes
    ----------
    strength : float or None
        Signal-to-noise ratio ``x^2`` in the metric; None without noise, 0 where even noise would hide it.
    by_halves, by_model, by_bulk : float or None
        Estimated cosine with the true direction: by comparing halves of the pairs, for even noise, and for
        noise as the rest of the spectrum shows it. None where it cannot be told.
    frequency : float or None
        Share of subsamples of 80 % of the pairs that show it too.
    """

    strength: float | None
    by_halves: float | None
    by_model: float | None
    by_bulk: float | None
    frequency: float | None


@dataclass(frozen=True)
class RobustRow:
    """The first r directions of the pairs with long ones shortened, next to the plain ones.

    Attributes
    ----------
    r : int
    distance : float
        Root mean squared sine between the two; over .3 a few long pairs decide.
    environment_removed, label_removed_deconfounded : float or None
        As in `TradeoffRow`, for the robust directions.
    """

    r: int
    distance: float
    environment_removed: float | None
    label_removed_deconfounded: float | None


@dataclass(frozen=True)
class TermTwo:
    """Change of a probe's logit that the removal leaves: the second term of the bound on the test risk.

    Attributes
    ----------
    value : float
        Estimate of ``theta^T (second moment of the signal) theta``, the mean squared change over a pair by
        what it shows beside noise; each pair under a probe whose directions did not see it.
    error : float
        Its standard error over the pairs.
    model : float or None
        ``||theta||^2 sigma^2 sum x^2 (1 - c^2)``: the same if noise is even and the probe has no preferred
        direction.
    norm : float
        Length of the probe's weights theta.
    held_out : bool
        Whether pairs were held out; without it the value is too low.
    shift : float
        Size of the shift in use, in shifts of the pairs, as the caller expects it.
    in_use : float
        ``shift^2 value``: the mean squared change over a shift of that size.
    """

    value: float
    error: float
    model: float | None
    norm: float
    held_out: bool
    shift: float
    in_use: float


@dataclass(frozen=True)
class Wedin:
    """Whether Wedin's theorem may be used: the noise is at most .29 of the weakest direction's strength.

    Attributes
    ----------
    noise : float
        Largest singular value of the noise.
    gap : float
        Weakest singular value of the signal.
    applies : bool
    bound : float or None
        Largest sine of the directions that follows, where it applies.
    """

    noise: float
    gap: float
    applies: bool
    bound: float | None


@dataclass(frozen=True)
class GroupSplit:
    """Directions of pairs split by what they come from, against random halves.

    Attributes
    ----------
    by : str
        ``maker``, ``source``, ``environment`` or ``label``.
    distance, chance : float
        ``sqrt(1 - mean cosine)`` between the two parts, and between random parts of the same sizes.
    p : float
        Share of random splits that are as far apart.
    """

    by: str
    distance: float
    chance: float
    p: float


@dataclass(frozen=True)
class Systematics:
    """Marks that all pairs or groups of them share.

    Attributes
    ----------
    mean_share : float or None
        Part of the differences' squared length that is their common mean, sides ordered by environment.
    mean_p : float or None
        Share of random sign changes that give as long a mean; small: the pairs share a direction.
    control_overlap : float or None
        Mean cosine of the directions with those of control pairs.
    splits : tuple of GroupSplit
    """

    mean_share: float | None
    mean_p: float | None
    control_overlap: float | None
    splits: tuple[GroupSplit, ...]


@dataclass(frozen=True)
class MorePairs:
    """Whether more pairs of the same kind would help, and how many.

    Attributes
    ----------
    target : float
        Misalignment to reach.
    n_pairs : int or None
        Pairs in all that reach it; None where that is unknown or no number would.
    low, high : int or None
        Range for it.
    cannot_help : tuple of str
        Why more of the same cannot mend what is wrong; empty where nothing speaks against them.
    """

    target: float
    n_pairs: int | None
    low: int | None
    high: int | None
    cannot_help: tuple[str, ...]


@dataclass(frozen=True)
class DropRow:
    """The main figures without the worst flagged pairs; row 0 is with all of them."""

    dropped: int
    sigma: float | None
    noise_share: float | None
    rank: int
    misalignment: float | None
    environment_removed: float | None
    label_removed_deconfounded: float | None
    environment_left: float | None


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
