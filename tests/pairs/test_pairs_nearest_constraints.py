"""Nearest pairs under constraints, calipers and one-to-one matching, against the full matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching_runs import build, cosines, inputs, items, pairs, unit
from numpy.typing import NDArray

from cfpairs.config import parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.matching import indices
from cfpairs.pairs.nearest import NearestOptions
from cfpairs.progress import Advance
from cfpairs.vectors import Embeddings

N = 40
CASES = [
    {"same": ["label"], "differ": ["env"]},
    {"same": ["label", "breed"], "differ": ["env"]},
    {"same": ["label"], "differ": ["env", "subject"]},
    {"same": [], "differ": ["env"]},
    {"same": ["env"], "differ": ["label"]},
    {"same": ["label"], "differ": ["subject"]},
    {"same": [], "differ": []},
]


def sample(seed: int = 0, n: int = N) -> tuple[pa.Table, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    label, env = rng.integers(2, size=n), np.arange(n) % 3
    table = items(
        label.tolist(),
        env.tolist(),
        breed=[f"b{i}" for i in rng.integers(3, size=n)],
        subject=[f"s{i}" for i in rng.integers(8, size=n)],
    )
    return table, unit(rng.normal(size=(n, 6)))


def permitted(table: pa.Table, same: list[str], differ: list[str]) -> NDArray[np.bool_]:
    """The full matrix (n, n) of what the constraints allow."""
    ok = ~np.eye(table.num_rows, dtype=bool)
    for names, equal in ((same, True), (differ, False)):
        for name in names:
            values = np.asarray(table[name].to_pylist(), object)
            ok &= (values[:, None] == values[None]) == equal
    return ok


def expected(
    table: pa.Table, rows: NDArray[np.float32], same: list[str], differ: list[str], k: int, mutual: bool
) -> set[tuple[int, int]]:
    """Every proposal: for each item the k nearest permitted ones in each environment and label of a cell."""
    ok, cosine = permitted(table, same, differ), cosines(rows, rows)
    env, label = table["env"].to_numpy(), table["label"].to_numpy()
    proposals: Counter[tuple[int, int]] = Counter()
    for i in range(len(rows)):
        for e in set(env.tolist()):
            near = [j for j in np.flatnonzero(ok[i]) if env[j] == e]
            for j in sorted(near, key=lambda j: (-cosine[i, j], j))[:k]:
                first = i if (env[i], i) < (env[j], j) else j
                proposals[int(first), int(i + j - first)] += 1
    assert all(same != ["label"] or label[i] == label[j] for i, j in proposals)
    return {pair for pair, times in proposals.items() if times == 2 or not mutual}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{'+'.join(c['same'])}|{'+'.join(c['differ'])}")
@pytest.mark.parametrize("mutual", [False, True])
def test_pairs_are_the_proposals_of_the_full_matrix(case: dict[str, list[str]], mutual: bool) -> None:
    table, rows = sample()
    for k in (1, 3):
        made = build(inputs(table, rows), **case, neighbours=k, mutual=mutual)
        assert set(pairs(made)) == expected(table, rows, **case, k=k, mutual=mutual)
        ok = permitted(table, **case)
        assert all(ok[pair] for pair in pairs(made))


def test_pairs_of_two_labels_have_none_and_say_so() -> None:
    table, rows = sample()
    made = build(inputs(table, rows), same=["env"], differ=["label"])
    assert set(made.pairs["label"].to_pylist()) == {None}
    assert (made.pairs["env_a"].to_numpy() == made.pairs["env_b"].to_numpy()).all()
    assert any("may differ in label" in note for note in made.notes)
    assert any("may be of one environment" in note for note in made.notes)
    mixed = build(inputs(table, rows), same=[])
    assert {None, 0, 1} == set(mixed.pairs["label"].to_pylist())


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 1000),
    few=st.integers(1, 20),
    match=st.sampled_from(["reuse", "greedy", "optimal"]),
    case=st.sampled_from(CASES[:3]),
)
def test_a_larger_set_begins_with_the_smaller(
    seed: int, few: int, match: str, case: dict[str, list[str]]
) -> None:
    given_ = inputs(*sample(seed))
    whole = build(given_, match=match, **case).pairs
    assert build(replace(given_, n_pairs=few), match=match, **case).pairs.equals(whole.slice(0, few))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), match=st.sampled_from(["reuse", "greedy", "optimal"]), k=st.integers(1, 3))
def test_order_of_rows_and_length_of_vectors_change_nothing(seed: int, match: str, k: int) -> None:
    table, rows = sample(seed)
    plain = build(inputs(table, rows), match=match, neighbours=k)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rows))
    scaled = rows * 2.0 ** rng.integers(-20, 20, size=(len(rows), 1))
    assert build(inputs(table.take(order), scaled[order]), match=match, neighbours=k).pairs.equals(
        plain.pairs
    )
    assert not build(inputs(table, rows[order]), match=match, neighbours=k).pairs.equals(plain.pairs)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), match=st.sampled_from(["reuse", "greedy", "optimal"]), k=st.integers(1, 3))
def test_environments_that_change_places_swap_the_sides(seed: int, match: str, k: int) -> None:
    table, rows = sample(seed)
    turned = items(
        table["label"].to_pylist(),
        [2 - env for env in table["env"].to_pylist()],
    )
    plain = build(inputs(table, rows), match=match, neighbours=k)
    swapped = build(inputs(turned, rows), match=match, neighbours=k)
    assert {(b, a) for a, b in pairs(plain)} == set(pairs(swapped))


@pytest.mark.parametrize("match", ["greedy", "optimal"])
def test_one_to_one_pairs_every_item_of_the_smaller_side_once(match: str) -> None:
    table, rows = sample()
    made = build(inputs(table, rows), match=match)
    sizes = Counter(zip(table["label"].to_pylist(), table["env"].to_pylist(), strict=True))
    cells = Counter(zip(*(made.pairs[c].to_pylist() for c in ("label", "env_a", "env_b")), strict=True))
    assert cells == {
        (y, a, b): min(sizes[y, a], sizes[y, b]) for y in (0, 1) for a, b in ((0, 1), (0, 2), (1, 2))
    }
    for side in ("a_id", "b_id"):
        used = Counter(zip(*(made.pairs[c].to_pylist() for c in ("env_a", "env_b", side)), strict=True))
        assert set(used.values()) == {1}


def test_optimal_comes_no_farther_than_greedy_in_all() -> None:
    totals = {
        match: [
            (1 - build(inputs(*sample(seed)), match=match).pairs["score"].to_numpy()).sum()
            for seed in range(6)
        ]
        for match in ("greedy", "optimal")
    }
    assert all(o <= g + 1e-9 for o, g in zip(totals["optimal"], totals["greedy"], strict=True))
    assert sum(totals["optimal"]) < sum(totals["greedy"])


def test_a_caliper_keeps_the_near_ones_and_counts_the_others() -> None:
    table, rows = sample()
    whole = build(inputs(table, rows), neighbours=2)
    near = [
        pair for pair, s in zip(pairs(whole), whole.pairs["score"].to_pylist(), strict=True) if 1 - s <= 0.3
    ]
    made = build(inputs(table, rows), neighbours=2, caliper=0.3)
    assert set(pairs(made)) == set(near) and 0 < len(near) < whole.pairs.num_rows
    assert f"caliper 0.3 leaves {len(near)} of {whole.pairs.num_rows} proposed pairs" in made.notes


def test_a_caliper_that_leaves_nothing_names_the_one_that_would() -> None:
    table, rows = sample()
    with pytest.raises(DataError, match="the caliper leaves no pair: got 1e-05, expected at least") as caught:
        build(inputs(table, rows), caliper=1e-5)
    enough = float(str(caught.value.expected).split()[2].rstrip(","))
    assert build(inputs(table, rows), caliper=enough).pairs.num_rows == 1
    made = build(inputs(table, rows), caliper=enough)
    assert sum("is within the caliper" in note for note in made.notes) == 5


def test_inverted_lists_are_named_in_the_card_with_their_recall(monkeypatch: pytest.MonkeyPatch) -> None:
    table = items([0] * 1200, [0, 1] * 600)
    centres = np.random.default_rng(1).normal(size=(20, 8))
    rng = np.random.default_rng(0)
    rows = centres[rng.integers(20, size=1200)] + 0.3 * rng.normal(size=(1200, 8))
    made = build(inputs(table, rows), index="ivf", recall=0.5)
    (note,) = (note for note in made.notes if "approximate" in note)
    assert "2 of 2 searches: recall 0." in note or "recall 1." in note
    assert note in made.card and "inverted lists, measured recall" in made.card
    monkeypatch.setattr(indices, "LIST_SHARE", 10**6)
    exact = build(inputs(table, rows), index="ivf", recall=1.0)
    assert any("searches are exact since inverted lists" in note for note in exact.notes)
    assert exact.pairs.equals(build(inputs(table, rows)).pairs)


def test_items_without_a_value_are_left_out_and_counted() -> None:
    table, rows = sample()
    subject = [None if i < 3 else f"s{i}" for i in range(N)]
    table = table.set_column(table.column_names.index("subject"), "subject", pa.array(subject))
    made = build(inputs(table, rows), differ=["env", "subject"])
    assert "3 training items have no value in label or env or subject and are left out" in made.notes
    assert not {0, 1, 2} & {i for pair in pairs(made) for i in pair}


def test_more_neighbours_than_items_is_said() -> None:
    table, rows = sample()
    made = build(inputs(table, rows), neighbours=30)
    assert "some items have fewer than 30 neighbours: all are proposed" in made.notes


class Counted:
    """A progress that remembers what was announced and what was done."""

    def __init__(self) -> None:
        self.total = self.done = 0

    @contextmanager
    def task(self, _description: str, total: int) -> Iterator[Advance]:
        self.total += total
        yield self.advance

    def advance(self, step: int) -> None:
        self.done += step

    def say(self, line: str) -> None:
        raise AssertionError(line)


@pytest.mark.parametrize(
    "options", [*CASES, {"match": "greedy"}, {"differ": ["env", "split"], "neighbours": 50}]
)
def test_progress_ends_where_it_said(options: dict[str, object]) -> None:
    seen = Counted()
    with suppress(DataError):
        build(replace(inputs(*sample()), progress=seen), **options)
    assert seen.done == seen.total > 0


def with_list(given_: BuildInputs) -> BuildInputs:
    return replace(given_, manifest=given_.manifest.append_column("boxes", pa.array([[1]] * N)))


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"same": ["label", "bred"]}, ConfigError, "no such column: got 'bred', expected perhaps 'breed'"),
        ({"same": ["label", "boxes"]}, ConfigError, "'boxes' cannot be compared"),
        ({"differ": ["mask_path"]}, DataError, "no training item has a value in column 'mask_path'"),
        ({"same": ["item_id"]}, DataError, "no two training items satisfy the constraints"),
        ({"differ": ["env", "split"]}, DataError, "no two training items satisfy the constraints"),
        ({"same": ["env"], "differ": ["label"], "match": "optimal"}, ConfigError, "use match 'greedy'"),
    ],
)
def test_constraints_that_cannot_be_met_are_one_line(
    options: dict[str, object], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        build(with_list(inputs(*sample())), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"same": ["label", "env"]}, "'env' stands both in 'same' and in 'differ'"),
        ({"same": ["env_name"]}, "'env' stands both"),
        ({"match": "best"}, "match"),
        ({"caliper": 0}, "caliper"),
        ({"neighbors": 3}, "perhaps 'neighbours'"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_options(NearestOptions, options, "options")


def test_one_environment_or_label() -> None:
    with pytest.raises(DataError, match="two environments"):
        build(inputs(items([0, 1, 0], [1, 1, 1]), np.eye(3)))
    with pytest.raises(DataError, match="share a label"):
        build(inputs(items([0, 1], [0, 1]), np.eye(2)))
    made = build(inputs(items([0, 0], [0, 1]), np.eye(2)))
    assert made.notes[0] == "only one label in split train, 'cat'"


def test_bad_vectors_are_named() -> None:
    table, rows = sample()
    rows[[3, 5]] = np.nan
    with pytest.raises(DataError, match="got 2, such as that of 'item-00003', 'item-00005'"):
        build(inputs(table, rows))
    given_ = inputs(table, rows)
    none = replace(given_, embeddings=Embeddings(["x"], np.ones((1, 6))))
    with pytest.raises(DataError, match="no training item has an embedding"):
        build(none)
