"""Neighbour search against a brute force in numpy."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matching_runs import cosines, unit
from numpy.typing import NDArray

from cfpairs.pairs.matching import indices, search
from cfpairs.pairs.matching.indices import Index, exact_index, load_faiss, make_index
from cfpairs.pairs.matching.search import SPARE, nearest_neighbours


def brute_force(
    queries: NDArray[np.float32],
    others: NDArray[np.float32],
    k: int,
    forbidden: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Places (n, k), -1 where fewer are permitted."""
    scores = cosines(queries, others)
    if forbidden is not None:
        scores[forbidden] = -np.inf
    order = np.stack([np.lexsort((np.arange(len(others)), -row))[:k] for row in scores])
    return np.where(np.isfinite(np.take_along_axis(scores, order, axis=1)), order, -1)


def clusters(n: int, d: int = 16, seed: int = 0, offset: float = 0.0) -> NDArray[np.float32]:
    centres = np.random.default_rng(99).normal(size=(40, d))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(40, size=n)] + 0.4 * rng.normal(size=(n, d)) + offset)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 40),
    m=st.integers(1, 60),
    k=st.integers(1, 5),
    distinct=st.integers(1, 60),
    seed=st.integers(0, 1000),
)
def test_neighbours_are_those_of_brute_force_also_when_tied(
    n: int, m: int, k: int, distinct: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    # Few distinct rows make many exact ties.
    others = unit(rng.normal(size=(distinct, 8)))[rng.integers(distinct, size=m)]
    queries = unit(rng.normal(size=(n, 8)))
    found = nearest_neighbours(queries, others, k)
    assert (found.places == brute_force(queries, others, min(k, m))).all()
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert found.scores[:, 0] == pytest.approx(cosines(queries, others).max(axis=1), abs=2e-6)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(1, 30),
    m=st.integers(1, 60),
    k=st.integers(1, 4),
    values=st.tuples(st.integers(1, 4), st.integers(1, 40)),
    many=st.integers(0, 12),
    seed=st.integers(0, 1000),
)
def test_no_neighbour_shares_a_forbidden_value(
    n: int, m: int, k: int, values: tuple[int, int], many: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    queries, others = unit(rng.normal(size=(n, 6))), unit(rng.normal(size=(m, 6)))
    mine = np.stack([rng.integers(v, size=n) for v in values], axis=1)
    theirs = np.stack([rng.integers(v, size=m) for v in values], axis=1)
    with pytest.MonkeyPatch.context() as patch:
        # Both ways of passing over forbidden rows, and searches that have to go further.
        patch.setattr(search, "FORBIDDEN", many)
        patch.setattr(search, "SPARE", 1)
        found = nearest_neighbours(queries, others, k, query_codes=mine, other_codes=theirs)
    forbidden = (mine[:, None] == theirs[None]).any(axis=2)
    assert (found.places == brute_force(queries, others, min(k, m), forbidden)).all()
    assert (np.isfinite(found.scores) == (found.places >= 0)).all()


def test_many_ties_reach_beyond_the_first_search() -> None:
    others = np.tile(unit(np.ones((1, 4))), (20 * SPARE, 1))
    found = nearest_neighbours(others[:3], others, 2)
    assert (found.places == [[0, 1]] * 3).all()


def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, others = clusters(300), clusters(400, seed=1)
    whole = nearest_neighbours(queries, others, 3)
    done: list[int] = []
    monkeypatch.setattr(search, "QUERIES", 7)
    monkeypatch.setattr(search, "ENTRIES", 50)
    faiss = load_faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        parts = nearest_neighbours(queries, others, 3, advance=done.append)
    finally:
        faiss.omp_set_num_threads(threads)
    assert (parts.places == whole.places).all() and (parts.scores == whole.scores).all()
    assert sum(done) == 300 and max(done) == 7


def test_inverted_lists_state_the_recall_that_they_have() -> None:
    queries, others = clusters(900), clusters(3000, seed=1)
    found = nearest_neighbours(queries, others, 2, kind="ivf", recall=0.9, seed=4)
    (report,) = found.reports
    assert report.used and 1 <= report.probes <= report.lists // indices.LIST_SHARE
    truth = brute_force(queries, others, 2)
    true = np.mean([len(set(a) & set(b)) / 2 for a, b in zip(found.places, truth, strict=True)])
    # The stated recall is that of 512 queries: three standard errors of a share near .9.
    assert report.recall >= 0.9 and true == pytest.approx(report.recall, abs=0.04)
    again = nearest_neighbours(queries, others, 2, kind="ivf", recall=0.9, seed=4)
    assert (again.places == found.places).all()


def test_more_probes_for_a_higher_recall() -> None:
    queries, others = clusters(600), clusters(3000, seed=1)
    low, high = (make_index(others, queries, 2, "ivf", recall).report for recall in (0.3, 0.97))
    assert low is not None and high is not None
    assert low.probes < high.probes and low.recall < high.recall


def test_a_recall_out_of_reach_makes_the_search_exact() -> None:
    rng = np.random.default_rng(0)
    queries, others = unit(rng.normal(size=(200, 32))), unit(rng.normal(size=(1000, 32)))
    found = nearest_neighbours(queries, others, 2, kind="ivf", recall=1.0)
    (report,) = found.reports
    assert not report.used and report.recall < 1
    assert (found.places == brute_force(queries, others, 2)).all()


def test_auto_is_exact_below_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = clusters(300)
    assert make_index(rows, rows, 1).report is None
    monkeypatch.setattr(indices, "IVF_FROM", 300)
    assert make_index(rows, rows, 1).report is not None
    assert make_index(rows, rows, 1, "flat").report is None
    assert make_index(rows[:100], rows, 1, "ivf").report is None


def test_a_gpu_that_lacks_memory_leaves_the_search_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise RuntimeError("out of memory")

    real = load_faiss()
    fake = SimpleNamespace(
        IndexFlatIP=real.IndexFlatIP,
        StandardGpuResources=object,
        get_num_gpus=lambda: 1,
        index_cpu_to_gpu=full,
    )
    monkeypatch.setattr(indices, "load_faiss", lambda: fake)
    rows = clusters(20)
    index = exact_index(rows)
    assert not index.on_gpu
    assert (index.search(rows, 1)[1][:, 0] == np.arange(20)).all()


def test_a_gpu_does_the_searches_that_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pretended:
        """Stands for an index on a GPU and counts its searches."""

        def __init__(self, index: object) -> None:
            self.index, self.widths = index, []

        def search(self, queries: NDArray[np.float32], width: int) -> object:
            self.widths.append(width)
            return self.index.search(queries, width)

    fake = SimpleNamespace(
        StandardGpuResources=object,
        get_num_gpus=lambda: 1,
        index_cpu_to_gpu=lambda _resources, _device, index: Pretended(index),
    )
    rows = clusters(3000)
    on_cpu = load_faiss().IndexFlatIP(rows.shape[1])
    on_cpu.add(rows)
    monkeypatch.setattr(indices, "load_faiss", lambda: fake)
    index = Index(on_cpu)
    assert index.on_gpu
    index.search(rows[:2], 5)
    index.search(rows[:2], indices.GPU_WIDEST + 1)
    assert index._gpu.widths == [5]


@pytest.mark.gpu
def test_a_real_gpu_finds_what_the_processor_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    if not load_faiss().get_num_gpus():
        pytest.skip("faiss sees no GPU")
    queries, others = clusters(2000, d=64), clusters(3000, d=64, seed=1)
    assert exact_index(others).on_gpu
    found = nearest_neighbours(queries, others, 3)
    monkeypatch.setattr(indices, "_to_gpu", lambda _index: (None, None))
    assert (found.places == nearest_neighbours(queries, others, 3).places).all()
