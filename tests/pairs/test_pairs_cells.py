"""How pairs are dealt to cells, and what is said about groups that are empty."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes import fake_manifest
from hypothesis import given
from hypothesis import strategies as st

from cfpairs.errors import DataError
from cfpairs.pairs.cells import (
    Cell,
    TrainItems,
    cell_counts,
    cell_rng,
    deal,
    edit_cells,
    missing_notes,
    real_cells,
)
from cfpairs.workspace import Workspace

SIZES = st.lists(st.integers(0, 12), min_size=1, max_size=6)


@given(sizes=SIZES, n=st.integers(0, 60), less=st.integers(0, 60))
def test_a_larger_deal_begins_with_the_smaller(sizes: list[int], n: int, less: int) -> None:
    assert deal(sizes, n)[: min(less, n)] == deal(sizes, min(less, n))


@given(sizes=SIZES, n=st.integers(0, 60))
def test_turns_are_as_even_as_the_sizes_allow(sizes: list[int], n: int) -> None:
    turns = Counter(deal(sizes, n))
    assert sum(turns.values()) == min(n, sum(sizes))
    assert all(turns[i] <= size for i, size in enumerate(sizes))
    most = max(turns.values(), default=0)
    # A stream that has had less than another, by more than one turn, is used up.
    assert all(turns[i] >= most - 1 or turns[i] == size for i, size in enumerate(sizes))


def test_a_stream_with_a_head_start_waits() -> None:
    assert deal([5, 5], 6, start=[3, 0]) == [1, 1, 1, 0, 1, 0]


def test_a_generator_depends_on_its_purpose_alone() -> None:
    assert cell_rng(0, "a", [1]).integers(1 << 40) == cell_rng(0, "a", [1]).integers(1 << 40)
    drawn = {cell_rng(s, p).integers(1 << 40) for s in (0, 1) for p in ("a", "b")}
    assert len(drawn) == 4


def test_items_do_not_depend_on_the_order_of_the_manifest(tmp_path: Path) -> None:
    table = fake_manifest(Workspace(tmp_path))
    mixed = table.take(np.random.default_rng(0).permutation(table.num_rows))
    assert TrainItems.of(table).ids == TrainItems.of(mixed).ids
    assert len(TrainItems.of(table).ids) == 24


def test_cells_of_real_and_of_edited_pairs(tmp_path: Path) -> None:
    counts = {("train", 0, 0): 2, ("train", 0, 1): 2, ("train", 1, 1): 2, ("train", 0, 2): 1}
    items = TrainItems.of(fake_manifest(Workspace(tmp_path), counts))
    assert real_cells(items) == [Cell(0, 0, 1), Cell(0, 0, 2), Cell(0, 1, 2)]
    assert len(edit_cells(items)) == 3 * 2 + 2
    assert missing_notes(items) == ["no training item in standing on green, standing on blue"]


def test_one_environment_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one, 'green'"):
        TrainItems.of(fake_manifest(Workspace(tmp_path), {("train", 0, 0): 2, ("train", 1, 0): 2}))


def test_no_training_item_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none in split train"):
        TrainItems.of(fake_manifest(Workspace(tmp_path), {("test", 0, 0): 2, ("test", 0, 1): 2}))


def test_labels_tied_to_environments_leave_no_real_pair(tmp_path: Path) -> None:
    items = TrainItems.of(fake_manifest(Workspace(tmp_path), {("train", 0, 0): 3, ("train", 1, 1): 2}))
    with pytest.raises(DataError, match="lying on green: 3, standing on brown: 2"):
        real_cells(items)


def test_one_label_is_a_note(tmp_path: Path) -> None:
    items = TrainItems.of(fake_manifest(Workspace(tmp_path), {("train", 0, 0): 3, ("train", 0, 1): 2}))
    assert missing_notes(items) == ["only one label in split train, 'lying'"]


def test_counts_of_every_cell_by_status(tmp_path: Path) -> None:
    manifest = fake_manifest(Workspace(tmp_path), {("train", 0, 0): 1, ("train", 0, 1): 1}, size=8)
    rows = [
        {"label": label, "env_a": a, "env_b": b, "status": status}
        for label, a, b, status in [
            (None, 0, 1, "rejected"),
            (0, 1, 0, "ok"),
            (0, 0, 1, "rejected"),
            (0, 0, 1, "ok"),
            (0, 0, 1, "ok"),
            (0, 0, 5, "dropped"),
        ]
    ]
    names = ("label_name", "env_a_name", "env_b_name", "ok", "rejected", "dropped")
    found = cell_counts(rows, manifest)
    assert [tuple(cell[n] for n in names) for cell in found] == [
        ("lying", "green", "brown", 2, 1, 0),
        ("lying", "green", None, 0, 0, 1),
        ("lying", "brown", "green", 1, 0, 0),
        (None, "green", "brown", 0, 1, 0),
    ]
    assert cell_counts(pa.Table.from_pylist(rows), manifest) == found


def test_many_groups_are_told_in_short(tmp_path: Path) -> None:
    counts = {("train", y, e): 1 + y + 2 * e for y in (0, 1) for e in (0, 1, 2)}
    items = TrainItems.of(fake_manifest(Workspace(tmp_path), counts, size=8))
    assert items.describe_groups().count(": ") == 6
    assert items.describe_groups(2) == "lying on green: 1, standing on green: 2 and 4 larger groups of 3 to 6"
