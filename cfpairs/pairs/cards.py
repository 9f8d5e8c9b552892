"""The data card that every builder writes: Markdown with what was done and what came of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cells import TrainItems, cell_counts
from cfpairs.tables import STATUSES

__all__ = ["pair_card"]

ASKED = "pairs asked for"
"""A builder for which the number means something else gives its own setting of this name."""

SPECIAL = re.compile(r"[\\`*|~\[\]<>]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|&(?=#?\w+;)")
"""What Markdown or HTML would read as its own; an underscore within a word is none."""

LEADING = re.compile(r"^(?:#+(?=\s)|[-+](?=\s|$)|=+|>|\d+(?=[.)]\s))")
"""What makes a heading, a list or a quotation at the beginning of a line."""


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

    Returns
    -------
    str
        Markdown. Names of labels, environments, files and settings stand in it as plain text, whatever
        characters they have. Rejected pairs are counted by the part of their reason before the first colon.
    """
    head = {ASKED: inputs.n_pairs, "seed": inputs.seed}
    parts = [
        f"# Pair set {plain(inputs.name)}",
        plain(method),
        "## Source",
        f"{len(items.ids)} training items: {plain(items.describe_groups())}.",
        f"Licence: {plain(inputs.licence) if inputs.licence else 'not known'}",
        "## Settings",
        _table(("setting", "value"), [*(head | dict(settings)).items()]),
        "## Pairs",
        _yield(rows),
        _by_cell(inputs, rows),
    ]
    reasons = _reasons(rows)
    if reasons:
        parts += ["## Rejected", _table(("reason", "pairs", "such as"), reasons)]
    if notes:
        parts += ["## Notes", _list(notes)]
    parts += ["## Known limits", _list(limits)]
    return "\n\n".join(parts) + "\n"


def plain(value: object) -> str:
    r"""`value` on one line, as Markdown that shows it as it is and makes nothing of it.

    Examples
    --------
    >>> print(plain("a|b <img src=x> *bold* snake_case"))
    a\|b \<img src=x\> \*bold\* snake_case
    """
    text = SPECIAL.sub(lambda found: "\\" + found.group(), " ".join(str(value).split()))
    return LEADING.sub(lambda found: found.group()[:-1] + "\\" + found.group()[-1], text)


def _yield(rows: Sequence[Mapping[str, Any]]) -> str:
    counts = Counter(str(row["status"]) for row in rows)
    tried = counts["ok"] + counts["rejected"]
    if not tried:
        return "none."
    said = ", ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
    return f"{said}. Yield: {counts['ok']} of {tried} tried, {100 * counts['ok'] / tried:.1f} %."


def _by_cell(inputs: BuildInputs, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = cell_counts(rows, inputs.manifest)
    more = ["dropped"] if any(cell["dropped"] for cell in cells) else []
    names = ("label_name", "env_a_name", "env_b_name")
    lines = [
        [*("not known" if cell[n] is None else cell[n] for n in names), cell["ok"], cell["rejected"]]
        + [cell[n] for n in more]
        for cell in cells
    ]
    return _table(("label", "from", "to", "ok", "rejected", *more), lines)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> list[tuple[object, ...]]:
    """Kind of reason, number of pairs and the first one's details; the most frequent kind first."""
    counts: Counter[str] = Counter()
    details: dict[str, str] = {}
    for row in rows:
        if row["status"] == "rejected":
            kind, _, detail = str(row["reason"]).partition(": ")
            counts[kind] += 1
            details.setdefault(kind, detail)
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return [(kind, count, details[kind]) for kind, count in ordered]


def _table(head: Sequence[object], rows: Sequence[Sequence[object]]) -> str:
    lines = [[plain(value) for value in line] for line in (head, *rows)]
    lines.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {plain(line)}" for line in lines)
