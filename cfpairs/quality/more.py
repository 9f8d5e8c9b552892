"""How many more pairs would reach a target, and what more of the same kind cannot mend."""

from __future__ import annotations

import numpy as np

from cfpairs.quality.forecast import pairs_needed
from cfpairs.quality.reliability import implied_strength
from cfpairs.quality.result import CellRow, MorePairs, SplitHalf, Systematics

__all__ = ["MARKED", "NOTHING", "TARGET", "more_pairs"]

TARGET = 0.3
MARKED = 0.7
"""Cosine with the directions of control pairs from which on these are the pairs' own mark."""

NOTHING = MorePairs(TARGET, None, None, None, ())
"""Where nothing can be said."""

_EXACT = 0.02
_MISSED = 0.5
_DIFFERENT, _SURE = 0.1, 0.02


def more_pairs(
    halves: SplitHalf | None,
    k: int,
    d: int,
    *,
    environment_removed: float | None,
    changes_label: bool,
    systematics: Systematics,
    growth: tuple[int, ...],
    cells: tuple[CellRow, ...],
    turn: float = 0.0,
) -> MorePairs:
    """Pairs that bring the directions within `TARGET` of the true ones, and reasons why they might not help.

    Parameters
    ----------
    halves : SplitHalf or None
        Of the directions that matter, for k pairs in d dimensions.
    environment_removed : float or None
        Share of the environment's shift that these directions hold.
    changes_label : bool
        Whether the pairs change the label.
    systematics : Systematics
    growth : tuple of int
        Rank of a quarter, of half and of all pairs; empty where not counted.
    cells : tuple of CellRow
    turn : float
        How far uneven noise turns the directions, of however many pairs.
    """
    reasons = []
    missing = [cell for cell in cells if cell.n_pairs == 0]
    if environment_removed is not None and environment_removed < _MISSED:
        reasons.append("the pairs do not show what changes with the environment")
    elif missing:
        reasons.append("labels without pairs between some environments stay unseen")
    if changes_label:
        reasons.append("the pairs change the label")
    if systematics.control_overlap is not None and systematics.control_overlap > MARKED:
        reasons.append("the directions are what making a pair does by itself")
    for split in systematics.splits:
        if split.by == "maker" and split.p <= _SURE and split.distance > split.chance + _DIFFERENT:
            reasons.append("pairs of different makers show different directions")
    if len(growth) == 3 and growth[0] >= 2 and min(growth[1] / growth[0], growth[2] / growth[1]) >= 1.5:
        reasons.append(
            f"ever more directions appear with more of the pairs ({growth[0]}, {growth[1]}, {growth[2]}), as "
            "when the change is not along fixed directions"
        )
    if turn >= TARGET:
        reasons.append(
            "the noise is uneven, and its long axes take the place of directions in however many pairs"
        )
        return MorePairs(TARGET, None, None, None, tuple(reasons))
    if halves is None:
        return MorePairs(TARGET, None, None, None, tuple(reasons))
    if halves.misalignment**2 < _EXACT:
        reasons.append("the directions are nearly exact already")
    middle, low, high = (_needed(halves, shift, k, d) for shift in (0.0, halves.spread, -halves.spread))
    return MorePairs(TARGET, middle, low, high, tuple(reasons))


def _needed(halves: SplitHalf, shift: float, k: int, d: int) -> int | None:
    cosine = min(1.0, max(0.0, halves.cosine + shift))
    strength = float(implied_strength(cosine, k, d, halves.r)[0])
    if np.isinf(strength):
        return 0
    needed = pairs_needed(strength, d, TARGET)
    return int(np.ceil(needed)) if np.isfinite(needed) and needed < 1e9 else None
