"""Pairs of an item and the same item moved to another environment by an editor."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel

from cfpairs.config import check_options, parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import TrainItems, missing_notes, shortfall_note
from cfpairs.pairs.edit.base import Editor, EditPlan, EditRejectedError, EditScene, EditTask
from cfpairs.pairs.edit.checks import Checked, Checks, check_section
from cfpairs.pairs.edit.controls import make_controls
from cfpairs.pairs.edit.making import Made, Maker
from cfpairs.pairs.edit.masks import open_masks
from cfpairs.pairs.edit.options import EditOptions
from cfpairs.pairs.edit.rows import Candidate, EditRows
from cfpairs.pairs.edit.sharding import EditShards
from cfpairs.pairs.edit.streams import Outcome, Stream, in_order, make_streams, next_wave
from cfpairs.progress import SILENT, Advance
from cfpairs.registry import resolve, suggest
from cfpairs.tables import MANIFEST, PAIRS, fingerprint, make_table

__all__ = ["EditBuilder"]

CHUNK = 32
"""Edits that are checked at once."""


class EditBuilder:
    """Pair each chosen item with its own edit.

    Parameters
    ----------
    options : EditOptions

    Notes
    -----
    An edit that fails a check is made again with another seed or background. An item of which nothing comes
    stays in the table as ``rejected`` with its reason, and the next candidate of its kind takes its place. An
    image that is there already for the same inputs is kept.

    Attributes
    ----------
    wants_judge : bool
        Whether `build` makes use of ``inputs.judge``.
    made_with : str
        Changes when the same plan may give another image.
    """

    Options: ClassVar[type[BaseModel]] = EditOptions
    needs_embeddings: ClassVar[bool] = False
    makes_images: ClassVar[bool] = True
    spreads: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __init__(self, options: BaseModel) -> None:
        options = check_options(EditOptions, options)
        self.options = options
        maker = resolve("editors", options.editor)
        chosen = parse_options(maker.Options, options.editor_options, f"editor {options.editor!r}")
        self.editor: Editor = maker(chosen)
        self.wants_judge = options.checks.embedding
        self._editor_settings: dict[str, Any] = chosen.model_dump(mode="json")
        self.made_with = fingerprint(
            options.editor, self.editor.version, self._editor_settings, EditBuilder.version
        )

    def build(self, inputs: BuildInputs) -> PairSet:
        """Edit items until there are as many pairs as asked for, or no candidate is left.

        Raises
        ------
        DataError
            If there is one environment only, no mask, or not a single pair could be made.
        ConfigError
            If an option names a label or a masker that is not there.
        WorkspaceError
            If an image cannot be written.
        """
        items = TrainItems.of(inputs.manifest)
        shares = self._shares(items)
        try:
            targets = self.open(inputs, items)  # before the judge: a wrong setting must not cost an embedding
            checks = Checks(self.options.checks, items, inputs.judge if self.wants_judge else None)
            streams = make_streams(
                items, targets, self.options.choose, self.options.per_item, inputs.seed, shares
            )
            maker = self.maker(inputs)
            shards = None if inputs.spread is None else EditShards(self, inputs, items)
            rows = EditRows(items, inputs, self.options.editor, self.made_with)
            self._work(rows, streams, inputs, checks, maker, shards)
            done = list(in_order(streams))
            controls = self._controls(rows, done, inputs, maker, shards)
        finally:
            self.editor.close()
        return self._pair_set(items, targets, done, controls, inputs, checks)

    def open(self, inputs: BuildInputs, items: TrainItems) -> frozenset[int]:
        """Get the editor ready for these items; the environments that it can move them to."""
        masks = open_masks(
            self.options.masks, self.options.mask_options, workspace=inputs.workspace, root=inputs.root
        )
        scene = EditScene(
            inputs.workspace, items.table, items.env_names, items.label_names, masks, inputs.seed, inputs.root
        )
        return self.editor.open(scene)

    def maker(self, inputs: BuildInputs, workers: int | None = None) -> Maker:
        """What makes the edits once the editor is open; `workers` where no option says how many threads."""
        threads = self.options.workers or min(8, workers or os.cpu_count() or 1)
        return Maker(self.editor, threads, lambda task, plan: self.place(inputs, task, plan))

    def _shares(self, items: TrainItems) -> dict[int, int] | None:
        if self.options.shares is None:
            return None
        labels = {name: label for label, name in items.label_names.items()}
        for name in self.options.shares:
            if name not in labels:
                raise ConfigError(
                    "shares name a label that no training item has",
                    got=repr(name),
                    expected=suggest(name, tuple(labels)),
                )
        return {labels[name]: share for name, share in self.options.shares.items()}

    def _work(
        self,
        rows: EditRows,
        streams: list[Stream],
        inputs: BuildInputs,
        checks: Checks,
        maker: Maker,
        shards: EditShards | None,
    ) -> None:
        what = f"editing ({self.options.editor})"
        # Those that edits are spread to show how far they are.
        bar = inputs.progress if shards is None else SILENT
        with bar.task(what, inputs.n_pairs) as advance:
            while wave := next_wave(streams, inputs.n_pairs):
                candidates = [rows.candidate(stream, place) for stream, place in wave]
                outcomes = self._outcomes(rows, candidates, maker, checks, inputs, advance, shards)
                for candidate, outcome in zip(candidates, outcomes, strict=True):
                    if outcome.item is not None and outcome.item["item_id"] in candidate.stream.made_ids:
                        outcome = rows.rejected(candidate, "the same edit is there already")
                    candidate.stream.add(outcome)

    def _controls(
        self,
        rows: EditRows,
        done: Sequence[Outcome],
        inputs: BuildInputs,
        maker: Maker,
        shards: EditShards | None,
    ) -> list[dict[str, Any]]:
        """Control items of the first pairs' sources."""
        if not self.options.control or not getattr(self.editor, "null_edits", False):
            return []
        items = rows.items
        place = {item_id: row for row, item_id in enumerate(items.ids)}
        sources = (
            items.table.slice(place[outcome.pair["a_id"]], 1).to_pylist()[0]
            for outcome in done
            if outcome.item is not None
        )

        def make(tasks: Sequence[EditTask]) -> Iterator[Made | EditRejectedError]:
            if inputs.spread is not None and shards is not None:
                inputs.spread(shards, tasks)
            return maker.make(tasks)

        return make_controls(sources, self.options.control, make, rows.item)

    def place(self, inputs: BuildInputs, task: EditTask, plan: EditPlan) -> Path:
        """The file of an edit; its name tells all that it is made of."""
        mask = None if plan.mask is None else plan.mask.key
        made_of = (inputs.name, self.made_with, task.item["item_id"], task.env, plan.key, mask)
        kind = "control" if task.null else "edit"
        return inputs.workspace.pair_images(inputs.name) / f"{kind}-{fingerprint(*made_of)}.png"

    def _outcomes(
        self,
        rows: EditRows,
        candidates: Sequence[Candidate],
        maker: Maker,
        checks: Checks,
        inputs: BuildInputs,
        advance: Advance,
        shards: EditShards | None,
    ) -> list[Outcome]:
        """What comes of each candidate, those that fail a check tried again together."""
        outcomes: dict[int, Outcome] = {}
        tried: dict[int, set[Path]] = {number: set() for number in range(len(candidates))}
        open_ones = list(tried)
        for attempt in range(self.options.attempts):
            again = []
            tasks = [replace(candidates[n].task, attempt=attempt) for n in open_ones]
            if inputs.spread is not None and shards is not None:
                shards.check_by(tasks)
                inputs.spread(shards, tasks)  # what they made is found, and kept, below
            results = self._judged(tasks, maker, checks)
            for number, (made, checked) in zip(open_ones, results, strict=True):
                candidate = candidates[number]
                if isinstance(made, EditRejectedError):
                    # What cannot be made at all would fail in the same way again.
                    outcomes.setdefault(number, rows.rejected(candidate, str(made)))
                    continue
                if made.path in tried[number]:
                    continue
                tried[number].add(made.path)
                outcomes[number] = rows.outcome(candidate, made, checked, attempt + 1)
                if checked.fault is None:
                    advance(1)
                else:
                    again.append(number)
            open_ones = again
            if not open_ones:
                break
        return [outcomes[number] for number in range(len(candidates))]

    def _judged(
        self, tasks: Sequence[EditTask], maker: Maker, checks: Checks
    ) -> Iterator[tuple[Made | EditRejectedError, Checked]]:
        """Make and check edits; a chunk of them is held in memory at a time."""
        stream = zip(tasks, maker.make(tasks), strict=True)
        while chunk := list(islice(stream, CHUNK)):
            good = [(task, made) for task, made in chunk if isinstance(made, Made)]
            found = iter(
                checks.check(
                    [task.item for task, _ in good],
                    [task.env for task, _ in good],
                    [made.plan for _, made in good],
                    [made.edited for _, made in good],
                )
            )
            for _, made in chunk:
                yield made, next(found) if isinstance(made, Made) else Checked()

    def _pair_set(
        self,
        items: TrainItems,
        targets: frozenset[int],
        done: list[Outcome],
        controls: list[dict[str, Any]],
        inputs: BuildInputs,
        checks: Checks,
    ) -> PairSet:
        pairs = [outcome.pair for outcome in done]
        made = [outcome.item for outcome in done if outcome.item is not None]
        if not made:
            raise DataError("no pair could be made", got=_why_none(pairs), remedy="check images and masks")
        notes = self._notes(items, targets, pairs, len(made), inputs)
        if checks.unjudged:
            groups = [items.group_name(*group) for group in sorted(checks.unjudged)]
            told = ", ".join(groups[:4]) + (f" and {len(groups) - 4} more" if len(groups) > 4 else "")
            notes.append(f"too few real items to check the label of edits that end in {told}")
        made_ok = [pair for pair in pairs if pair["status"] == "ok"]
        unmasked = made_ok and not any(pair.get("mask_source") for pair in made_ok)
        left_out = {"editor_options", "checks", "workers", *(("masks", "mask_options") if unmasked else ())}
        card = pair_card(
            inputs,
            items,
            pairs,
            method=f"A training item and its edit. {self.editor.summary}",
            settings={
                **self.options.model_dump(mode="json", exclude=left_out),
                **self._editor_settings,
            },
            limits=self.editor.limits,
            notes=notes,
        )
        card += "\n" + check_section(self.options.checks, pairs)
        return PairSet(make_table(pairs, PAIRS), make_table([*made, *controls], MANIFEST), card, tuple(notes))

    def _notes(
        self,
        items: TrainItems,
        targets: frozenset[int],
        pairs: Sequence[Mapping[str, Any]],
        made: int,
        inputs: BuildInputs,
    ) -> list[str]:
        out_of_reach = sorted(set(items.env_names) - targets)
        guessed = sum(p.get("mask_source") == "grabcut" for p in pairs if p["status"] == "ok")
        notes = [
            *missing_notes(items),
            *(f"no background to use in environment {items.env_names[env]!r}" for env in out_of_reach),
            *shortfall_note(
                inputs.n_pairs, made, "no more candidates; option 'per_item' allows more of each"
            ),
        ]
        if guessed > made / 2:
            notes.append(f"{guessed} of {made} masks were guessed by GrabCut: look at some of the edits")
        return notes


def _why_none(pairs: Sequence[Mapping[str, Any]]) -> str:
    if not pairs:
        return "no item that can be moved to another environment"
    reason, count = Counter(str(pair["reason"]) for pair in pairs).most_common(1)[0]
    return f"{len(pairs)} items rejected, {count} of them because: {reason}"
