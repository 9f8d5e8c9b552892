"""Time a whole grid of NCM probes against scikit-learn fitted setting by setting.

Both solve the same problems (same C, same projected rows) on the same simulated embeddings, in one run; the
objectives that they reach are compared. Usage: python pipelines/bench_sweep.py [--n 5000] [--d 512]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from sklearn.linear_model import LogisticRegression

from cfpairs import fit_sweep
from cfpairs.probes.solver import principal_axes

C = 1e-2
RANKS = tuple(range(65))
SAMPLED = (0, 16, 64)


def simulate(n: int, d: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embedding-like rows (decaying spectrum), noisy labels and k noisy pair differences."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(d, d)))
    spread = np.arange(1, d + 1) ** -0.5
    X = (rng.normal(size=(n, d)) * spread) @ basis.T * np.sqrt(d / (spread**2).sum())
    y = (X @ basis[:, :20].sum(axis=1) + 3 * rng.normal(size=n) > 0).astype(int)
    D = rng.normal(size=(k, 20)) @ basis[:, 5:25].T * 3 + 0.3 * rng.normal(size=(k, d))
    return X, y, D


def objective(coef: np.ndarray, intercept: float, X: np.ndarray, y: np.ndarray) -> float:
    """C times the summed loss plus half the squared norm, as scikit-learn minimises it."""
    z = X @ coef + intercept
    return float(C * np.logaddexp(0, np.where(y == 1, -z, z)).sum() + 0.5 * coef @ coef)


def main() -> None:
    """Print one row a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--k", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    X, y, D = simulate(args.n, args.d, args.k, args.seed)
    principal_axes(X[: args.d])  # the libraries' first call loads and starts their threads

    begun = time.perf_counter()
    sweep = fit_sweep(X, y, differences=D, methods=["ncm"], r=RANKS, C=[C], tol=1e-6)
    ours = time.perf_counter() - begun

    theirs, gaps = 0.0, []
    for r in SAMPLED:
        Q = sweep.directions.top(r)
        begun = time.perf_counter()
        rows = X - (X @ Q) @ Q.T
        fit = LogisticRegression(C=C, tol=1e-6, max_iter=10_000).fit(rows, y)
        theirs += time.perf_counter() - begun
        one = RANKS.index(r)
        reached = objective(sweep.fits.coef[one, 0], sweep.fits.intercept[one, 0], X, y)
        gaps.append(reached / objective(fit.coef_[0], fit.intercept_[0], rows, y) - 1)
    theirs *= len(RANKS) / len(SAMPLED)
    print(f"n = {args.n}, d = {args.d}, k = {args.k}, C = {C}, r = 0..64 ({len(RANKS)} fits)")
    print(f"cfpairs fit_sweep           {ours:8.2f} s")
    print(f"scikit-learn, one by one    {theirs:8.2f} s  (from r = {', '.join(map(str, SAMPLED))})")
    print(f"ratio                       {theirs / ours:8.1f}")
    print(f"largest relative excess of our objective {max(gaps):.1e}")


if __name__ == "__main__":
    main()
