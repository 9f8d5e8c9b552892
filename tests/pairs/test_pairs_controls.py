"""Control pairs: the edited items once more, with nothing to change."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import fake_manifest
from PIL import Image

from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.edit.base import EditRejectedError, EditTask
from cfpairs.pairs.edit.builder import EditBuilder
from cfpairs.pairs.edit.controls import make_controls
from cfpairs.pairs.edit.making import Made
from cfpairs.pairs.edit.options import EditOptions
from cfpairs.tables import MANIFEST
from cfpairs.workspace import Workspace


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    workspace = Workspace(tmp_path)
    return BuildInputs(workspace, "edit", fake_manifest(workspace), 8, 0)


def build(inputs: BuildInputs, control: int, n_pairs: int = 8) -> PairSet:
    options = EditOptions(masks=("column",), control=control)
    return EditBuilder(options).build(replace(inputs, n_pairs=n_pairs))


def controls(made: PairSet) -> list[dict[str, object]]:
    assert made.items is not None
    return [row for row in made.items.to_pylist() if row["origin"] == "control"]


def test_a_null_edit_leaves_the_item_where_it_is(inputs: BuildInputs) -> None:
    made = build(inputs, 5)
    MANIFEST.validate(made.items)
    rows = {row["item_id"]: row for row in inputs.manifest.to_pylist()}
    found = controls(made)
    assert [row["parent_id"] for row in found] == made.pairs["a_id"].to_pylist()[:5]
    for row in found:
        parent = rows[row["parent_id"]]
        same = ("label", "label_name", "env", "env_name", "subject", "split", "mask_path", "width", "height")
        assert [row[key] for key in same] == [parent[key] for key in same]
        assert row["pair_set"] == "edit"
        before, after = (
            np.asarray(Image.open(inputs.workspace.file(str(path))).convert("RGB"), np.int16)
            for path in (parent["path"], row["path"])
        )
        mask = np.asarray(Image.open(inputs.workspace.file(parent["mask_path"])))
        assert (after[mask == 255] == before[mask == 255]).all()
        far = np.abs(after - before).max(axis=2) > 8
        assert far[mask == 0].mean() < 0.2  # only around the foreground; an edit changes nearly all
        assert (after != before).any()  # and it is no copy: it has been through the editor


def test_pairs_are_the_same_with_and_without_controls(inputs: BuildInputs) -> None:
    with_them, without = build(inputs, 5), build(inputs, 0)
    assert with_them.pairs.equals(without.pairs) and with_them.counts() == without.counts()
    assert not controls(without)
    assert not {row["item_id"] for row in controls(with_them)} & set(with_them.pairs["b_id"].to_pylist())


def test_there_are_no_more_controls_than_items_that_were_edited(inputs: BuildInputs) -> None:
    made = build(inputs, 100)
    assert len(controls(made)) == len(set(made.pairs["a_id"].to_pylist())) == 8


def test_an_item_of_which_nothing_comes_gives_its_place_to_the_next() -> None:
    asked: list[str] = []

    def make(tasks: list[EditTask]) -> list[object]:
        asked.extend(str(task.item["item_id"]) for task in tasks)
        assert all(task.null for task in tasks)
        return [
            EditRejectedError("no mask") if task.item["item_id"] in "ac" else Made(None, None, None, False)  # type: ignore[arg-type]
            for task in tasks
        ]

    sources = [{"item_id": name, "env": 1} for name in "abbcdef"]
    found = make_controls(sources, 3, make, lambda task, _: {"id": task.item["item_id"]})  # type: ignore[arg-type]
    assert [row["id"] for row in found] == ["b", "d", "e"]
    assert asked == ["a", "b", "c", "d", "e"]


def test_an_editor_that_has_no_null_edit_makes_no_controls(inputs: BuildInputs) -> None:
    builder = EditBuilder(EditOptions(masks=("column",), control=5))
    builder.editor.null_edits = False  # type: ignore[attr-defined]
    assert not controls(builder.build(inputs))
