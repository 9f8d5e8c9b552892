"""Random pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from fakes import fake_manifest
from hypothesis import given
from hypothesis import strategies as st
from matching_runs import items

from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.random import RandomBuilder, RandomOptions, nth_pair
from cfpairs.registry import resolve
from cfpairs.tables import PAIRS
from cfpairs.workspace import Workspace


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    workspace = Workspace(tmp_path)
    return BuildInputs(workspace, "random", fake_manifest(workspace), 12, 0)


def build(inputs: BuildInputs, **changes: object) -> PairSet:
    options = RandomOptions(reuse=bool(changes.pop("reuse", True)))
    return RandomBuilder(options).build(replace(inputs, **changes))


def test_pairs_keep_the_label_and_change_the_environment(inputs: BuildInputs) -> None:
    made = build(inputs)
    PAIRS.validate(made.pairs)
    rows = {r["item_id"]: r for r in inputs.manifest.to_pylist()}
    for pair in made.pairs.to_pylist():
        a, b = rows[pair["a_id"]], rows[pair["b_id"]]
        assert a["split"] == b["split"] == "train"
        assert a["label"] == b["label"] == pair["label"]
        assert (a["env"], b["env"]) == (pair["env_a"], pair["env_b"])
        assert pair["env_a"] < pair["env_b"]
        assert pair["score"] is None and pair["status"] == "ok" and pair["seed"] == 0
    assert made.items is None and made.counts() == {"ok": 12} and made.notes == ()


def test_cells_get_as_many_pairs(inputs: BuildInputs) -> None:
    assert Counter(build(inputs).pairs["label"].to_pylist()) == {0: 6, 1: 6}
    assert Counter(build(inputs, n_pairs=11).pairs["label"].to_pylist()) == {0: 6, 1: 5}


def test_same_seed_same_pairs_whatever_the_order_of_rows(inputs: BuildInputs) -> None:
    turned = inputs.manifest.take(pa.array(range(inputs.manifest.num_rows - 1, -1, -1)))
    assert build(inputs).pairs.equals(build(inputs, manifest=turned).pairs)
    assert not build(inputs).pairs["pair_id"].equals(build(inputs, seed=1).pairs["pair_id"])


def test_a_larger_set_begins_with_the_smaller(inputs: BuildInputs) -> None:
    large = build(inputs, n_pairs=30).pairs
    for n in (1, 5, 12, 29):
        assert build(inputs, n_pairs=n).pairs.equals(large.slice(0, n))


def test_all_possible_pairs_and_no_more(inputs: BuildInputs) -> None:
    made = build(inputs, n_pairs=500)
    assert made.pairs.num_rows == 2 * 10 * 2
    assert len(set(made.pairs["pair_id"].to_pylist())) == 40
    assert made.notes == ("asked for 500 pairs, made 40: the groups hold no more pairs",)
    assert "asked for 500 pairs" in made.card


def test_without_reuse_every_item_is_in_one_pair(inputs: BuildInputs) -> None:
    made = build(inputs, n_pairs=500, reuse=False)
    used = made.pairs["a_id"].to_pylist() + made.pairs["b_id"].to_pylist()
    assert made.pairs.num_rows == 4
    assert len(set(used)) == len(used)


@given(a=st.integers(1, 9), b=st.integers(1, 9))
def test_nth_pair_counts_every_pair_once_and_evenly(a: int, b: int) -> None:
    pairs = list(
        zip(*(x.tolist() for x in nth_pair(np.arange(a), np.arange(b), np.arange(a * b))), strict=True)
    )
    assert len(set(pairs)) == a * b
    for stop in range(1, a * b + 1):
        used = Counter(second for _, second in pairs[:stop])
        assert max(used.values()) - min(used[j] for j in range(b)) <= 1


def test_the_card_says_what_was_made(inputs: BuildInputs) -> None:
    card = build(inputs).card
    for words in (
        "# Pair set random",
        "| lying | green | brown | 6 | 0 |",
        "lying on green: 10",
        "## Known limits",
    ):
        assert words in card


def test_one_environment_is_one_line(inputs: BuildInputs) -> None:
    table = inputs.manifest.filter(pa.compute.equal(inputs.manifest["env"], 0))
    with pytest.raises(DataError, match="two environments"):
        build(inputs, manifest=table)


def test_the_registry_knows_the_builder() -> None:
    assert resolve("pairs", "random") is RandomBuilder
    with pytest.raises(ConfigError):
        RandomBuilder(PairSetOptions())


class PairSetOptions(RandomOptions.__base__):  # type: ignore[misc, name-defined]
    """Options of nobody."""


def listed(n: int = 36, seed: int = 0) -> BuildInputs:
    rng = np.random.default_rng(seed)
    table = items(
        rng.integers(2, size=n).tolist(),
        (np.arange(n) % 2).tolist(),
        breed=[f"b{i}" for i in rng.integers(3, size=n)],
        subject=[f"s{i}" for i in rng.integers(6, size=n)],
    )
    return BuildInputs(Workspace(Path("nowhere")), "random", table, 10_000, 0)


@pytest.mark.parametrize(
    ("same", "differ"),
    [
        (["label", "breed"], ["env"]),
        (["label"], ["env", "subject"]),
        (["env"], ["label"]),
        ([], ["subject"]),
    ],
)
def test_every_permitted_pair_comes_once_under_constraints(same: list[str], differ: list[str]) -> None:
    given_ = listed()
    rows = given_.manifest.to_pylist()
    expected = {
        frozenset((a["item_id"], b["item_id"]))
        for a in rows
        for b in rows
        if a is not b and all(a[c] == b[c] for c in same) and all(a[c] != b[c] for c in differ)
    }
    options = RandomOptions.model_validate({"same": same, "differ": differ})
    pairs = RandomBuilder(options).build(given_).pairs
    made = [frozenset(ids) for ids in zip(pairs["a_id"].to_pylist(), pairs["b_id"].to_pylist(), strict=True)]
    assert len(made) == len(set(made)) and set(made) == expected
    few = RandomBuilder(options).build(replace(given_, n_pairs=7)).pairs
    assert few.equals(pairs.slice(0, 7))


def test_without_reuse_under_constraints_items_come_once() -> None:
    options = RandomOptions(differ=("env", "subject"), reuse=False)
    pairs = RandomBuilder(options).build(listed()).pairs
    used = pairs["a_id"].to_pylist() + pairs["b_id"].to_pylist()
    assert len(set(used)) == len(used) > 10


def test_constraints_that_nothing_meets_are_one_line() -> None:
    options = RandomOptions(differ=("env", "split"))
    with pytest.raises(DataError, match="no two training items satisfy the constraints"):
        RandomBuilder(options).build(listed())
    with pytest.raises(ConfigError, match="perhaps 'subject'"):
        RandomBuilder(RandomOptions(same=("label", "subjet"))).build(listed())
