"""Which pairs to show: a spread of the sound ones, and those that were set apart, by reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cfpairs.report.groups import Names
from cfpairs.report.model import FlagView, Item, PairGroup, PairView
from cfpairs.report.values import as_float, as_rows
from cfpairs.report.words import flag_meaning, status_meaning

__all__ = ["Gallery", "gallery_of", "image_or_none"]

T = TypeVar("T")


class Gallery(NamedTuple):
    """The pairs to show, and how many there are of each kind."""

    sound: tuple[PairView, ...]
    apart: tuple[PairGroup, ...]
    n_sound: int
    n_apart: int


def gallery_of(
    pairs: Sequence[Mapping[str, Any]],
    quality: Mapping[str, Any],
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
    limit: int,
    names: Names,
) -> Gallery:
    """Choose at most `limit` sound pairs and `limit` others; the same input gives the same choice.

    Sound pairs are taken at even steps through the table. A pair is set apart if its status is not
    ``ok`` or the quality flagged it. Those are grouped by their gravest flag, else by their status, the
    gravest group first, and the `limit` is shared out among the groups.
    """
    flags: dict[str, list[Mapping[str, Any]]] = {}
    for flag in as_rows(quality.get("flags")):
        flags.setdefault(str(flag.get("pair_id")), []).append(flag)
    sound: list[Mapping[str, Any]] = []
    apart: list[Mapping[str, Any]] = []
    for pair in pairs:
        broken = pair.get("status") != "ok" or str(pair.get("pair_id")) in flags
        (apart if broken else sound).append(pair)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for pair in sorted(apart, key=lambda pair: _severity(flags.get(str(pair.get("pair_id")), []))):
        groups.setdefault(_kind(pair, flags.get(str(pair.get("pair_id")), [])), []).append(pair)

    def view(pair: Mapping[str, Any]) -> PairView:
        return _view(pair, flags.get(str(pair.get("pair_id")), []), image_of, item_of, names)

    return Gallery(
        tuple(view(pair) for pair in _evenly(sound, limit)),
        tuple(
            PairGroup(
                name,
                flag_meaning(name) or status_meaning(name),
                tuple(map(view, members[:most])),
                len(members),
            )
            for (name, members), most in zip(
                groups.items(), _shares([len(m) for m in groups.values()], limit), strict=True
            )
        ),
        len(sound),
        len(apart),
    )


def _weight(flag: Mapping[str, Any]) -> float:
    severity = as_float(flag.get("severity"))
    return (as_float(flag.get("score")) or 0.0) if severity is None else severity


def _severity(flags: Sequence[Mapping[str, Any]]) -> tuple[bool, float]:
    return not flags, -max(map(_weight, flags), default=0.0)


def _kind(pair: Mapping[str, Any], flags: Sequence[Mapping[str, Any]]) -> str:
    """The reason that a pair is shown under."""
    if flags:
        return str(max(flags, key=_weight).get("flag") or "flagged")
    return "dropped by hand" if pair.get("decision") == "drop" else str(pair.get("status"))


def _shares(sizes: Sequence[int], limit: int) -> list[int]:
    """How many of each group are shown, one at a time in turn until `limit` is used up."""
    found = [0] * len(sizes)
    left = max(limit, 0)
    while left > 0 and any(have < size for have, size in zip(found, sizes, strict=True)):
        for i, size in enumerate(sizes):
            if left > 0 and found[i] < size:
                found[i] += 1
                left -= 1
    return found


def _evenly(rows: Sequence[T], limit: int) -> list[T]:
    """At most `limit` rows at even steps, the first one included."""
    if limit <= 0:
        return []
    if len(rows) <= limit:
        return list(rows)
    return [rows[i * len(rows) // limit] for i in range(limit)]


def _view(
    pair: Mapping[str, Any],
    flags: Sequence[Mapping[str, Any]],
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
    names: Names,
) -> PairView:
    a = _item(str(pair.get("a_id")), names.env(pair.get("env_a")), image_of, item_of)
    b = _item(str(pair.get("b_id")), names.env(pair.get("env_b")), image_of, item_of)
    label = _row_of(a.item_id, item_of).get("label_name") or names.label(pair.get("label"))
    notes = [str(pair["reason"])] if pair.get("reason") else []
    return PairView(
        pair_id=str(pair.get("pair_id")),
        label_name=str(label),
        a=a,
        b=b,
        score=as_float(pair.get("score")),
        status=str(pair.get("status")),
        notes=tuple(notes),
        flags=tuple(
            FlagView(
                str(flag.get("flag") or "flagged"),
                str(flag.get("reason") or ""),
                as_float(flag.get("score")),
                as_float(flag.get("severity")),
            )
            for flag in flags
        ),
    )


def _item(
    item_id: str,
    env_name: str,
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
) -> Item:
    name = _row_of(item_id, item_of).get("env_name") or env_name
    return Item(item_id, image_or_none(item_id, image_of), str(name))


def image_or_none(item_id: str, image_of: Callable[[str], Path | None]) -> Path | None:
    """The image of an item; None for an item that nobody knows."""
    try:
        return image_of(item_id)
    except KeyError:
        return None


def _row_of(item_id: str, item_of: Callable[[str], dict[str, Any]]) -> Mapping[str, Any]:
    try:
        return item_of(item_id) or {}
    except KeyError:
        return {}
