"""Nearest pairs, against a brute force in numpy."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from fakes import fake_embeddings, fake_manifest
from matching_runs import unit

from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.nearest import NearestBuilder, NearestOptions
from cfpairs.pairs.random import RandomOptions
from cfpairs.registry import resolve
from cfpairs.tables import PAIRS
from cfpairs.vectors import Embeddings
from cfpairs.workspace import Workspace


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    workspace = Workspace(tmp_path)
    table = fake_manifest(workspace)
    return BuildInputs(workspace, "nearest", table, 12, 0, fake_embeddings(table))


def build(inputs: BuildInputs, options: NearestOptions | None = None, **changes: object) -> PairSet:
    return NearestBuilder(options or NearestOptions()).build(replace(inputs, **changes))


def test_pairs_are_the_best_proposals_of_brute_force(inputs: BuildInputs) -> None:
    made = build(inputs, n_pairs=1000)
    PAIRS.validate(made.pairs)
    assert inputs.embeddings is not None
    expected = []
    for label in (0, 1):
        ids = {
            env: sorted(
                r["item_id"]
                for r in inputs.manifest.to_pylist()
                if (r["split"], r["label"], r["env"]) == ("train", label, env)
            )
            for env in (0, 1)
        }
        a, b = (unit(inputs.embeddings.rows(ids[env]).astype(np.float64)) for env in (0, 1))
        cosine = np.round(a.astype(np.float64) @ b.T.astype(np.float64), 6)
        found = {(i, int(row.argmax())) for i, row in enumerate(cosine)}
        found |= {(int(column.argmax()), j) for j, column in enumerate(cosine.T)}
        ranked = sorted(found, key=lambda ij: (-cosine[ij], ids[0][ij[0]], ids[1][ij[1]]))
        expected.append([(ids[0][i], ids[1][j], cosine[i, j]) for i, j in ranked])
    rows = made.pairs.to_pylist()
    for label in (0, 1):
        got = [(r["a_id"], r["b_id"], r["score"]) for r in rows if r["label"] == label]
        assert [g[:2] for g in got] == [e[:2] for e in expected[label]]
        assert [g[2] for g in got] == pytest.approx([e[2] for e in expected[label]], abs=2e-6)
    assert made.notes[0].startswith(f"asked for 1000 pairs, made {len(rows)}")


def test_cells_take_turns_by_falling_similarity(inputs: BuildInputs) -> None:
    rows = build(inputs).pairs.to_pylist()
    assert [r["label"] for r in rows] == [0, 1] * 6
    for label in (0, 1):
        scores = [r["score"] for r in rows if r["label"] == label]
        assert scores == sorted(scores, reverse=True)


def test_deterministic_and_a_larger_set_begins_with_the_smaller(inputs: BuildInputs) -> None:
    large = build(inputs, n_pairs=20).pairs
    assert build(inputs, n_pairs=20).pairs.equals(large)
    for n in (1, 7, 12):
        assert build(inputs, n_pairs=n).pairs.equals(large.slice(0, n))


def test_more_neighbours_make_more_pairs_and_none_twice(inputs: BuildInputs) -> None:
    one = build(inputs, n_pairs=1000).pairs
    all_of_them = build(inputs, NearestOptions(neighbours=50), n_pairs=1000).pairs
    assert one.num_rows < all_of_them.num_rows == 40
    assert len(set(all_of_them["pair_id"].to_pylist())) == 40


@pytest.mark.parametrize("match", ["greedy", "optimal"])
def test_without_reuse_every_item_is_in_one_pair(
    inputs: BuildInputs, match: Literal["greedy", "optimal"]
) -> None:
    pairs = build(inputs, NearestOptions(match=match), n_pairs=1000).pairs
    used = Counter(pairs["a_id"].to_pylist() + pairs["b_id"].to_pylist())
    assert set(used.values()) == {1}
    assert pairs.num_rows == 4


def test_an_item_without_embedding_is_left_out_and_named(inputs: BuildInputs) -> None:
    assert inputs.embeddings is not None
    lost = inputs.embeddings.item_ids[0]
    kept = Embeddings(inputs.embeddings.item_ids[1:], inputs.embeddings.matrix[1:])
    made = build(inputs, embeddings=kept, n_pairs=1000)
    assert lost not in made.pairs["a_id"].to_pylist() + made.pairs["b_id"].to_pylist()
    assert made.notes[0] == "1 training items have no embedding and are left out"


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_bad_vectors_are_a_data_error(inputs: BuildInputs, value: float) -> None:
    assert inputs.embeddings is not None
    matrix = inputs.embeddings.matrix.copy()
    matrix[3] = value
    with pytest.raises(DataError, match=f"1, such as that of '{inputs.embeddings.item_ids[3]}'"):
        build(inputs, embeddings=Embeddings(inputs.embeddings.item_ids, matrix))


def test_no_embeddings_say_what_to_run(inputs: BuildInputs) -> None:
    with pytest.raises(DataError, match="cfpairs embed"):
        build(inputs, embeddings=None)
    with pytest.raises(DataError, match="no training item has an embedding"):
        build(inputs, embeddings=Embeddings(["x"], np.ones((1, 3))))


def test_the_registry_knows_the_builder() -> None:
    builder = resolve("pairs", "nearest")
    assert builder is NearestBuilder and builder.needs_embeddings
    with pytest.raises(ConfigError):
        NearestBuilder(RandomOptions())
