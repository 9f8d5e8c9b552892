"""Time whole grids of probes against fits one by one.

First NCM against scikit-learn fitted setting by setting: both solve the same problems (same C, same projected
rows) on the same simulated embeddings, in one run; the objectives that they reach are compared. Then twelve
methods with twenty settings and three seeds each against loops in torch that take the same steps on the same
rows, one fit at a time; a sweep fits a method that draws nothing once for all seeds.
Last, NCM for r = 0..64 on 100,000 rows of 768 dimensions, with the peak of the process's memory.
Usage: python pipelines/bench_sweep.py [--n 5000] [--d 512] [--large-n 100000] [--only large]
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from cfpairs import fit_sweep
from cfpairs.probes.distances import GAMMAS
from cfpairs.probes.method import FitData, Rows, Setting
from cfpairs.probes.solver import principal_axes
from cfpairs.registry import resolve

C = 1e-2
RANKS = tuple(range(65))
SAMPLED = (0, 16, 64)

METHODS = (
    "erm", "erm-group", "irm", "vrex", "groupdro", "fish", "mixup", "lisa", "coral", "mmd", "causirl-coral",
    "causirl-mmd",
)  # fmt: skip
SETTINGS, SEEDS = 20, (0, 1, 2)
ONE_BY_ONE = 6
BATCH_ROWS = 64


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


def methods_at_once(X: np.ndarray, y: np.ndarray, env: np.ndarray) -> None:
    """Print seconds of every method's sweep and of the loops, and their ratio."""
    rows = Rows((X @ principal_axes(X)).astype(np.float32), y.astype(np.int64), env.astype(np.int64))
    ridge = [float(c) for c in np.logspace(-5, 0, 4)]
    print(f"{SETTINGS} settings x {len(SEEDS)} seeds a method, seconds")
    print(f"{'method':16}{'cfpairs':>10}{'one by one':>12}{'ratio':>8}")
    ours = theirs = 0.0
    data = FitData(rows, 2, 2)
    for name in METHODS:
        method = resolve("probes", name)()
        grid = {"C": np.logspace(-5, 0, 20) if name.startswith("erm") else ridge}
        settings = list(method.settings((0,), ridge, SETTINGS, grid))
        repeated, seeds = settings * len(SEEDS), [seed for seed in SEEDS for _ in settings]
        begun = time.perf_counter()
        if method.stochastic:
            fits = method.fit(data, repeated, seeds, tol=1e-4)
        else:
            fits = method.fit(data, settings, [0] * len(settings), tol=1e-4)
        batched = time.perf_counter() - begun
        loop = Loop(name, rows)
        chosen = np.linspace(0, len(repeated) - 1, ONE_BY_ONE).astype(int)
        loop.fit(repeated[0], 2)
        begun = time.perf_counter()
        for i in chosen:
            loop.fit(repeated[i], int(fits.iterations[i % len(fits.iterations)]))
        single = (time.perf_counter() - begun) * len(repeated) / ONE_BY_ONE
        ours, theirs = ours + batched, theirs + single
        print(f"{name:16}{batched:10.2f}{single:12.2f}{single / batched:8.1f}", flush=True)
    print(f"{'all':16}{ours:10.2f}{theirs:12.2f}{theirs / ours:8.1f}")
    print(f"(one by one: from {ONE_BY_ONE} of {SETTINGS * len(SEEDS)} fits a method)")


def large(n: int, d: int, k: int, seed: int) -> None:
    """Print seconds of NCM at every rank on many rows, and the peak memory of the process so far."""
    X, y, D = simulate(n, d, k, seed)
    begun, used = time.perf_counter(), time.process_time()
    sweep = fit_sweep(X, y, differences=D, methods=["ncm"], r=RANKS, C=[C], tol=1e-6)
    seconds, cpu = time.perf_counter() - begun, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    norm = float(sweep.fits.gradient_norm.max())
    print(f"\nn = {n}, d = {d}, k = {k}, r = 0..64 ({len(RANKS)} fits), gradient norm at most {norm:.0e}")
    print(f"cfpairs fit_sweep           {seconds:8.1f} s  ({cpu:.1f} s of processor time)")
    print(f"peak memory, data included  {peak:8.1f} GiB")


