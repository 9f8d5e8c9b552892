"""Hold `assess_pairs` against planted truth and print a calibration table.

Simulated pairs with known directions, noise and faults over a grid: dimensions d, pairs k, directions s,
their strength (in units of the weakest that can be detected, sqrt(d / k)), and the kind of noise: even; as
uneven as CLIP's (variance ~ i^-0.6 in random axes, with items that vary alike); pairs of very different
lengths (heavy tails); and 10 % of pairs that are no pairs (three times as long, or broken edits of labelled
items). Every cell is the mean over fresh draws, on all cores.
Usage: python pipelines/validate_quality.py [--draws 8] [--seed 100]
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs import CounterfactualProjection, PairQuality, assess_pairs

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes
    ----------
    name : str
        Kind of noise: ``even``, ``uneven``, ``tails`` or ``broken``.
    d, k, s : int
    low, high : float
        Strengths of the directions, in units of the weakest that can be detected.
    """

    name: str
    d: int
    k: int
    s: int
    low: float
    high: float


@dataclass
class Drawn:
    """Pairs of one draw: differences (4 k, d), of which the first k are assessed, and what made them."""

    D: Array
    truth: Array
    sigma: float
    given: dict[str, Any] = field(default_factory=dict)


GRID = (
    Case("even", 256, 32, 5, 7.0, 13.5),
    Case("even", 256, 100, 10, 3.2, 6.0),
    Case("even", 768, 100, 20, 3.2, 6.0),
    Case("even", 768, 400, 20, 3.2, 6.0),
    Case("even", 256, 1000, 20, 3.2, 6.0),
    Case("even", 256, 1000, 20, 1.2, 2.3),
    Case("even", 768, 100, 0, 0.0, 0.0),
    Case("uneven", 256, 200, 10, 6.0, 12.0),
    Case("uneven", 256, 1000, 10, 6.0, 12.0),
    Case("uneven", 256, 100, 0, 0.0, 0.0),
    Case("tails", 256, 100, 10, 3.2, 6.0),
    Case("tails", 256, 1000, 20, 3.2, 6.0),
    Case("broken", 768, 400, 10, 3.2, 6.0),
)
BROKEN = ((0.1, 200), (0.3, 200), (1.0, 200))
"""Noise of the edits and number of pairs, for the pairs that are broken on purpose."""

N_ITEMS = 1500
BY = ("by_model", "by_bulk")


