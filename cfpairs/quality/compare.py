"""Pair sets side by side, on as many pairs each: which way of making pairs is the better one here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cfpairs.errors import DataError
from cfpairs.quality.assess import assess_pairs
from cfpairs.quality.result import LEVELS, PairQuality

__all__ = ["ComparisonRow", "compare_sets"]

_REPEATS = 3
_PER_PAIR = ("D", "a", "pair_labels", "clusters", "pair_ids", "makers")


@dataclass(frozen=True)
class ComparisonRow:
    """One pair set on the common number of pairs; means over draws of pairs where it has more.

    Attributes
    ----------
    name : str
    n_pairs : int
        Pairs compared: as many as the smallest set has.
    draws : int
        Times that so many were drawn; 1 where the set has no more.
    level : str
        Verdict of the first draw.
    recommended_r : float
    misalignment : float or None
        Of the directions that hold the environment's shift.
    environment_removed, label_removed_deconfounded, environment_left : float or None
        At the recommended r; see `TradeoffRow`.
    spread : float or None
        Standard deviation of `misalignment` over draws.
    behind : float or None
        How much further its directions are off than those of the best set.
    """

    name: str
    n_pairs: int
    draws: int
    level: str
    recommended_r: float
    misalignment: float | None
    environment_removed: float | None
    label_removed_deconfounded: float | None
    environment_left: float | None
    spread: float | None
    behind: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings."""
        return asdict(self)


def compare_sets(
    sets: Mapping[str, Mapping[str, Any]],
    *,
    known: Mapping[str, PairQuality] | None = None,
    repeats: int = _REPEATS,
    seed: int = 0,
) -> tuple[ComparisonRow, ...]:
    """Assess pair sets on equal numbers of pairs.

    Parameters
    ----------
    sets : mapping of str to mapping
        Arguments of `assess_pairs` for each set, `D` among them.
    known : mapping of str to PairQuality, optional
        Assessments of the whole sets, to save the time where a set need not be made smaller.
    repeats : int
        Draws of pairs from a set that has more.
    seed : int

    Returns
    -------
    tuple of ComparisonRow
        By verdict, good pairs first, and then by how far the directions are off.

    Raises
    ------
    DataError
        If a set has no pair.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> signal = 9 * rng.normal(size=(80, 1)) * np.eye(30)[0]
    >>> noisy, clean = (signal + noise * rng.normal(size=(80, 30)) for noise in (3.0, 1.0))
    >>> [row.name for row in compare_sets({"noisy": {"D": noisy}, "clean": {"D": clean[:60]}})]
    ['clean', 'noisy']
    """
    sizes = {name: len(given["D"]) for name, given in sets.items()}
    empty = [name for name, size in sizes.items() if size == 0]
    if empty:
        raise DataError("a pair set without pairs cannot be compared", got=empty[0])
    k = min(sizes.values(), default=0)
    rows = []
    for number, (name, given) in enumerate(sets.items()):
        if sizes[name] == k and known is not None and name in known:
            found = [known[name]]
        else:
            rng = np.random.default_rng([seed, 14, number])
            draws = 1 if sizes[name] == k else repeats
            parts = [np.sort(rng.permutation(sizes[name])[:k]) for _ in range(draws)]
            found = [assess_pairs(**_part(given, part), seed=seed, draws=0) for part in parts]
        rows.append(_row(name, k, found))
    return _ranked(rows)


def _part(given: Mapping[str, Any], rows: Any) -> dict[str, Any]:
    found = dict(given)
    for name in _PER_PAIR:
        if found.get(name) is not None:
            values = found[name]
            found[name] = [values[i] for i in rows] if isinstance(values, (list, tuple)) else values[rows]
    envs = found.get("pair_envs")
    if envs is not None:
        found["pair_envs"] = tuple(np.asarray(e)[rows] for e in (envs if isinstance(envs, tuple) else envs.T))
    return found


def _row(name: str, k: int, found: list[PairQuality]) -> ComparisonRow:
    at = [next((row for row in q.tradeoff if row.r == q.recommended_r), None) for q in found]

    def mean(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    several = [q.misalignment for q in found if q.misalignment is not None]
    return ComparisonRow(
        name=name,
        n_pairs=k,
        draws=len(found),
        level=found[0].verdict.level,
        recommended_r=float(np.mean([q.recommended_r for q in found])),
        misalignment=mean([q.misalignment for q in found]),
        environment_removed=mean([None if row is None else row.environment_removed for row in at]),
        label_removed_deconfounded=mean(
            [None if row is None else row.label_removed_deconfounded for row in at]
        ),
        environment_left=mean([None if row is None else row.environment_left for row in at]),
        spread=float(np.std(several, ddof=1)) if len(several) > 1 else None,
        behind=None,
    )


def _ranked(rows: list[ComparisonRow]) -> tuple[ComparisonRow, ...]:
    def key(row: ComparisonRow) -> tuple[int, float]:
        return LEVELS.index(row.level), 2.0 if row.misalignment is None else row.misalignment

    ordered = sorted(rows, key=key)
    best = ordered[0].misalignment if ordered else None
    return tuple(
        row
        if best is None or row.misalignment is None
        else ComparisonRow(**{**row.to_dict(), "behind": row.misalignment - best})
        for row in ordered
    )
