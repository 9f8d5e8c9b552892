"""What an edit becomes in the tables: the row of the pair, and that of the item if it stood the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cells import TrainItems, pair_id
from cfpairs.pairs.edit.base import EditTask
from cfpairs.pairs.edit.checks import Checked
from cfpairs.pairs.edit.making import Made, mask_file
from cfpairs.pairs.edit.streams import Outcome, Stream
from cfpairs.tables import fingerprint

__all__ = ["Candidate", "EditRows"]


@dataclass(frozen=True)
class Candidate:
    """An item on its way: where it stands in its stream, and its rows of both tables without their ids."""

    stream: Stream
    task: EditTask
    pair: dict[str, Any]


@dataclass(frozen=True)
class EditRows:
    """Writes the rows of one build.

    Attributes
    ----------
    items : TrainItems
    inputs : BuildInputs
    editor : str
        Its name.
    made_with : str
        As of the builder.
    """

    items: TrainItems
    inputs: BuildInputs
    editor: str
    made_with: str

    def candidate(self, stream: Stream, place: int) -> Candidate:
        """A place in a stream with what is known of its pair before the edit is made."""
        row, env = (int(value) for value in stream.candidates[place])
        source = self.items.table.slice(row, 1).to_pylist()[0]
        pair = {
            "a_id": source["item_id"],
            "method": "edit",
            "label": source["label"],
            "env_a": source["env"],
            "env_b": env,
            "score": None,
            "seed": self.inputs.seed,
            "status": "ok",
            "reason": None,
            "editor": self.editor,
        }
        return Candidate(stream, EditTask(source, env, int(stream.turns[place])), pair)

    def outcome(self, candidate: Candidate, made: Made, checked: Checked, attempts: int) -> Outcome:
        """The rows of an edit that was made; of the pair alone if it failed a check."""
        mask = made.plan.mask
        pair = candidate.pair | dict(made.plan.columns) | checked.columns
        pair |= {"attempts": attempts, "mask_source": None if mask is None else mask.source}
        path = self.inputs.workspace.relative(made.path)
        item_id = made.path.stem
        if checked.fault is not None:
            failed = {"status": "rejected", "reason": checked.fault, "rejected_path": path}
            return Outcome(_with_ids(pair | failed, item_id), None)
        return Outcome(_with_ids(pair, item_id), self.item(candidate.task, made))

    def item(self, task: EditTask, made: Made) -> dict[str, Any]:
        """The row of the manifest for an edited item."""
        mask, source, env = made.plan.mask, task.item, task.env
        computed = self.inputs.workspace.relative(mask_file(made.path))
        return {
            **{key: source[key] for key in ("split", "label", "label_name", "subject")},
            "item_id": made.path.stem,
            "path": self.inputs.workspace.relative(made.path),
            "mask_path": None if mask is None else mask.path or computed,
            "env": env,
            "env_name": self.items.env_names[env],
            "width": made.edited.shape[1],
            "height": made.edited.shape[0],
            "origin": "control" if task.null else "edit",
            "parent_id": source["item_id"],
            "pair_set": self.inputs.name,
        }

    def rejected(self, candidate: Candidate, reason: str) -> Outcome:
        """The outcome of a candidate of which nothing came; no item has its ``b_id``."""
        task = candidate.task
        made_of = (self.inputs.name, self.made_with, task.item["item_id"], task.env, "rejected", task.turn)
        pair = candidate.pair | {"status": "rejected", "reason": reason}
        return Outcome(_with_ids(pair, f"edit-{fingerprint(*made_of)}"), None)


def _with_ids(pair: dict[str, Any], b_id: str) -> dict[str, Any]:
    return {**pair, "pair_id": pair_id("edit", str(pair["a_id"]), b_id), "b_id": b_id}
