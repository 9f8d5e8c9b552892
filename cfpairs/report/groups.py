"""Groups (label x environment) with their counts, and warnings about those that are empty or tiny."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cfpairs.report.model import CellView, GroupView
from cfpairs.report.values import as_float, as_int, as_rows
from cfpairs.report.words import join

__all__ = ["TINY", "Names", "cell_views", "group_views", "group_warnings", "splits_of"]

TINY = 20
"""Below this count a 95 % interval of an accuracy is wider than 40 points (Wilson, at one half)."""

SPLIT_ORDER = ("train", "val", "test")

EMPTY_MEANS = {
    "train": "the probe never sees this case",
    "val": "rules that use the validation split cannot judge this case",
    "test": "it is left out of the worst group, which may therefore be worse than shown",
}
TINY_MEANS = {
    "train": "the probe hardly sees this case",
    "val": "rules that use the validation split judge this case by chance",
    "test": "its accuracy is uncertain by 20 points or more either way",
}


@dataclass(frozen=True)
class Names:
    """Names of labels and environments by their codes."""

    labels: Mapping[Any, str]
    envs: Mapping[Any, str]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> Names:
        """The names that the rows of group counts give."""
        return cls(dict(_names(rows, "label", "label_name")), dict(_names(rows, "env", "env_name")))

    def label(self, code: object) -> str:
        """The name of a label, else its code."""
        return self.labels.get(code, "unknown label" if code is None else str(code))

    def env(self, code: object) -> str:
        """The name of an environment, else its code."""
        return self.envs.get(code, "unknown environment" if code is None else str(code))


def cell_views(cells: object, names: Names) -> tuple[CellView, ...]:
    """Rows ``label``, ``env_a``, ``env_b``, ``n_pairs``, ``n_items``, ``covered``, with names for codes."""
    return tuple(
        CellView(
            names.label(row.get("label")),
            names.env(row.get("env_a")),
            names.env(row.get("env_b")),
            as_int(row.get("n_pairs")) or 0,
            as_int(row.get("n_items")),
            as_float(row.get("covered")),
        )
        for row in as_rows(cells)
    )


def splits_of(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The splits that occur, in the usual order."""
    found = {str(row.get("split")) for row in rows}
    return (*(s for s in SPLIT_ORDER if s in found), *sorted(found - set(SPLIT_ORDER)))


def group_views(rows: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> tuple[GroupView, ...]:
    """Every label crossed with every environment; a group without a row counts 0."""
    labels = _names(rows, "label", "label_name")
    envs = _names(rows, "env", "env_name")
    counts: dict[tuple[Any, Any, str], int] = {}
    for row in rows:
        key = (row.get("label"), row.get("env"), str(row.get("split")))
        counts[key] = counts.get(key, 0) + (as_int(row.get("n")) or 0)
    return tuple(
        GroupView(label_name, env_name, {split: counts.get((label, env, split), 0) for split in splits})
        for label, label_name in labels
        for env, env_name in envs
    )


def _names(rows: Sequence[Mapping[str, Any]], key: str, name: str) -> list[tuple[Any, str]]:
    found: dict[Any, str] = {}
    for row in rows:
        code = row.get(key)
        found.setdefault(code, str(row.get(name) if row.get(name) is not None else code))
    return sorted(found.items(), key=_code_order)


def _code_order(item: tuple[Any, str]) -> tuple[bool, int, str]:
    code = as_int(item[0])
    return code is None, code or 0, item[1]


def group_warnings(rows: Sequence[Mapping[str, Any]], splits: Sequence[str]) -> tuple[str, ...]:
    """One sentence for each split that has empty groups, and one for each that has tiny ones."""
    groups = group_views(rows, splits)
    warnings = []
    for split in splits:
        empty = [g for g in groups if g.counts[split] == 0]
        tiny = [g for g in groups if 0 < g.counts[split] < TINY]
        if empty:
            warnings.append(
                f"No {split} item in {_listed(empty, None)}: "
                f"{EMPTY_MEANS.get(split, 'nothing can be said about it')}."
            )
        if tiny:
            warnings.append(
                f"Fewer than {TINY} {split} items in {_listed(tiny, split)}: "
                f"{TINY_MEANS.get(split, 'figures about it are uncertain')}."
            )
    return tuple(warnings)


def _listed(groups: Sequence[GroupView], split: str | None, most: int = 4) -> str:
    parts = [
        f"{g.label_name} in {g.env_name}" + (f" ({g.counts[split]})" if split else "") for g in groups[:most]
    ]
    if len(groups) > most:
        parts.append(f"{len(groups) - most} more group{'s' if len(groups) > most + 1 else ''}")
    return join(parts)
