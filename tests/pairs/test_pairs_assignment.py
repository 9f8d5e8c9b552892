"""One-to-one choices against every possible choice."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cfpairs.pairs.matching import assignment
from cfpairs.pairs.matching.assignment import Candidates, greedy, optimal


def some(n: int, m: int, share: float, seed: int, decimals: int = 6) -> Candidates:
    """Candidates between rows 0..n-1 and rows 100..100+m-1, a share of all, in no order."""
    rng = np.random.default_rng(seed)
    a, b = np.nonzero(rng.random((n, m)) < share)
    shuffled = rng.permutation(len(a))
    score = np.round(rng.uniform(-1, 1, len(a)), decimals)
    return Candidates(a[shuffled], 100 + b[shuffled], score)


def best_of_all(candidates: Candidates, n: int, m: int) -> tuple[int, float]:
    """Most pairs and their smallest total distance, by trying every choice."""
    distance = {
        (a, b - 100): 1 - s
        for a, b, s in zip(
            candidates.a.tolist(), candidates.b.tolist(), candidates.score.tolist(), strict=True
        )
    }
    places = [*range(m), *[None] * n]
    best = (0, 0.0)
    for choice in set(permutations(places, n)):
        used = [distance[pair] for pair in enumerate(choice) if pair in distance]
        if all(j is None or (i, j) in distance for i, j in enumerate(choice)):
            best = min(best, (-len(used), sum(used)))
    return -best[0], best[1]


def is_one_to_one(found: Candidates) -> bool:
    return len(set(found.a.tolist())) == len(set(found.b.tolist())) == len(found)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 3),
    m=st.integers(1, 4),
    share=st.floats(0.2, 1),
    seed=st.integers(0, 10_000),
    dense=st.booleans(),
)
def test_optimal_is_the_best_of_all_choices(n: int, m: int, share: float, seed: int, dense: bool) -> None:
    candidates = some(n, m, share, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "DENSE", 10**6 if dense else 0)
        found = optimal(candidates)
    count, total = best_of_all(candidates, n, m)
    assert is_one_to_one(found) and len(found) == count
    assert (1 - found.score).sum() == pytest.approx(total, abs=1e-9)
    assert found.score.tolist() == sorted(found.score, reverse=True)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), m=st.integers(1, 30), share=st.floats(0.05, 1), seed=st.integers(0, 10_000))
def test_optimal_is_never_worse_than_greedy(n: int, m: int, share: float, seed: int) -> None:
    candidates = some(n, m, share, seed)
    one, other = optimal(candidates), greedy(candidates)
    assert is_one_to_one(one) and is_one_to_one(other)
    assert len(one) >= len(other)
    if len(one) == len(other):
        assert (1 - one.score).sum() <= (1 - other.score).sum() + 1e-9


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 12), m=st.integers(1, 12), share=st.floats(0.1, 1), seed=st.integers(0, 10_000))
def test_greedy_takes_the_closest_of_what_is_left(n: int, m: int, share: float, seed: int) -> None:
    # One decimal makes ties.
    candidates = some(n, m, share, seed, decimals=1)
    left = sorted(zip(-candidates.score, candidates.a.tolist(), candidates.b.tolist(), strict=True))
    expected = []
    while left:
        _, a, b = left[0]
        expected.append((a, b))
        left = [pair for pair in left if pair[1] != a and pair[2] != b]
    found = greedy(candidates)
    assert list(zip(found.a.tolist(), found.b.tolist(), strict=True)) == expected


def test_optimal_beats_greedy_where_the_closest_pair_is_in_the_way() -> None:
    chain = Candidates(np.array([0, 0, 1, 1]), np.array([5, 6, 5, 6]), np.array([0.9, 0.8, 0.8, -0.9]))
    assert (1 - optimal(chain).score).sum() == pytest.approx(0.4)
    assert (1 - greedy(chain).score).sum() == pytest.approx(2.0)


def test_nothing_to_choose_from() -> None:
    none = some(2, 2, 0.0, 0)
    assert len(optimal(none)) == len(greedy(none)) == 0
