"""Checks on every edit: foreground kept, background changed, environment reached, label kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cfpairs.config import Strict
from cfpairs.pairs.base import Judge
from cfpairs.pairs.cells import TrainItems
from cfpairs.pairs.edit.base import EditPlan
from cfpairs.pairs.edit.references import References

__all__ = ["CheckOptions", "Checked", "Checks", "changed_share", "check_section"]

CHANGED = 8
"""A pixel counts as changed if a channel moves by more than this many of 255 levels."""

LEAST_CHANGE = 0.005
"""Share of all pixels that an edit without a mask must change; thin strokes of another colour are enough."""

FOREGROUND = "the foreground changed"
BACKGROUND = "the background did not change"
DISTANCE = "too far from its source in the embedding"
ENVIRONMENT = "not closer to the target environment in the embedding"
TEXT = "the text of the target environment fits no better"
LABEL = "its label is no longer found in the embedding"

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class CheckOptions(Strict):
    """Limits of the checks; null leaves one out, its figure is recorded all the same."""

    embedding: bool = Field(
        default=True, description="also check in the embedding; the training items are embedded first"
    )
    foreground: Annotated[float, Field(ge=0.0, le=255.0)] | None = Field(
        default=4.0, description="largest mean change of the pixels that are all foreground, of 255 levels"
    )
    background: Share | None = Field(
        default=0.2, description="smallest share of the background's pixels that change visibly"
    )
    distance: Share | None = Field(
        default=0.9,
        description="largest share of real items of the target group that are nearer to the source than its "
        "edit is",
    )
    environment: float | None = Field(
        default=0.25,
        description="least part of the way from the source environment to the target in the embedding",
    )
    text: float | None = Field(
        default=None,
        description="least gain of similarity to the text of the target environment over the source's",
    )
    label: Annotated[float, Field(ge=0.0, lt=1.0)] | None = Field(
        default=0.02, description="an edit's margin is at least this quantile of its label's real items"
    )
    prompts: dict[str, str] = Field(
        default_factory=dict,
        description="text of each environment by name, for encoders that read text; default 'a photo, NAME'",
    )


@dataclass
class Checked:
    """What was measured of one edit, as columns of the pair's row, and why it fails; None if it passes."""

    columns: dict[str, Any] = field(default_factory=dict)
    fault: str | None = None

    def fail(self, fault: str) -> None:
        """Record a failed check; the first one counts."""
        self.fault = self.fault or fault


