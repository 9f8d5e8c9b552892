"""FAISS indices of unit vectors: exact, or inverted lists whose recall is measured before they are used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from math import isqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["IVF_FROM", "Index", "IndexKind", "SearchReport", "exact_index", "load_faiss", "make_index"]

IndexKind = Literal["auto", "flat", "ivf"]

IVF_FROM = 100_000
"""Rows from which ``auto`` tries inverted lists: below, an exact search takes about a minute at most."""

SAMPLE = 512
"""Queries on which the recall is measured."""

LIST_SHARE = 8
"""At most one list in so many is probed; where that is not enough, the search is exact."""

SMALLEST = 256
"""Rows below which inverted lists are not worth making, whatever is asked for."""

GPU_WIDEST = 2048
"""Most neighbours that FAISS finds on a GPU."""

Found = tuple[NDArray[np.float32], NDArray[np.int64]]


@dataclass(frozen=True)
class SearchReport:
    """What an approximate search was, or tried to be.

    Attributes
    ----------
    lists, probes : int
        Inverted lists made, and probed by each query.
    recall : float
        Share of the true neighbours of `queries` sampled queries that were found.
    queries : int
    used : bool
        False if the recall was too low with as many probes as are allowed, and the search was exact.
    """

    lists: int
    probes: int
    recall: float
    queries: int
    used: bool


class Index:
    """An index of rows, on a GPU where FAISS has one.

    Parameters
    ----------
    on_cpu : faiss.Index
    report : SearchReport, optional
        Present if inverted lists were asked for.
    """

    def __init__(self, on_cpu: Any, report: SearchReport | None = None) -> None:
        self.report = report
        self._cpu = on_cpu
        self._gpu, self._resources = _to_gpu(on_cpu)

    @property
    def exact(self) -> bool:
        """Whether every row is compared with every query."""
        return self.report is None or not self.report.used

    @property
    def on_gpu(self) -> bool:
        """Whether a GPU does the search."""
        return self._gpu is not None

    def search(self, queries: NDArray[np.float32], width: int) -> Found:
        """Inner products and rows of the `width` nearest, each (n, width); -inf, -1 where there are fewer."""
        index = self._cpu if self._gpu is None or width > GPU_WIDEST else self._gpu
        rough, near = index.search(queries, width)
        rough[near < 0] = -np.inf
        return rough, near


def make_index(
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    kind: IndexKind = "auto",
    recall: float = 0.95,
    seed: int = 0,
) -> Index:
    """An index of `rows` for `queries`.

    Parameters
    ----------
    rows : ndarray of shape (m, d)
        Unit vectors.
    queries : ndarray of shape (n, d)
        What will be searched for; a sample of it measures the recall.
    k : int
        Neighbours at which the recall is measured.
    kind : {"auto", "flat", "ivf"}
        ``auto`` is exact below `IVF_FROM` rows.
    recall : float
        Lists are probed, twice as many at each try, until this share of the true neighbours is found.
    seed : int
        Of the lists' centres and of the sample.
    """
    wanted = kind == "ivf" or (kind == "auto" and len(rows) >= IVF_FROM)
    if not wanted or len(rows) < SMALLEST:
        return exact_index(rows)
    index = _inverted_lists(rows, seed)
    report = _probe_enough(index, rows, queries, min(k, len(rows)), recall, seed)
    if report.used:
        return Index(index, report)
    exact = exact_index(rows)
    exact.report = report
    return exact


def exact_index(rows: NDArray[np.float32]) -> Index:
    """An index that compares every row."""
    index = load_faiss().IndexFlatIP(rows.shape[1])
    index.add(rows)
    return Index(index)


def load_faiss() -> Any:
    """The module, without the warnings of the wrapper that it is built with."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import faiss
    return faiss


def _inverted_lists(rows: NDArray[np.float32], seed: int) -> Any:
    faiss = load_faiss()
    dim = rows.shape[1]
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, 2 * isqrt(len(rows)), faiss.METRIC_INNER_PRODUCT)
    index.cp.seed = 1 + seed % (2**31 - 1)
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1
    index.cp.max_points_per_centroid = 64
    index.train(rows)
    index.add(rows)
    return index


def _probe_enough(
    index: Any,
    rows: NDArray[np.float32],
    queries: NDArray[np.float32],
    k: int,
    wanted: float,
    seed: int,
) -> SearchReport:
    rng = np.random.default_rng([seed, len(rows), len(queries)])
    sample = queries[np.sort(rng.permutation(len(queries))[:SAMPLE])]
    faiss = load_faiss()
    truth, _ = faiss.knn(sample, rows, k, metric=faiss.METRIC_INNER_PRODUCT)
    # The worst true neighbour, less what float32 cannot tell apart: a tied row is as good.
    enough = truth[:, -1:] - 1e-5
    most = max(1, index.nlist // LIST_SHARE)
    probes, reached = 0, 0.0
    while reached < wanted and probes < most:
        probes = min(max(1, 2 * probes), most)
        index.nprobe = probes
        rough, near = index.search(sample, k)
        reached = float(((near >= 0) & (rough >= enough)).mean())
    return SearchReport(int(index.nlist), probes, reached, len(sample), reached >= wanted)


def _to_gpu(index: Any) -> tuple[Any, Any]:
    """The index on the first GPU and the memory it needs; None, None where there is none or too little."""
    faiss = load_faiss()
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        return None, None
    try:
        resources = faiss.StandardGpuResources()
        return faiss.index_cpu_to_gpu(resources, 0, index), resources
    except RuntimeError:
        return None, None
