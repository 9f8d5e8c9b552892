"""Pairs of an item and the same item moved to another environment by an editor."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import (
    TrainItems,
    cell_rng,
    deal,
    edit_cells,
    missing_notes,
    pair_id,
    shortfall_note,
)
from cfpairs.pairs.edit.base import Editor, EditPlan, EditRejectedError, EditTask
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, PAIRS, fingerprint, make_table, write_bytes

__all__ = ["EditBuilder", "EditOptions"]

CHANGED = 8
"""A pixel counts as changed if a channel moves by more than this many of 255 levels."""


class EditOptions(Strict):
    """Settings of `EditBuilder`."""

    editor: str = Field(default="composite", description="name of the editor")
    editor_options: dict[str, Any] = Field(default_factory=dict, description="the editor's own settings")
    choose: Literal["balanced", "minority", "all"] = Field(
        default="balanced",
        description="which items are edited: as many of every group; those whose edits fill the smallest "
        "groups; or any training item",
    )
    per_item: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="most edits of one item to one environment, each on another background"
    )
    workers: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None, description="threads; default: one a core, at most 8"
    )


@dataclass
class Stream:
    """Candidates of one kind in their order, and what became of those that were tried.

    Attributes
    ----------
    candidates : ndarray of int, shape (n, 2)
        Row of the item, target environment.
    start : int
        What the stream is held to have had before its first turn.
    turns : ndarray of int, shape (n,)
        Number of each candidate among all with the same target.
    outcomes : list of Outcome
    """

    candidates: NDArray[np.int64]
    start: int
    turns: NDArray[np.int64]
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def made(self) -> int:
        """Number of pairs that came out well."""
        return sum(outcome.item is not None for outcome in self.outcomes)

    @property
    def left(self) -> int:
        """Number of candidates not yet tried."""
        return len(self.candidates) - len(self.outcomes)


@dataclass(frozen=True)
class Outcome:
    """The row of a pair, and the row of the item that was made for it; None if it was rejected."""

    pair: dict[str, Any]
    item: dict[str, Any] | None


class EditBuilder:
    """Pair each chosen item with its own edit.

    Parameters
    ----------
    options : EditOptions

    Notes
    -----
    An item that cannot be edited stays in the table as ``rejected`` with its reason, and the next candidate
    of its kind takes its place. An image that is there already for the same inputs is kept.
    """

    Options: ClassVar[type[BaseModel]] = EditOptions
    needs_embeddings: ClassVar[bool] = False
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        if not isinstance(options, EditOptions):
            raise ConfigError("wrong options", got=type(options).__name__, expected="EditOptions")
        self.options = options
        maker = resolve("editors", options.editor)
        where = f"editor {options.editor!r}"
        self.editor: Editor = maker(parse_options(maker.Options, options.editor_options, where))
        self._settings = fingerprint(
            options.editor, self.editor.version, self.editor_settings(), EditBuilder.version
        )

    def editor_settings(self) -> dict[str, Any]:
        """The editor's settings with their defaults filled in."""
        chosen: BaseModel = parse_options(
            self.editor.Options, self.options.editor_options, f"editor {self.options.editor!r}"
        )
        return chosen.model_dump(mode="json")

    def build(self, inputs: BuildInputs) -> PairSet:
        """Edit items until there are as many pairs as asked for, or no candidate is left.

        Raises
        ------
        DataError
            If there is one environment only, no mask, or not a single pair could be made.
        WorkspaceError
            If an image cannot be written.
        """
        items = TrainItems.of(inputs.manifest)
        targets = self.editor.open(inputs.workspace, items.table, inputs.seed)
        streams = self._streams(items, targets, inputs.seed)
        self._work(items, streams, inputs)
        done = list(_in_order(streams, inputs.n_pairs))
        pairs = [outcome.pair for outcome in done]
        made = [outcome.item for outcome in done if outcome.item is not None]
        if not made:
            raise DataError("no pair could be made", got=_why_none(pairs), remedy="check images and masks")
        out_of_reach = sorted(set(items.env_names) - targets)
        notes = [
            *missing_notes(items),
            *(f"no background to use in environment {items.env_names[env]!r}" for env in out_of_reach),
            *shortfall_note(
                inputs.n_pairs, len(made), "no more candidates; option 'per_item' allows more of each"
            ),
        ]
        rejected = len(pairs) - len(made)
        if rejected:
            notes.append(f"{rejected} items could not be edited and were replaced where others were left")
        card = pair_card(
            inputs,
            items,
            pairs,
            method=f"A training item and its edit. {self.editor.summary}",
            settings={
                "editor": self.options.editor,
                "choose": self.options.choose,
                "per_item": self.options.per_item,
                **self.editor_settings(),
            },
            limits=self.editor.limits,
            notes=notes,
        )
        return PairSet(make_table(pairs, PAIRS), make_table(made, MANIFEST), card, tuple(notes))

    def _streams(self, items: TrainItems, targets: frozenset[int], seed: int) -> list[Stream]:
        cells = [cell for cell in edit_cells(items) if cell.env_b in targets]
        kinds: list[tuple[str, list[Any], int, NDArray[np.int64]]] = []
        reach = [_reach(items.groups[cell.label, cell.env_a], cell.env_b) for cell in cells]
        if self.options.choose == "balanced":
            kinds = [("balanced", list(cell), 0, rows) for cell, rows in zip(cells, reach, strict=True)]
        elif self.options.choose == "minority":
            for label, env in sorted({(cell.label, cell.env_b) for cell in cells}):
                parts = [r for c, r in zip(cells, reach, strict=True) if (c.label, c.env_b) == (label, env)]
                have = len(items.groups.get((label, env), ()))
                kinds.append(("minority", [label, env], have, np.concatenate(parts)))
        elif reach:
            kinds = [("all", [], 0, np.concatenate(reach))]
        ordered = []
        for name, key, start, rows in kinds:
            laps = [
                cell_rng(seed, "edit", name, key, lap).permutation(rows)
                for lap in range(self.options.per_item)
            ]
            ordered.append((start, np.concatenate(laps)))
        return _with_turns(ordered)

    def _work(self, items: TrainItems, streams: list[Stream], inputs: BuildInputs) -> None:
        workers = self.options.workers or min(8, os.cpu_count() or 1)
        with (
            inputs.progress.task(f"editing ({self.options.editor})", inputs.n_pairs) as advance,
            ThreadPoolExecutor(workers) as pool,
        ):
            while True:
                made = sum(stream.made for stream in streams)
                starts = [stream.start + stream.made for stream in streams]
                wave = deal([stream.left for stream in streams], inputs.n_pairs - made, starts)
                if not wave:
                    return
                tasks = []
                tried = Counter({i: len(stream.outcomes) for i, stream in enumerate(streams)})
                for number in wave:
                    tasks.append((streams[number], tried[number]))
                    tried[number] += 1
                attempts = pool.map(lambda task: self._attempt(items, task[0], task[1], inputs), tasks)
                for (stream, _), outcome in zip(tasks, attempts, strict=True):
                    stream.outcomes.append(outcome)
                    advance(outcome.item is not None)

    def _attempt(self, items: TrainItems, stream: Stream, place: int, inputs: BuildInputs) -> Outcome:
        row, env = (int(value) for value in stream.candidates[place])
        source = items.table.slice(row, 1).to_pylist()[0]
        turn = int(stream.turns[place])
        pair = {
            "a_id": source["item_id"],
            "method": "edit",
            "label": source["label"],
            "env_a": source["env"],
            "env_b": env,
            "score": None,
            "seed": inputs.seed,
            "status": "ok",
            "reason": None,
            "editor": self.options.editor,
        }
        try:
            plan = self.editor.plan(EditTask(source, env, turn))
            item_id = f"edit-{fingerprint(inputs.name, self._settings, source['item_id'], env, plan.key)}"
            path = inputs.workspace.pair_images(inputs.name) / f"{item_id}.png"
            edited = self._kept_or_made(path, plan)
        except EditRejectedError as error:
            item_id = f"edit-{fingerprint(inputs.name, self._settings, source['item_id'], env, turn)}"
            pair |= {"status": "rejected", "reason": str(error)}
            return Outcome(_with_ids(pair, item_id), None)
        pair |= {**plan.columns, "score": changed_share(plan.source, edited)}
        item = {
            **{key: source[key] for key in ("split", "label", "label_name", "mask_path", "subject")},
            "item_id": item_id,
            "path": inputs.workspace.relative(path),
            "env": env,
            "env_name": items.env_names[env],
            "width": edited.shape[1],
            "height": edited.shape[0],
            "origin": "edit",
            "parent_id": source["item_id"],
            "pair_set": inputs.name,
        }
        return Outcome(_with_ids(pair, item_id), item)

    def _kept_or_made(self, path: Any, plan: EditPlan) -> NDArray[np.uint8]:
        from cfpairs.pairs.edit.masks import decode_image, encode_png, read_file

        if path.is_file():
            try:
                kept = decode_image(read_file(path, "edited image"), "edited image")
            except EditRejectedError:
                kept = None
            if kept is not None and kept.shape == plan.source.shape:
                return kept
        edited = self.editor.edit(plan)
        write_bytes(path, encode_png(edited))
        return edited