class Checks:
    """Judges edits, several at a time.

    Parameters
    ----------
    options : CheckOptions
    items : TrainItems
    judge : Judge or None
        Without one the pixels alone are checked.

    Attributes
    ----------
    unjudged : set of (label, env)
        Groups that edits ended in whose label could not be checked for want of real items.
    """

    def __init__(self, options: CheckOptions, items: TrainItems, judge: Judge | None) -> None:
        self.options = options
        self.unjudged: set[tuple[int, int]] = set()
        self._judge = judge
        self._names = items.env_names
        self._references = None if judge is None else References(items, judge)
        self._texts = None if judge is None else self._encode_texts(judge)

    def check(
        self,
        sources: Sequence[Mapping[str, Any]],
        targets: Sequence[int],
        plans: Sequence[EditPlan],
        edited: Sequence[NDArray[np.uint8]],
    ) -> list[Checked]:
        """Judge edits that were made of the manifest's rows `sources` for the environments `targets`."""
        found = [self._pixels(plan, image) for plan, image in zip(plans, edited, strict=True)]
        todo = [i for i, checked in enumerate(found) if checked.fault is None]
        if self._judge is not None and todo:
            vectors = self._judge.encode([edited[i] for i in todo])
            judged = self.check_vectors([sources[i] for i in todo], [targets[i] for i in todo], vectors)
            for i, checked in zip(todo, judged, strict=True):
                found[i] = Checked(found[i].columns | checked.columns, checked.fault)
        return found

    def check_vectors(
        self,
        sources: Sequence[Mapping[str, Any]],
        targets: Sequence[int],
        vectors: NDArray[np.float32],
    ) -> list[Checked]:
        """Judge the vectors of edits, shape (n, d), by the embedding alone."""
        found = [Checked(columns) for columns in self._embedding(sources, targets, vectors)]
        for checked, source, env in zip(found, sources, targets, strict=True):
            self._limits(checked, source["label"], env)
        return found

    def _pixels(self, plan: EditPlan, edited: NDArray[np.uint8]) -> Checked:
        moved = np.abs(plan.source.astype(np.int16) - edited)
        visible = moved.max(axis=2) > CHANGED
        checked = Checked({"score": round(float(visible.mean()), 6)})
        least = self.options.background
        if plan.mask is None:
            checked.columns["background_change"] = checked.columns["score"]
            least = None if least is None else min(least, LEAST_CHANGE)
        else:
            core, behind = plan.mask.alpha >= 0.99, plan.mask.alpha <= 0.01
            if core.any():
                checked.columns["foreground_change"] = round(float(moved[core].mean()), 4)
                checked.columns["foreground_change_max"] = int(moved[core].max())
            if behind.any():
                checked.columns["background_change"] = round(float(visible[behind].mean()), 6)
        change = checked.columns.get("foreground_change")
        if self.options.foreground is not None and change is not None and change > self.options.foreground:
            checked.fail(FOREGROUND)
        change = checked.columns.get("background_change")
        if least is not None and change is not None and change < least:
            checked.fail(BACKGROUND)
        return checked

    def _embedding(
        self,
        sources: Sequence[Mapping[str, Any]],
        targets: Sequence[int],
        vectors: NDArray[np.float32],
    ) -> list[dict[str, Any]]:
        """What the vectors say of each edit."""
        references = self._references
        if references is None:
            return [{} for _ in sources]
        margins = references.label_margins(vectors, sources)
        rows = []
        for source, env, vector, margin in zip(sources, targets, vectors, margins, strict=True):
            row = references.compare(source, env, vector) | {"label_margin": margin}
            row |= self._text(source, env, vector)
            rows.append({name: None if v is None else round(float(v), 4) for name, v in row.items()})
        return rows

    def _limits(self, checked: Checked, label: int, env: int) -> None:
        """Hold the figures against the limits."""
        options, row = self.options, checked.columns

        def beyond(name: str, limit: float | None, sign: int) -> bool:
            value = row.get(name)
            return limit is not None and value is not None and sign * (value - limit) > 0

        if beyond("distance_rank", options.distance, 1):
            checked.fail(DISTANCE)
        if beyond("env_gain", options.environment, -1):
            checked.fail(ENVIRONMENT)
        if beyond("text_gain", options.text, -1):
            checked.fail(TEXT)
        if options.label is not None and self._references is not None:
            least = self._references.label_limit(label, env, options.label)
            if least is None:
                self.unjudged.add((label, env))
            elif beyond("label_margin", least, -1):
                checked.fail(LABEL)

    def _encode_texts(self, judge: Judge) -> dict[int, NDArray[np.float32]] | None:
        envs = sorted(self._names)
        texts = [self.options.prompts.get(self._names[e], f"a photo, {self._names[e]}") for e in envs]
        vectors = judge.encode_text(texts)
        return None if vectors is None else dict(zip(envs, vectors, strict=True))

    def _text(
        self, source: Mapping[str, Any], env: int, vector: NDArray[np.float32]
    ) -> dict[str, float | None]:
        """Cosine to the target's text minus that to the source's, and its gain over the source image."""
        if self._texts is None or self._references is None:
            return {}
        towards = self._texts[env] - self._texts[source["env"]]
        margin = float(_unit(vector) @ towards)
        before = self._references.vector(source)
        return {
            "text_margin": margin,
            "text_gain": None if before is None else margin - float(_unit(before) @ towards),
        }


def changed_share(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Share of pixels that an edit has visibly changed, in 0..1; both of shape (height, width, 3)."""
    moved = np.abs(before.astype(np.int16) - after).max(axis=2) > CHANGED
    return round(float(moved.mean()), 6)


_ROWS = (
    ("foreground_change", "mean change of the foreground, levels", "foreground", FOREGROUND, "at most"),
    ("background_change", "share of the background that changed", "background", BACKGROUND, "at least"),
    ("embedding_distance", "distance to its source in the embedding", None, None, ""),
    ("distance_rank", "real items of the target group nearer to the source", "distance", DISTANCE, "at most"),
    ("env_margin", "nearer to the target environment's mean by", None, None, ""),
    ("env_gain", "part of the way to the target environment", "environment", ENVIRONMENT, "at least"),
    ("text_gain", "gain of similarity to the target's text", "text", TEXT, "at least"),
    ("label_margin", "margin of the label probe", "label", LABEL, "quantile"),
)


def check_section(options: CheckOptions, rows: Sequence[Mapping[str, Any]]) -> str:
    """Part of the card: each figure's limit, its spread over the pairs that were kept, and who failed it."""
    lines = ["| check | limit | 5 % | median | 95 % | rejected |", "| --- | --- | --- | --- | --- | --- |"]
    reasons = Counter(row.get("reason") for row in rows)
    for column, words, option, reason, how in _ROWS:
        kept = [row[column] for row in rows if row["status"] == "ok" and row.get(column) is not None]
        if not kept and not reasons.get(reason):
            continue
        limit = None if option is None else getattr(options, option)
        spread = [f"{v:.3g}" for v in np.quantile(kept, [0.05, 0.5, 0.95])] if kept else ["", "", ""]
        cells = [words, "none" if limit is None else f"{how} {limit:g}", *spread]
        lines.append("| " + " | ".join([*cells, str(reasons.get(reason, 0) if reason else "")]) + " |")
    return "## Checks\n\n" + "\n".join(lines) + "\n"


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / np.linalg.norm(vector), np.float32)
