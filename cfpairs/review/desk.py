"""All pairs that can be decided on, worst first, and the decisions of whoever sits at the desk."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

from cfpairs.errors import DataError, UnknownNameError
from cfpairs.review.decisions import BY_HAND, PairSheet
from cfpairs.workspace import Workspace

__all__ = ["ConflictError", "Desk", "Flag"]

SERIOUS = ("failed edit", "duplicate", "label-changing", "outlier", "wrong match", "dominates")
"""Flags from the most to the least damaging; others come after these."""

LISTED = ("ok", "dropped")

_OWN = {"pair_id", "a_id", "b_id", "method", "label", "env_a", "env_b", "status", "reason", "seed"}


class Flag(NamedTuple):
    """What looks wrong with a pair: a name, how strongly, and why in words."""

    flag: str
    score: float
    reason: str


class ConflictError(Exception):
    """The pair was decided on elsewhere since it was shown; ``pair`` is what holds now."""

    def __init__(self, pair: dict[str, Any]) -> None:
        super().__init__("the pair was changed elsewhere")
        self.pair = pair


class Desk:
    """Pair sets of a workspace as rows to be decided on.

    Parameters
    ----------
    workspace : Workspace
        The caller holds its lock.
    names : iterable of str
        Pair sets.
    manifest : pyarrow.Table
        Schema ``MANIFEST``.

    Notes
    -----
    All methods may be called from several threads.
    """

    def __init__(self, workspace: Workspace, names: Iterable[str], manifest: pa.Table) -> None:
        self._lock = threading.RLock()
        self.sheets = {name: PairSheet(workspace.pairs(name)) for name in names}
        self._items = _by_id(manifest)
        self._names = _Names(manifest)
        self._place = {
            name: {pair: i for i, pair in enumerate(sheet.table["pair_id"].to_pylist())}
            for name, sheet in self.sheets.items()
        }
        self._plain = {name: sheet.table.to_pylist() for name, sheet in self.sheets.items()}
        self._flags: dict[str, dict[str, list[Flag]]] = {name: {} for name in self.sheets}
        self.decided = 0

    def set_flags(self, name: str, flags: Iterable[Mapping[str, Any]]) -> None:
        """Take in the reasons of one pair set: rows ``pair_id, flag, score, reason``."""
        found: dict[str, list[Flag]] = {}
        for row in flags:
            flag = Flag(str(row["flag"]), float(row["score"]), str(row["reason"]))
            found.setdefault(str(row["pair_id"]), []).append(flag)
        for several in found.values():
            several.sort(key=_seriousness)
        with self._lock:
            self._flags[name] = found

    def flags(self, name: str) -> dict[str, list[Flag]]:
        """The reasons of one pair set by pair, most serious first."""
        return self._flags[name]

    def kept(self, name: str) -> list[str]:
        """Ids of the pairs that are used as things stand."""
        with self._lock:
            sheet = self.sheets[name]
            ids = sheet.table["pair_id"].to_pylist()
            return [i for i, status in zip(ids, sheet.column("status"), strict=True) if status == "ok"]

    def reviewable(self, name: str) -> list[str]:
        """Ids of the pairs that can be decided on."""
        return [row["pair_id"] for row in self._plain[name] if self._listed(row)]

    def _listed(self, row: Mapping[str, Any]) -> bool:
        return (row.get("built_status") or row["status"]) in LISTED

    def rows(self) -> list[dict[str, Any]]:
        """Every pair that can be decided on, the worst first.

        Flagged pairs come first, by the seriousness of their flag and its score, then the others by their
        score from the lowest; the order does not change with decisions.
        """
        with self._lock:
            found = [
                self._row(name, index)
                for name, plain in self._plain.items()
                for index, row in enumerate(plain)
                if self._listed(row)
            ]
        return sorted(found, key=_badness)

    def counts(self, name: str) -> dict[str, int]:
        """How many pairs are used, dropped by hand, kept by hand, not decided yet and not shown."""
        with self._lock:
            sheet = self.sheets[name]
            said = list(zip(sheet.column("status"), sheet.column("decision"), strict=True))
        listed = len(self.reviewable(name))
        return {
            "used": sum(status == "ok" for status, _ in said),
            "dropped_by_hand": sum(decision == "drop" for _, decision in said),
            "kept_by_hand": sum(decision == "keep" for _, decision in said),
            "to_do": listed - sum(decision is not None for _, decision in said),
            "not_shown": len(said) - listed,
        }

    def _row(self, name: str, index: int) -> dict[str, Any]:
        sheet, plain = self.sheets[name], self._plain[name][index]
        now = sheet.row(index)
        return {
            "pair_set": name,
            "pair_id": plain["pair_id"],
            "method": plain["method"],
            "label": self._names.label(plain["label"]),
            "env_a": self._names.env(plain["env_a"]),
            "env_b": self._names.env(plain["env_b"]),
            "score": _finite(plain["score"]),
            "status": now["status"],
            "reason": now["reason"],
            "decision": now["decision"],
            "note": now["note"],
            "version": sheet.version(index),
            "flags": [flag._asdict() for flag in self._flags[name].get(plain["pair_id"], [])],
        }

    def _find(self, name: str, pair_id: str) -> int:
        try:
            return self._place[name][pair_id]
        except KeyError:
            raise UnknownNameError("no such pair", got=f"{pair_id!r} of {name!r}") from None

    def pair(self, name: str, pair_id: str) -> dict[str, Any]:
        """One pair with its two items and the numbers that its builder left.

        Raises
        ------
        UnknownNameError
            If there is no such pair.
        """
        with self._lock:
            index = self._find(name, pair_id)
            plain = self._plain[name][index]
            numbers = [
                [column.replace("_", " "), value]
                for column, value in plain.items()
                if column not in _OWN and isinstance(value, int | float) and _finite(value) is not None
            ]
            return self._row(name, index) | {
                "a": self._item(plain["a_id"]),
                "b": self._item(plain["b_id"]),
                "numbers": numbers,
            }

    def _item(self, item_id: str) -> dict[str, Any]:
        found = self._items.get(item_id)
        if found is None:
            return {"item_id": item_id, "label": "not known", "env": "not known", "subject": None}
        return {
            "item_id": item_id,
            "label": found["label_name"],
            "env": found["env_name"],
            "subject": found.get("subject"),
        }

    def path(self, item_id: str) -> str | None:
        """Path of an item's image as the manifest has it; empty if it has none, None for no such item."""
        found = self._items.get(item_id)
        return None if found is None else str(found["path"] or "")

    def decide(
        self, name: str, pair_id: str, decision: str | None, note: str | None, version: str
    ) -> dict[str, Any]:
        """Write a decision down; the pair as it is then.

        Raises
        ------
        ConflictError
            If `version` is not that of the pair any more: nothing is changed.
        UnknownNameError, DataError, WorkspaceError
            As `PairSheet.decide`.
        """
        with self._lock:
            index = self._find(name, pair_id)
            sheet = self.sheets[name]
            if version != sheet.version(index):
                raise ConflictError(self._row(name, index))
            plain = self._plain[name][index]
            if decision == "keep" and not {plain["a_id"], plain["b_id"]} <= self._items.keys():
                raise DataError("an item of the pair is not in the manifest", remedy="it cannot be kept")
            names = [flag.flag for flag in self._flags[name].get(pair_id, [])]
            because = f"{BY_HAND}: {', '.join(names)}" if names else BY_HAND
            sheet.decide(index, decision, note, because)
            self.decided += 1
            return self._row(name, index)


