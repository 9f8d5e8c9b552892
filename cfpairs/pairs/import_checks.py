"""What becomes of one listed pair: a row of the pair set, and an item for each image that was none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cells import pair_id
from cfpairs.pairs.pair_file import ListedPair
from cfpairs.pairs.references import NewImage, References, UnusableRowError
from cfpairs.registry import suggest
from cfpairs.tables import fingerprint

__all__ = ["RowChecker"]


@dataclass(frozen=True)
class _Names:
    """Labels or environments of a manifest, found by name or by number.

    Parameters
    ----------
    kind : str
        What they are, for messages.
    names : mapping of int to str
    """

    kind: str
    names: Mapping[int, str]

    def number(self, text: str) -> int:
        """The number of what `text` names; a name comes before a number that reads the same.

        Raises
        ------
        UnusableRowError
            If there is no such one.
        """
        by_name = {name: number for number, name in self.names.items()}
        if text in by_name:
            return by_name[text]
        if text.lstrip("-").isdecimal() and int(text) in self.names:
            return int(text)
        raise UnusableRowError(f"no such {self.kind}", f"{text!r}, {suggest(text, tuple(by_name))}")


class RowChecker:
    """Checks one listed pair after the other, and remembers those that it has seen.

    Parameters
    ----------
    inputs : BuildInputs
    splits : sequence of str
        Splits whose items may be in a pair.
    same_env : {"reject", "allow"}
        Whether both sides may be in one environment.
    max_pixels : int
        A new image with more is refused.
    unit : str
        What the lines of the file are called.

    Attributes
    ----------
    split_of : dict of str to str
        The split of every item that is in a usable pair.
    """

    def __init__(
        self,
        inputs: BuildInputs,
        *,
        splits: Sequence[str],
        same_env: Literal["reject", "allow"],
        max_pixels: int,
        unit: str,
    ) -> None:
        manifest = inputs.manifest
        self._inputs, self._splits, self._same_env, self._unit = inputs, splits, same_env, unit
        self._references = References(manifest, inputs.workspace, inputs.root, max_pixels)
        self._labels = _Names("label", _named(manifest, "label"))
        self._envs = _Names("environment", _named(manifest, "env"))
        self._seen: dict[frozenset[str], int] = {}
        self._new: dict[str, dict[str, Any]] = {}
        self.split_of: dict[str, str] = {}

    def check(self, listed: ListedPair) -> dict[str, Any]:
        """The row of the pair set that a row of the file becomes."""
        row: dict[str, Any] = {
            "a_id": listed.a,
            "b_id": listed.b,
            "method": "import",
            "seed": self._inputs.seed,
            "status": "ok",
            "reason": None,
            "line": listed.line,
            "a": listed.a,
            "b": listed.b,
        }
        try:
            self._fill(row, listed)
            row["pair_id"] = pair_id("import", row["a_id"], row["b_id"])
        except UnusableRowError as error:
            row |= {"status": "rejected", "reason": str(error)}
            row["pair_id"] = (
                f"import-{fingerprint('import', row['a_id'], row['b_id'], 'rejected', listed.line)}"
            )
        return row

    def made(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Items for the new images of the usable pairs, in the order of `rows`."""
        used = [item for row in rows if row["status"] == "ok" for item in (row["a_id"], row["b_id"])]
        return [self._new[item] for item in dict.fromkeys(used) if item in self._new]

    def _fill(self, row: dict[str, Any], listed: ListedPair) -> None:
        """Give `row` all that is known of the pair, as far as it is sound."""
        if listed.fault is not None:
            raise UnusableRowError(*listed.fault.split(": ", 1))
        row["score"] = _score(listed.score)
        a, b = (self._item(side, text) for side, text in (("a", listed.a), ("b", listed.b)))
        row["a_id"], row["b_id"] = a["item_id"], b["item_id"]
        if a["item_id"] == b["item_id"]:
            raise UnusableRowError("a pair with itself", f"both are {a['item_id']!r}")
        for side, item in (("a", a), ("b", b)):
            if item["split"] not in self._splits:
                raise UnusableRowError(
                    f"an item of split {item['split']}", f"{side} is {item['item_id']!r} (option 'splits')"
                )
        label = self._label(a, b, listed.label)
        row["label"] = label
        envs = self._environments((a, b), (listed.env_a, listed.env_b))
        row["env_a"], row["env_b"] = envs
        if envs[0] == envs[1] and self._same_env == "reject":
            raise UnusableRowError("both sides in one environment", self._envs.names[envs[0]])
        key = frozenset((a["item_id"], b["item_id"]))
        if key in self._seen:
            raise UnusableRowError("the same pair twice", f"first on {self._unit} {self._seen[key]}")
        self._add((a, b), label, envs)
        self._seen[key] = listed.line

    def _item(self, side: str, text: str) -> Mapping[str, Any]:
        found = self._references.find(side, text)
        if not isinstance(found, NewImage):
            return found
        item_id = f"import-{fingerprint('import', self._inputs.name, found.digest)}"
        return self._new.get(item_id) or {
            "item_id": item_id,
            "path": self._inputs.workspace.relative(found.path),
            "split": "train",
            "label": None,
            "env": None,
            "subject": None,
            "width": found.width,
            "height": found.height,
            "origin": "source",
            "pair_set": self._inputs.name,
        }

    def _label(self, a: Mapping[str, Any], b: Mapping[str, Any], written: str | None) -> int:
        known = {side: item["label"] for side, item in (("a", a), ("b", b)) if item["label"] is not None}
        if written is not None:
            known["the file"] = self._labels.number(written)
        if not known:
            raise UnusableRowError("label not known", "both images are new; add a column 'label'")
        if len(set(known.values())) > 1:
            said = ", ".join(f"{who} says {self._labels.names[n]!r}" for who, n in known.items())
            raise UnusableRowError("labels disagree", said)
        return int(next(iter(known.values())))

    def _environments(
        self, items: tuple[Mapping[str, Any], Mapping[str, Any]], written: tuple[str | None, str | None]
    ) -> tuple[int, int]:
        found: list[int | None] = []
        for side, item, text in zip(("a", "b"), items, written, strict=True):
            said = None if text is None else self._envs.number(text)
            if said is not None and item["env"] not in (None, said):
                raise UnusableRowError(
                    "environments disagree",
                    f"{side} is in {self._envs.names[item['env']]!r}, env_{side} says {text!r}",
                )
            found.append(said if item["env"] is None else item["env"])
        if self._same_env == "allow":
            found = [own if own is not None else other for own, other in zip(found, found[::-1], strict=True)]
        known: list[int] = []
        for side, env in zip(("a", "b"), found, strict=True):
            if env is None:
                raise UnusableRowError("environment not known", f"{side} is new; add a column 'env_{side}'")
            known.append(int(env))
        return known[0], known[1]

    def _add(
        self, items: tuple[Mapping[str, Any], Mapping[str, Any]], label: int, envs: tuple[int, int]
    ) -> None:
        """Remember the pair's items, the new ones with what the pair says of them.

        A new image has its partner's subject: both show the same, and must not be torn apart when pairs are
        held out.
        """
        subjects = [item["subject"] or item.get("parent_id") for item in items]
        common = (
            subjects[0]
            or subjects[1]
            or next((item["item_id"] for item in items if item.get("pair_set") is None), items[0]["item_id"])
        )
        for item, env in zip(items, envs, strict=True):
            self.split_of[item["item_id"]] = item["split"]
            if item.get("pair_set") is not None and item["item_id"] not in self._new:
                self._new[item["item_id"]] = {
                    **item,
                    "label": label,
                    "label_name": self._labels.names[label],
                    "env": env,
                    "env_name": self._envs.names[env],
                    "subject": common,
                }


def _named(manifest: pa.Table, column: str) -> dict[int, str]:
    numbers, names = manifest[column].to_pylist(), manifest[f"{column}_name"].to_pylist()
    return dict(zip(numbers, names, strict=True))


def _score(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UnusableRowError("score is no finite number", repr(text))
    return value
