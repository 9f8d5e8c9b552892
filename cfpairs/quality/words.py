"""Small pieces of the sentences."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["agree", "count", "directions", "listed", "percent"]


def directions(count: int) -> str:
    """``direction`` or ``3 directions``."""
    return "direction" if count == 1 else f"{count} directions"


def agree(count: int, one: str, many: str) -> str:
    """The form that goes with `count`."""
    return one if count == 1 else many


def count(number: int, noun: str) -> str:
    """``1 pair`` or ``3 pairs``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def percent(share: float) -> str:
    """A share in words, never rounded to all or nothing."""
    if 0.0 < share < 0.005:
        return "under 1 %"
    return "over 99 %" if 0.995 <= share < 1.0 else f"{100.0 * share:.0f} %"


def listed(parts: Sequence[str]) -> str:
    """``a, b and c``."""
    if len(parts) < 2:
        return "".join(parts)
    return ", ".join(parts[:-1]) + " and " + parts[-1]
