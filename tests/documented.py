"""What a document says of a JSON object, and whether an object is like that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

Places = dict[str, dict[str, bool]]


def documented(document: Path) -> dict[str, Places]:
    """For each section and each place in its object: every key, and whether it is always there."""
    found: dict[str, Places] = {}
    section = ""
    for line in document.read_text().splitlines():
        if line.startswith("## "):
            section = line[3:].strip()
            found[section] = {}
        row = re.fullmatch(r"\| `([^`]+)` \| (.+) \|", line)
        if row:
            keys = re.findall(r"`([^`]+)`(\?)?", row[2])
            found[section][row[1]] = {key: not may_lack for key, may_lack in keys}
    return found


def places(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every object within `value`, and where it is."""
    if isinstance(value, dict):
        yield path, value
        for key, inner in value.items():
            yield from places(inner, f"{path}.{key}" if path != "answer" else key)
    elif isinstance(value, list):
        for inner in value:
            yield from places(inner, f"{path}[]")


def check(section: str, answer: Any, document: Path) -> None:
    """Every object of `answer` has the keys that its place is said to have."""
    wanted, seen = documented(document)[section], set()
    for path, found in places(answer, "answer"):
        place = _known(path, wanted)
        if place is None:
            outer = [p for p in wanted if path.startswith((f"{p}.", f"{p}["))]
            free = [p for p in outer if wanted[p] == {"…": True}]
            assert free, f"{section}: {path} with {sorted(found)} is not documented"
            continue
        keys = wanted[place]
        seen.add(place)
        if keys == {"…": True}:
            continue
        always = {key for key, needed in keys.items() if needed}
        assert always <= set(found) <= set(keys), f"{section}: {path}: {set(found) ^ set(keys)}"
    assert "answer" in seen


def _known(path: str, wanted: Places) -> str | None:
    """The documented place of a path: its own, or one with ``…`` for a name in it."""
    if path in wanted:
        return path
    for place in wanted:
        if "…" in place and re.fullmatch(re.escape(place).replace("…", r"[^.\[\]]+"), path):
            return place
    return None
