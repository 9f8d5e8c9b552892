"""Which pairs to show: a spread of the sound ones, and those that were set apart with the reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from cfpairs.report.groups import Names
from cfpairs.report.model import Item, PairView
from cfpairs.report.values import as_float, as_rows

__all__ = ["Gallery", "gallery_of"]

T = TypeVar("T")


class Gallery(NamedTuple):
    """The pairs to show, and how many there are of each kind."""

    sound: tuple[PairView, ...]
    apart: tuple[PairView, ...]
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
    ``ok`` or the quality flagged it; flagged ones come first, the worst score leading.
    """
    flags: dict[str, list[Mapping[str, Any]]] = {}
    for flag in as_rows(quality.get("flags")):
        flags.setdefault(str(flag.get("pair_id")), []).append(flag)
    sound: list[Mapping[str, Any]] = []
    apart: list[Mapping[str, Any]] = []
    for pair in pairs:
        broken = pair.get("status") != "ok" or str(pair.get("pair_id")) in flags
        (apart if broken else sound).append(pair)
    apart.sort(key=lambda pair: _severity(flags.get(str(pair.get("pair_id")), [])))

    def view(pair: Mapping[str, Any]) -> PairView:
        return _view(pair, flags.get(str(pair.get("pair_id")), []), image_of, item_of, names)

    return Gallery(
        tuple(view(pair) for pair in _evenly(sound, limit)),
        tuple(view(pair) for pair in apart[: max(limit, 0)]),
        len(sound),
        len(apart),
    )


def _severity(flags: Sequence[Mapping[str, Any]]) -> tuple[bool, float]:
    scores = [s for s in (as_float(flag.get("score")) for flag in flags) if s is not None]
    return not flags, -max(scores, default=0.0)


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
    for flag in flags:
        name, reason = flag.get("flag"), flag.get("reason")
        notes.append(f"{name}: {reason}" if name and reason else str(reason or name or "flagged"))
    return PairView(
        pair_id=str(pair.get("pair_id")),
        label_name=str(label),
        a=a,
        b=b,
        score=as_float(pair.get("score")),
        status=str(pair.get("status")),
        notes=tuple(dict.fromkeys(notes)),
    )


def _item(
    item_id: str,
    env_name: str,
    image_of: Callable[[str], Path | None],
    item_of: Callable[[str], dict[str, Any]],
) -> Item:
    name = _row_of(item_id, item_of).get("env_name") or env_name
    try:
        path = image_of(item_id)
    except KeyError:
        path = None
    return Item(item_id, path, str(name))


def _row_of(item_id: str, item_of: Callable[[str], dict[str, Any]]) -> Mapping[str, Any]:
    try:
        return item_of(item_id) or {}
    except KeyError:
        return {}