def changed_share(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Share of pixels that an edit has visibly changed, in 0..1; both of shape (height, width, 3)."""
    moved = np.abs(before.astype(np.int16) - after).max(axis=2) > CHANGED
    return round(float(moved.mean()), 6)


def _reach(rows: NDArray[np.int64], env: int) -> NDArray[np.int64]:
    return np.column_stack([rows, np.full(len(rows), env, np.int64)])


def _with_turns(ordered: list[tuple[int, NDArray[np.int64]]]) -> list[Stream]:
    """Number the candidates with one target across the streams, so that each gets another background."""
    by_target: dict[int, list[int]] = {}
    for number, (_, rows) in enumerate(ordered):
        for env in np.unique(rows[:, 1]).tolist():
            by_target.setdefault(env, []).append(number)
    streams = []
    for number, (start, rows) in enumerate(ordered):
        turns = np.zeros(len(rows), np.int64)
        for env in np.unique(rows[:, 1]).tolist():
            sharing = by_target[env]
            of_env = np.flatnonzero(rows[:, 1] == env)
            turns[of_env] = np.arange(len(of_env)) * len(sharing) + sharing.index(number)
        streams.append(Stream(rows, start, turns))
    return streams


def _in_order(streams: list[Stream], n: int) -> Iterator[Outcome]:
    """The outcomes as if one candidate had been tried after another: the order of a smaller set's is kept."""
    waiting = [iter(stream.outcomes) for stream in streams]
    sizes = [stream.made + (stream.left == 0) for stream in streams]
    for number in deal(sizes, n + len(streams), [stream.start for stream in streams]):
        for outcome in waiting[number]:
            yield outcome
            if outcome.item is not None:
                break


def _with_ids(pair: dict[str, Any], b_id: str) -> dict[str, Any]:
    return {"pair_id": pair_id("edit", str(pair["a_id"]), b_id), "b_id": b_id, **pair}


def _why_none(pairs: list[Mapping[str, Any]] | list[dict[str, Any]]) -> str:
    if not pairs:
        return "no item that can be moved to another environment"
    reason, count = Counter(str(pair["reason"]) for pair in pairs).most_common(1)[0]
    return f"{len(pairs)} items rejected, {count} of them because: {reason}"