def _by_id(manifest: pa.Table) -> dict[str, dict[str, Any]]:
    columns = ["item_id", "path", "label_name", "env_name", "subject"]
    rows = manifest.select([c for c in columns if c in manifest.column_names]).to_pylist()
    return {row["item_id"]: row for row in rows}


class _Names:
    """Names of labels and environments."""

    def __init__(self, manifest: pa.Table) -> None:
        def named(code: str, name: str) -> dict[int, str]:
            return dict(zip(manifest[code].to_pylist(), manifest[name].to_pylist(), strict=True))

        self._labels, self._envs = named("label", "label_name"), named("env", "env_name")

    def label(self, code: int | None) -> str:
        return "not known" if code is None else self._labels.get(code, str(code))

    def env(self, code: int | None) -> str:
        return "not known" if code is None else self._envs.get(code, str(code))


def _seriousness(flag: Flag) -> tuple[int, float]:
    rank = SERIOUS.index(flag.flag) if flag.flag in SERIOUS else len(SERIOUS)
    return rank, -flag.score


def _badness(row: Mapping[str, Any]) -> tuple[Any, ...]:
    flags, score = row["flags"], row["score"]
    worst = _seriousness(Flag(**flags[0])) if flags else (len(SERIOUS) + 1, 0.0)
    return (*worst, score is None, score if score is not None else 0.0, row["pair_set"], row["pair_id"])


def _finite(value: Any) -> float | int | None:
    if value is None or isinstance(value, bool) or value != value or abs(value) == float("inf"):
        return None
    number: float | int = value
    return number
