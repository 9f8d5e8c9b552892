"""Time nearest pairs against raw FAISS and scikit-learn on the same simulated embeddings, in one run.

One label, two environments: every item of either looks for its nearest one in the other. FAISS makes the same
two searches and nothing else; scikit-learn does so by brute force on all cores. Each contender runs in
a process of its own, which also tells its peak memory; rounds alternate and the fastest counts. The last
lines show one-to-one matching. Usage: python pipelines/bench_matching.py [--n 20000] [--d 512] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

CONTENDERS = {
    "raw": "raw FAISS, IndexFlatIP",
    "ours": "cfpairs nearest, exact",
    "sklearn": "scikit-learn, brute force",
    "ivf": "cfpairs nearest, inverted lists",
    "greedy": "cfpairs nearest, greedy one-to-one",
    "optimal": "cfpairs nearest, optimal one-to-one",
}
REPEATED = ("raw", "ours", "sklearn")


def simulate(n: int, d: int, seed: int) -> np.ndarray:
    """Embedding-like rows, shape (2n, d): clusters, a decaying spectrum and a shift between the halves."""
    rng = np.random.default_rng(seed)
    spread = np.arange(1, d + 1, dtype=np.float32) ** -0.5
    centres = rng.normal(size=(200, d)).astype(np.float32)
    rows = 0.8 * rng.standard_normal((2 * n, d), dtype=np.float32) + centres[rng.integers(200, size=2 * n)]
    rows *= spread
    rows[n:] += 0.2 * spread
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def manifest(n: int) -> pa.Table:
    """Items of one label, the first half in one environment, the second in another."""
    size = 2 * n
    env = np.repeat([0, 1], n)
    return pa.table(
        {
            "item_id": [f"{i:07d}" for i in range(size)],
            "path": [f"{i}.png" for i in range(size)],
            "split": ["train"] * size,
            "label": pa.array(np.zeros(size), pa.int32()),
            "label_name": ["bird"] * size,
            "env": pa.array(env, pa.int32()),
            "env_name": np.array(["land", "water"])[env],
            "origin": ["source"] * size,
        }
    )


def search_faiss(rows: np.ndarray, n: int) -> dict[str, Any]:
    """The two searches by FAISS alone."""
    import faiss

    for others, queries in ((rows[n:], rows[:n]), (rows[:n], rows[n:])):
        index = faiss.IndexFlatIP(rows.shape[1])
        index.add(others)
        index.search(queries, 1)
    return {}


def search_sklearn(rows: np.ndarray, n: int) -> dict[str, Any]:
    """The two searches by scikit-learn."""
    from sklearn.neighbors import NearestNeighbors

    for others, queries in ((rows[n:], rows[:n]), (rows[:n], rows[n:])):
        finder = NearestNeighbors(n_neighbors=1, algorithm="brute", metric="cosine", n_jobs=-1)
        finder.fit(others).kneighbors(queries)
    return {}


def search_cfpairs(rows: np.ndarray, n: int, **options: object) -> dict[str, Any]:
    """The whole builder: checks, both searches, ranking and the table of 1000 pairs."""
    from cfpairs.pairs.base import BuildInputs
    from cfpairs.pairs.nearest import NearestBuilder, NearestOptions
    from cfpairs.vectors import Embeddings
    from cfpairs.workspace import Workspace

    table = manifest(n)
    embeddings = Embeddings(table["item_id"].to_pylist(), rows)
    given = BuildInputs(Workspace(Path()), "nearest", table, min(1000, n), 0, embeddings)
    made = NearestBuilder(NearestOptions.model_validate(options)).build(given)
    scores = made.pairs["score"].to_numpy()
    found = [f"mean cosine of {len(scores)} pairs {scores.mean():.4f}"]
    return {"said": "; ".join(found + [note for note in made.notes if "search" in note])}


def run_one(which: str, n: int, d: int, seed: int) -> None:
    """Time one contender in this process and print what came of it as JSON."""
    rows = simulate(n, d, seed)
    # Loads the libraries and starts their threads.
    search_faiss(rows[:200], 100)
    search_sklearn(rows[:200], 100)
    search_cfpairs(rows[:200], 100)
    options: dict[str, Any] = {
        "ours": {"index": "flat"},
        "ivf": {"index": "ivf"},
        "greedy": {"match": "greedy"},
        "optimal": {"match": "optimal"},
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begun = time.perf_counter()
    if which == "raw":
        found = search_faiss(rows, n)
    elif which == "sklearn":
        found = search_sklearn(rows, n)
    else:
        found = search_cfpairs(rows, n, **options[which])
    seconds = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({**found, "seconds": seconds, "peak": after / 1024, "grown": (after - before) / 1024}))


def in_a_process(which: str, args: argparse.Namespace) -> dict[str, Any]:
    """Run one contender in a new process."""
    sizes = ["--n", str(args.n), "--d", str(args.d), "--seed", str(args.seed)]
    command = [sys.executable, "-W", "ignore", __file__, "--only", which, *sizes]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print one row a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=20_000, help="items of each environment")
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", nargs="*", default=[], choices=CONTENDERS)
    parser.add_argument("--only", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        run_one(args.only, args.n, args.d, args.seed)
        return
    runs: dict[str, list[dict[str, Any]]] = {which: [] for which in CONTENDERS if which not in args.skip}
    for number in range(args.rounds):
        for which, found in runs.items():
            if number == 0 or which in REPEATED:
                found.append(in_a_process(which, args))
    best = {which: min(run["seconds"] for run in found) for which, found in runs.items()}
    vectors = 2 * args.n * args.d * 4 / 2**20
    print(f"{args.n} x {args.n} in both directions, d = {args.d}, k = 1; the vectors take {vectors:.0f} MiB")
    print(f"{'':36}{'seconds':>8}{'x FAISS':>9}{'peak MiB':>10}{'of it added':>12}")
    for which, found in runs.items():
        ratio = f"{best[which] / best['raw']:9.2f}" if "raw" in best else f"{'':9}"
        peak, grown = (max(run[name] for run in found) for name in ("peak", "grown"))
        print(f"{CONTENDERS[which]:36}{best[which]:8.2f}{ratio}{peak:10.0f}{grown:12.0f}")
        if "said" in found[0]:
            print(f"    {found[0]['said']}")


if __name__ == "__main__":
    main()