def draw(case: Case, seed: int) -> Drawn:
    """Pairs of one case."""
    rng = np.random.default_rng([seed, case.d, case.k, case.s])
    d, n = case.d, 4 * case.k
    axes = np.linalg.qr(rng.normal(size=(d, d)))[0]
    truth = axes[:, : case.s]
    strengths = np.linspace(case.low, case.high, case.s) * np.sqrt(d / case.k)
    noise, given = rng.normal(size=(n, d)), {}
    if case.name == "uneven":
        spread = np.arange(1, d + 1) ** -0.3
        spread /= np.sqrt((spread**2).mean())
        turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
        noise = (noise * spread) @ turn.T
        y, env = rng.integers(0, 2, N_ITEMS), rng.integers(0, 2, N_ITEMS)
        X = (rng.normal(size=(N_ITEMS, d)) * spread) @ turn.T
        X += 3.0 * np.outer(2 * y - 1, axes[:, -1])
        given = {"X": X, "y": y, "env": env}
    scores = rng.normal(size=(n, case.s)) * np.sqrt(strengths)
    rows = scores @ truth.T + noise
    if case.name == "tails":
        rows *= np.sqrt(1.0 / rng.gamma(2.5, 1.0 / 2.5, size=n) * 0.6)[:, None]
    if case.name == "broken":
        wrong = rng.permutation(n)[: n // 10]
        rows[wrong] = rng.normal(size=(len(wrong), d)) * 3.0 * np.linalg.norm(rows) / np.sqrt(rows.size)
    return Drawn(rows, truth, 1.0, given)


def distance(found: Array, truth: Array) -> float:
    """Root mean squared sine between the found directions and the true subspace."""
    cosines = np.linalg.svd(found.T @ truth, compute_uv=False)
    return float(np.sqrt(max(0.0, 1.0 - np.mean(cosines**2))))


def measure(case: Case, seed: int) -> dict[str, float]:
    """Figures of one draw; NaN where there is nothing to compare."""
    drawn = draw(case, seed)
    k, s = case.k, case.s
    quality = assess_pairs(drawn.D[:k], **drawn.given)
    low, high = quality.rank_interval
    found = {
        "seed": float(seed),
        "sigma": (quality.sigma or 0.0) / drawn.sigma - 1.0 if case.name == "even" else np.nan,
        "rank": float(quality.rank),
        "edge": float(quality.rank_checks.tracy_widom),
        "screenot": np.nan if quality.rank_checks.screenot is None else float(quality.rank_checks.screenot),
        "gavish_donoho": float(quality.rank_checks.gavish_donoho),
        "hit": float(abs(quality.rank - s) <= 1),
        "covered": float(low <= s <= high),
    }
    if not s:
        return found
    found["truth"] = distance(_top(drawn.D[:k], s), drawn.truth)
    chosen = {"dist": list(quality.alignment[:s])}
    if quality.metric == "identity":
        chosen |= {name: [getattr(row, name) for row in quality.directions[:s]] for name in BY}
    for name, cosines in chosen.items():
        if cosines and None not in cosines:
            found[name] = float(np.sqrt(np.mean(1.0 - np.square(cosines))))
    if quality.split_half is None:
        return found
    for row in quality.forecast:
        factor = row.n_pairs // k
        if row.n_pairs in (2 * k, 4 * k):
            truth = distance(_top(drawn.D[: row.n_pairs], quality.split_half.r), drawn.truth)
            found[f"forecast{factor}"], found[f"truth{factor}"] = row.misalignment, truth
            found[f"inside{factor}"] = float(row.low <= truth <= row.high)
    return found


def _top(D: Array, r: int) -> Array:
    return CounterfactualProjection(r=r).fit(D).directions_


def break_pairs(noise: float, k: int, seed: int) -> dict[str, float]:
    """How well the flags find edits that were broken on purpose: a third each of three kinds.

    One side shows another label; it shows another subject; nothing was edited.
    """
    rng = np.random.default_rng([seed, k, 77])
    n, d = 1500, 128
    axes = np.linalg.qr(rng.normal(size=(d, 2)))[0]
    y = rng.integers(0, 2, n)
    env = np.where(rng.random(n) < 0.9, y, 1 - y)
    label, shift = 3.0 * axes[:, 0], 5.0 * axes[:, 1]
    subject = rng.normal(size=(n, d))

    def item(i: Array, of_label: Array, of_env: Array) -> Array:
        return subject[i] + np.outer(2 * of_label - 1, label) + np.outer(2 * of_env - 1, shift)

    i = rng.permutation(n)[:k]
    partner, label_b, env_b = i.copy(), y[i].copy(), 1 - env[i]
    wrong = rng.permutation(k)[: k // 10]
    kinds = np.array_split(wrong, 3)
    label_b[kinds[0]] = 1 - label_b[kinds[0]]
    partner[kinds[1]] = rng.choice(np.setdiff1d(np.arange(n), i), size=len(kinds[1]))
    env_b[kinds[2]] = env[i[kinds[2]]]
    a, b = item(i, y[i], env[i]), item(partner, label_b, env_b) + noise * rng.normal(size=(k, d))
    b[kinds[2]] = a[kinds[2]]
    X = item(np.arange(n), y, env)

    def probe(Q: Array) -> Array:
        """A discriminant that does without the directions."""
        scatter = np.eye(d)  # of the items of a group
        mean = X[y == 1].mean(axis=0) - X[y == 0].mean(axis=0)
        weights = np.linalg.solve(scatter, mean)
        return weights - Q @ (Q.T @ weights)

    quality = assess_pairs(
        a - b, X, y, env, a=a, pair_labels=y[i], pair_envs=(env[i], 1 - env[i]), probe=probe
    )
    return flagged(quality, [str(j) for j in wrong])


def flagged(quality: PairQuality, wrong: Sequence[str]) -> dict[str, float]:
    """Precision and recall of the flagged pairs, and the share of broken ones among as many ranked first."""
    named = list(dict.fromkeys(flag.pair_id for flag in quality.flags if flag.flag != "dominates"))
    hits = len(set(named) & set(wrong))
    return {
        "precision": hits / len(named) if named else np.nan,
        "recall": hits / len(wrong),
        "first": len(set(named[: len(wrong)]) & set(wrong)) / len(wrong),
    }


def mean(rows: Iterable[dict[str, float]], name: str) -> float:
    """Mean of a figure over the draws that have it; NaN of none."""
    known = [row[name] for row in rows if name in row and not np.isnan(row[name])]
    return float(np.mean(known)) if known else np.nan


def line(case: Case, rows: list[dict[str, float]]) -> str:
    """One row of the table."""

    def pair(estimate: str, truth: str) -> str:
        one, two = mean(rows, estimate), mean(rows, truth)
        return "-" if np.isnan(one) else f"{one:.2f}/{two:.2f}"

    sigma = mean(rows, "sigma")
    cells = (
        "-" if np.isnan(sigma) else f"{100 * sigma:+.1f} %",
        f"{mean(rows, 'rank'):.1f}",
        f"{mean(rows, 'edge'):.1f}",
        "-" if np.isnan(mean(rows, "screenot")) else f"{mean(rows, 'screenot'):.1f}",
        f"{mean(rows, 'gavish_donoho'):.1f}",
        f"{100 * mean(rows, 'hit'):.0f} %",
        f"{100 * mean(rows, 'covered'):.0f} %",
        pair("dist", "truth"),
        pair("by_model", "truth"),
        pair("by_bulk", "truth"),
        pair("forecast2", "truth2"),
        pair("forecast4", "truth4"),
        "-" if np.isnan(mean(rows, "inside4")) else f"{100 * mean(rows, 'inside4'):.0f} %",
    )
    return "| " + " | ".join([case.name, str(case.d), str(case.k), str(case.s), *cells]) + " |"


HEAD = (
    "noise", "d", "k", "s", "sigma off", "rank", "by edge", "ScreeNOT", "G-D", "within 1", "interval holds s",
    "dist", "dist, model", "dist, bulk", "at 2k", "at 4k", "4k inside",
)  # fmt: skip


def _one(task: tuple[Any, int]) -> dict[str, float]:
    what, seed = task
    return measure(what, seed) if isinstance(what, Case) else break_pairs(*what, seed)


def run(tasks: Sequence[Any], draws: int, seed: int) -> list[list[dict[str, float]]]:
    """Figures of every task over all draws."""
    jobs = [(task, seed + i) for task in tasks for i in range(draws)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_one, jobs))
    return [found[i * draws : (i + 1) * draws] for i in range(len(tasks))]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--seed", type=int, default=100)
    args = parser.parse_args()
    begun = time.perf_counter()
    print("| " + " | ".join(HEAD) + " |\n|" + "-|" * len(HEAD), flush=True)
    for case, rows in zip(GRID, run(GRID, args.draws, args.seed), strict=True):
        print(line(case, rows))
    print("\nestimated/true distance: 0 exact, 1 unrelated; at 2k and 4k: forecast/true\n")
    print("| 10 % broken edits, noise | precision | recall | broken among as many first |\n|-|-|-|-|")
    for (noise, _), rows in zip(BROKEN, run(BROKEN, args.draws, args.seed), strict=True):
        print(
            f"| {noise} | "
            + " | ".join(f"{mean(rows, n):.2f}" for n in ("precision", "recall", "first"))
            + " |"
        )
    print(f"\n{args.draws} draws a row, {time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
