"""Pairs of an item and the same item moved to another environment by an editor."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import TrainItems, missing_notes, pair_id, shortfall_note
from cfpairs.pairs.edit.base import Editor, EditPlan, EditRejectedError, EditTask
from cfpairs.pairs.edit.streams import Choose, Outcome, Stream, in_order, make_streams, next_wave
from cfpairs.registry import resolve
from cfpairs.tables import MANIFEST, PAIRS, fingerprint, make_table, write_bytes

__all__ = ["EditBuilder", "EditOptions"]

CHANGED = 8
"""A pixel counts as changed if a channel moves by more than this many of 255 levels."""


class EditOptions(Strict):
    """Settings of `EditBuilder`."""

    editor: str = Field(default="composite", description="name of the editor")
    editor_options: dict[str, Any] = Field(default_factory=dict, description="the editor's own settings")
    choose: Choose = Field(
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
        chosen = parse_options(maker.Options, options.editor_options, f"editor {options.editor!r}")
        self.editor: Editor = maker(chosen)
        self._editor_settings: dict[str, Any] = chosen.model_dump(mode="json")
        self._made_with = fingerprint(
            options.editor, self.editor.version, self._editor_settings, EditBuilder.version
        )

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
        streams = make_streams(items, targets, self.options.choose, self.options.per_item, inputs.seed)
        self._work(items, streams, inputs)
        done = list(in_order(streams))
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
                **self._editor_settings,
            },
            limits=self.editor.limits,
            notes=notes,
        )
        return PairSet(make_table(pairs, PAIRS), make_table(made, MANIFEST), card, tuple(notes))

    def _work(self, items: TrainItems, streams: list[Stream], inputs: BuildInputs) -> None:
        workers = self.options.workers or min(8, os.cpu_count() or 1)
        with (
            inputs.progress.task(f"editing ({self.options.editor})", inputs.n_pairs) as advance,
            ThreadPoolExecutor(workers) as pool,
        ):
            while wave := next_wave(streams, inputs.n_pairs):
                attempts = pool.map(lambda task: self._attempt(items, task[0], task[1], inputs), wave)
                for (stream, place), (outcome, content) in zip(wave, attempts, strict=True):
                    if outcome.item is None:
                        stream.add(outcome)
                    elif outcome.item["item_id"] in stream.made_ids:
                        fault = "the same edit is there already"
                        stream.add(self._rejected(outcome.pair, fault, int(stream.turns[place]), inputs.name))
                    else:
                        if content is not None:
                            write_bytes(inputs.workspace.file(outcome.item["path"]), content)
                        stream.add(outcome)
                        advance(1)

    def _attempt(
        self, items: TrainItems, stream: Stream, place: int, inputs: BuildInputs
    ) -> tuple[Outcome, bytes | None]:
        """Edit one candidate; called from several threads. Also the file to be written, None if it stays."""
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
            item_id = f"edit-{fingerprint(inputs.name, self._made_with, source['item_id'], env, plan.key)}"
            path = inputs.workspace.pair_images(inputs.name) / f"{item_id}.png"
            edited, content = self._kept_or_made(path, plan)
        except EditRejectedError as error:
            return self._rejected(pair, str(error), turn, inputs.name), None
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
        return Outcome(_with_ids(pair, item_id), item), content

    def _rejected(self, pair: dict[str, Any], reason: str, turn: int, name: str) -> Outcome:
        """The outcome of a candidate of which nothing came; no item has its ``b_id``."""
        b_id = f"edit-{fingerprint(name, self._made_with, pair['a_id'], pair['env_b'], 'rejected', turn)}"
        return Outcome(_with_ids(pair | {"status": "rejected", "reason": reason, "score": None}, b_id), None)

    def _kept_or_made(self, path: Path, plan: EditPlan) -> tuple[NDArray[np.uint8], bytes | None]:
        from cfpairs.pairs.edit.masks import decode_image, encode_png, read_file

        if path.is_file():
            try:
                kept = decode_image(read_file(path, "edited image"), "edited image")
            except EditRejectedError:
                kept = None
            if kept is not None and kept.shape == plan.source.shape:
                return kept, None
        edited = self.editor.edit(plan)
        return edited, encode_png(edited)


def changed_share(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
    """Share of pixels that an edit has visibly changed, in 0..1; both of shape (height, width, 3)."""
    moved = np.abs(before.astype(np.int16) - after).max(axis=2) > CHANGED
    return round(float(moved.mean()), 6)


def _with_ids(pair: dict[str, Any], b_id: str) -> dict[str, Any]:
    return {**pair, "pair_id": pair_id("edit", str(pair["a_id"]), b_id), "b_id": b_id}


def _why_none(pairs: Sequence[Mapping[str, Any]]) -> str:
    if not pairs:
        return "no item that can be moved to another environment"
    reason, count = Counter(str(pair["reason"]) for pair in pairs).most_common(1)[0]
    return f"{len(pairs)} items rejected, {count} of them because: {reason}"