class Loop:
    """A method as its paper's code has it: one fit, autograd, torch's optimiser, rows mixed as rows."""

    def __init__(self, name: str, rows: Rows) -> None:
        # The loop sees the axes that the sweep moves, and no others.
        moving = max(
            256, int(np.searchsorted(np.cumsum(rows.X.var(axis=0)) / rows.X.var(axis=0).sum(), 0.95)) + 1
        )
        self.X = torch.from_numpy(np.ascontiguousarray(rows.X[:, :moving]))
        self.y = torch.from_numpy(rows.y.astype(np.float32))
        self.name, self.env = name, rows.env
        self.of = [torch.from_numpy(np.flatnonzero(rows.env == e)) for e in (0, 1)]
        self.groups = [torch.from_numpy(np.flatnonzero(rows.groups(2) == g)) for g in range(4)]
        self.rng = np.random.default_rng(0)

    def fit(self, setting: Setting, steps: int) -> None:
        """Take the steps."""
        n, m = self.X.shape
        params = dict(setting.params)
        ridge = 1.0 / (setting.C * n)
        two = "coral" in self.name or "mmd" in self.name
        width = int(params.get("p", 1))
        shapes = ((m, width), (width, 1)) if two else ((m, 1),)
        weights = [torch.randn(shape).mul_(0.1).requires_grad_() for shape in shapes]
        bias = torch.zeros(1, requires_grad=True)
        self.q = torch.full((4,), 0.25)

        def logits(X: torch.Tensor) -> torch.Tensor:
            return ((X @ weights[0] @ weights[1]) if two else X @ weights[0])[:, 0] + bias

        def cost() -> torch.Tensor:
            coef = weights[0] @ weights[1] if two else weights[0]
            return self.loss(logits, weights, params) + 0.5 * ridge * coef.square().sum()

        if self.name.startswith("erm"):
            self._lbfgs([*weights, bias], cost, steps)
        elif self.name == "fish":
            self._fish([*weights, bias], logits, ridge, params, steps)
        else:
            optimiser = torch.optim.Adam([*weights, bias], lr=0.05)
            for _ in range(steps):
                optimiser.zero_grad()
                cost().backward()
                optimiser.step()

    def _lbfgs(self, weights: list, cost: Callable[[], torch.Tensor], steps: int) -> None:
        optimiser = torch.optim.LBFGS(
            weights, max_iter=steps, history_size=8, tolerance_grad=0, tolerance_change=0,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> torch.Tensor:
            optimiser.zero_grad()
            value = cost()
            value.backward()
            return value

        optimiser.step(closure)

    def _fish(self, weights: list, logits: Callable, ridge: float, params: dict, steps: int) -> None:
        for _ in range(steps):
            before = [w.detach().clone() for w in weights]
            inner = torch.optim.SGD(weights, lr=params["lr"])
            for e in self.rng.permutation(2):
                inner.zero_grad()
                of = self.of[e]
                (
                    self._ce(logits(self.X[of]), self.y[of]) + 0.5 * ridge * weights[0].square().sum()
                ).backward()
                inner.step()
            with torch.no_grad():
                for w, old in zip(weights, before, strict=True):
                    w.copy_(old + params["eps"] * (w - old))

    def _ce(self, z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(z, y)

    def loss(self, logits: Callable, weights: list, params: dict) -> torch.Tensor:
        """The objective but for the ridge."""
        if self.name in ("mixup", "lisa"):
            return self._mixed(logits, params)
        z = logits(self.X)
        if self.name in ("erm-group", "groupdro"):
            risks = torch.stack([self._ce(z[of], self.y[of]) for of in self.groups])
            if self.name == "groupdro":
                self.q = torch.softmax(self.q.log() + params["eta"] * risks.detach(), dim=0)
            return (self.q * risks).sum()
        whole = self._ce(z, self.y)
        if self.name == "erm":
            return whole
        if self.name == "irm":
            penalty = torch.zeros(())
            for of in self.of:
                scale = torch.ones((), requires_grad=True)
                risk = self._ce(z[of] * scale, self.y[of])
                penalty = penalty + torch.autograd.grad(risk, scale, create_graph=True)[0].square() / 2
        elif self.name == "vrex":
            penalty = torch.stack([self._ce(z[of], self.y[of]) for of in self.of]).var(unbiased=False)
        else:
            penalty = self._apart(weights[0])
        return (whole + params["lambda"] * penalty) / max(1.0, params["lambda"])

    def _mixed(self, logits: Callable, params: dict) -> torch.Tensor:
        n = len(self.y)
        own = torch.from_numpy(self.rng.beta(params["alpha"], params["alpha"], n).astype(np.float32))
        other = torch.from_numpy(self.rng.permutation(n))
        rows = own[:, None] * self.X + (1 - own)[:, None] * self.X[other]
        return self._ce(logits(rows), own * self.y + (1 - own) * self.y[other])

    def _apart(self, W: torch.Tensor) -> torch.Tensor:
        parts = [self.X[of[torch.randint(len(of), (BATCH_ROWS // 2,))]] @ W for of in self.of]
        if self.name.startswith("causirl"):
            cuts = self.rng.integers(2, BATCH_ROWS // 2 - 1, 2)
            first = torch.cat([part[:cut] for part, cut in zip(parts, cuts, strict=True)])
            parts = [first, torch.cat([part[cut:] for part, cut in zip(parts, cuts, strict=True)])]
        a, b = parts
        if self.name.endswith("coral"):
            return (a.mean(0) - b.mean(0)).square().mean() + (torch.cov(a.T) - torch.cov(b.T)).square().mean()
        return self._kernel(a, a) + self._kernel(b, b) - 2 * self._kernel(a, b)

    def _kernel(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        apart = torch.cdist(a, b).square()
        return sum((torch.exp(-gamma * apart) for gamma in GAMMAS), torch.zeros_like(apart)).mean()


def main() -> None:
    """Print one row a contender."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=5000)
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--k", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--large-n", type=int, default=100_000)
    parser.add_argument("--large-d", type=int, default=768)
    parser.add_argument("--only", choices=["large"], help="leave the comparisons out")
    args = parser.parse_args()
    if args.only != "large":
        compare(args)
    large(args.large_n, args.large_d, args.k, args.seed)


def compare(args: argparse.Namespace) -> None:
    """Print the ratios."""
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
    print(f"largest relative excess of our objective {max(gaps):.1e}\n")
    env = np.random.default_rng(args.seed).integers(0, 2, args.n)
    methods_at_once(X, y, env)


if __name__ == "__main__":
    main()
