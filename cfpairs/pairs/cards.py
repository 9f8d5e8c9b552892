"""The data card that every builder writes: Markdown with what was done and what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cells import Cell, TrainItems

__all__ = ["pair_card"]


def pair_card(
    inputs: BuildInputs,
    items: TrainItems,
    rows: Sequence[Mapping[str, Any]],
    *,
    method: str,
    settings: Mapping[str, object],
    limits: Sequence[str],
    notes: Sequence[str],
) -> str:
    """The card of one pair set.

    Parameters
    ----------
    inputs : BuildInputs
    items : TrainItems
    rows : sequence of mapping
        The rows of the pair set.
    method : str
        How a pair is made, in one or two sentences.
    settings : mapping
        Name and value of every option.
    limits : sequence of str
        Known limits of the method.
    notes : sequence of str
        What went otherwise than asked for.
    """
    counts = Counter(str(row["status"]) for row in rows)
    made = ", ".join(f"{counts[s]} {s}" for s in ("ok", "rejected") if counts[s]) or "none"
    parts = [
        f"# Pair set {inputs.name}",
        method,
        "## Source",
        f"{len(items.ids)} training items: {items.describe_groups()}.",
        "## Settings",
        _table(
            ("setting", "value"),
            [("pairs asked for", inputs.n_pairs), ("seed", inputs.seed), *settings.items()],
        ),
        "## Pairs",
        f"{made}.",
        _table(("label", "from", "to", "ok", "rejected"), _by_cell(items, rows)),
    ]
    reasons = Counter(str(row["reason"]) for row in rows if row["status"] == "rejected")
    if reasons:
        ordered = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))
        parts += ["## Rejected", _table(("reason", "pairs"), ordered)]
    if notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in notes)]
    parts += ["## Known limits", "\n".join(f"- {limit}" for limit in limits)]
    return "\n\n".join(parts) + "\n"


def _by_cell(items: TrainItems, rows: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    counts = Counter((Cell(row["label"], row["env_a"], row["env_b"]), row["status"]) for row in rows)
    return [
        (
            items.label_names[cell.label],
            items.env_names[cell.env_a],
            items.env_names[cell.env_b],
            counts[cell, "ok"],
            counts[cell, "rejected"],
        )
        for cell in sorted({cell for cell, _ in counts})
    ]


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_plain(value) for value in line) + " |" for line in lines)


def _plain(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
