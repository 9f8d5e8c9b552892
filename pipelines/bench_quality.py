"""Time the assessment of many pairs against one Gram product and eigendecomposition, and count its memory.

The pairs lie in a file and are read in blocks. The yardstick is BLAS' float64 product D^T D of the same pairs
in memory, on all cores, and the eigendecomposition of the result; the assessment is everything that
`assess_pairs` finds of differences alone but its resampling (`draws=0`). The two take turns, and the least
time of each counts: the speed of a machine changes with what else it does. Memory is what Python and NumPy
hold at most beside the file.
Usage: python pipelines/bench_quality.py [--k 100000] [--d 768]
"""

from __future__ import annotations

import argparse
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cfpairs import assess_pairs

DIRECTIONS = 10
BLOCK = 8192


def write_pairs(path: Path, k: int, d: int, seed: int) -> np.memmap:
    """Differences with ten directions in noise, and one broken pair in a hundred, as a file."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.normal(size=(d, DIRECTIONS)))[0] * np.linspace(1.0, 3.0, DIRECTIONS)
    D = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(k, d))
    for start in range(0, k, BLOCK):
        rows = D[start : start + BLOCK]
        rows[:] = rng.standard_normal(rows.shape) + rng.normal(size=(len(rows), DIRECTIONS)) @ axes.T
        rows[::100] *= 3.0
    D.flush()
    return np.load(path, mmap_mode="r")


def seconds(works: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Least wall time of each of some works that take turns."""
    least = [np.inf] * len(works)
    for _ in range(rounds):
        for place, work in enumerate(works):
            time.sleep(0.2)  # BLAS' threads go on waiting for work some time after the last
            begun = time.perf_counter()
            work()
            least[place] = min(least[place], time.perf_counter() - begun)
    return least


def peak(work: Callable[[], object]) -> float:
    """Most memory held at once, MiB."""
    tracemalloc.start()
    work()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most / 2**20


def main() -> None:
    """Print the ratio, and the memory for a quarter, half and all of the pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--k", type=int, default=100_000)
    parser.add_argument("--d", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        D = write_pairs(Path(folder) / "differences.npy", args.k, args.d, args.seed)
        held = np.array(D)
        works = (lambda: np.linalg.eigh(held.T @ held), lambda: assess_pairs(D, draws=0))
        blas, ours = seconds(works, args.rounds)
        memory = [
            (k, peak(lambda k=k: assess_pairs(D[:k], draws=0))) for k in (args.k // 4, args.k // 2, args.k)
        ]
        found = assess_pairs(D)
    print(f"k = {args.k}, d = {args.d}, float64, pairs in a file")
    print(f"D^T D and its eigenvectors, BLAS   {blas:8.2f} s")
    print(f"assessment but for resampling      {ours:8.2f} s")
    print(f"ratio                              {ours / blas:8.2f}")
    for k, most in memory:
        print(f"memory at k = {k:<8}             {most:8.0f} MiB")
    print(f"directions {found.rank} of {DIRECTIONS}, sigma {found.sigma:.3f} of 1, {len(found.flags)} flags")


if __name__ == "__main__":
    main()
