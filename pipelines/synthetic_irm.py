"""IRM against the number of environments, NCM against the number of pairs, on one causal model.

Paper: Bai, Ji, Zhou, Inouye (2025), From Invariant Representations to Invariant Data, appendix A.3: with s
spurious dimensions IRM needs more than s environments, NCM needs s independent pairs.
Data: simulated. z_inv ~ N(0, I), P(y = 1) = sigmoid(theta . z_inv); the spurious block of environment e is
N((2 y - 1) mu_e, I) with mu_e = m + tau u_e, and N(-(2 y - 1) m, I) in the test domain; x = A z.
With e <= s environments some direction of the block has the same mean everywhere, so that IRM may use it. The
sides of a pair share y and z_inv and are of two environments.
Cost, expected result and all settings: configs/synthetic-irm.yaml.
Run: python pipelines/synthetic_irm.py --out cfpairs-work/synthetic-irm [--seeds 3] [--quick]
Writes results.csv, figure.svg and figure.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper_tables import as_csv, as_image, config_of, drawing, figure_files, open_frame, read_settings
from pydantic import Field, PositiveFloat, PositiveInt
from simulated import Outcome, SpuriousBlock, run_simulated

from cfpairs import CfpairsError, ERMClassifier, IRMClassifier, NCMClassifier

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Row = dict[str, Any]

CONFIG = config_of("synthetic-irm")
QUICK = {"seeds": 1, "rows": 1000, "environments": (2, 9), "pairs": (2, 8), "steps": 60}


class Study(SpuriousBlock):
    """Settings; what they mean is said in the configuration file."""

    signal: PositiveFloat
    common: PositiveFloat
    spread: PositiveFloat
    environments: tuple[int, ...] = Field(min_length=1)
    pairs: tuple[PositiveInt, ...] = Field(min_length=1)
    penalty: PositiveFloat
    steps: PositiveInt
    C: PositiveFloat


class World:
    """The causal model of one seed."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.seed = study, seed
        rng = np.random.default_rng([seed, 0])
        d, s = study.dim, study.spurious
        self.mixing, _ = np.linalg.qr(rng.normal(size=(d, d)))
        self.theta = _of_length(rng.normal(size=d - s), study.signal)
        self.common = _of_length(rng.normal(size=s), study.common)
        self.own = study.spread * rng.normal(size=(max(study.environments), s))

    def mean(self, env: int | None) -> Array:
        """Of the spurious block where y = 1; None is the test domain."""
        return -self.common if env is None else self.common + self.own[env]

    def rows(self, env: int | None, n: int) -> tuple[Array, Ints, Array]:
        """Rows x (n, d), labels (n,) and the true logits (n,)."""
        number = 0 if env is None else env + 1
        rng = np.random.default_rng([self.seed, 1, number])
        invariant = rng.normal(size=(n, len(self.theta)))
        logits = invariant @ self.theta
        y = (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(np.int64)
        block = (2 * y - 1)[:, None] * self.mean(env) + rng.normal(size=(n, len(self.common)))
        return np.hstack([invariant, block]) @ self.mixing.T, y, logits

    def pairs(self, k: int) -> tuple[Array, Array]:
        """Both sides (k, d) of the first k pairs, of the environments 0 and 1."""
        rng = np.random.default_rng([self.seed, 2])
        n = max(self.study.pairs)
        sign = 2 * rng.integers(0, 2, n) - 1
        invariant = rng.normal(size=(n, len(self.theta)))
        noise = rng.normal(size=(2, n, len(self.common)))
        a, b = (
            np.hstack([invariant, sign[:, None] * self.mean(e) + noise[e]]) @ self.mixing.T for e in (0, 1)
        )
        return a[:k], b[:k]


def _of_length(vector: Array, length: float) -> Array:
    return vector * (length / np.linalg.norm(vector))


def measure(study: Study, seed: int) -> list[Row]:
    """Test accuracy of every method, a row each."""
    world = World(study, seed)
    X_test, y_test, logits = world.rows(None, study.test_rows)
    drawn = [world.rows(env, study.rows)[:2] for env in range(max(study.environments))]
    found: list[Row] = []

    def told(method: str, number: int, accuracy: float) -> None:
        found.append({"method": method, "number": number, "seed": seed, "test": float(accuracy)})

    told("oracle", 0, ((logits > 0) == y_test).mean())
    for e in study.environments:
        X, y = (np.concatenate(part) for part in zip(*drawn[:e], strict=True))
        env = np.repeat(np.arange(e), study.rows)
        irm = IRMClassifier(study.penalty, study.C, steps=study.steps, random_state=seed).fit(X, y, env=env)
        told("irm", e, irm.score(X_test, y_test))
        told("erm", e, ERMClassifier(C=study.C).fit(X, y).score(X_test, y_test))
    X, y = (np.concatenate(part) for part in zip(*drawn[:2], strict=True))
    for k in study.pairs:
        a, b = world.pairs(k)
        ncm = NCMClassifier(r=min(k, study.spurious), C=study.C).fit(X, y, differences=a - b)
        told("ncm", k, ncm.score(X_test, y_test))
    return found


def told_of(rows: Sequence[Row], method: str) -> dict[int, tuple[float, float]]:
    """Mean and standard deviation over the seeds, by the number of environments or pairs."""
    numbers = sorted({row["number"] for row in rows if row["method"] == method})
    values = {
        n: np.array([row["test"] for row in rows if (row["method"], row["number"]) == (method, n)])
        for n in numbers
    }
    return {n: (float(v.mean()), float(v.std())) for n, v in values.items()}


def comparison(rows: Sequence[Row], study: Study) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    s = study.spurious
    data = (
        f"simulated, s = {s}, {study.rows} rows an environment, {study.seeds} seed{'s' * (study.seeds > 1)}"
    )
    lines = [("oracle, the true theta", "", _percent(told_of(rows, "oracle")[0]), data)]
    for method, what, enough in (
        ("irm", "environments", s + 1),
        ("ncm", "pairs", s),
        ("erm", "environments", 0),
    ):
        for number, value in told_of(rows, method).items():
            says = "" if not enough else "possible" if number >= enough else "below the oracle's"
            if method == "ncm" and number >= enough:
                says = "the oracle's"
            lines.append((f"{method}, {number} {what}", says, _percent(value), data))
    return lines


def _percent(value: tuple[float, float]) -> str:
    return f"{100 * value[0]:.1f} % ({100 * value[1]:.1f})"


def draw(rows: Sequence[Row], study: Study, kind: str) -> bytes:
    """Test accuracy against the number of environments or pairs."""
    with drawing("synthetic-irm", 6, 3.8) as figure:
        axes = figure.subplots()
        for method, label, colour in (
            ("ncm", "NCM, pairs", "#0b6e4f"),
            ("irm", "IRM, environments", "#b3282d"),
            ("erm", "ERM, environments", "#999999"),
        ):
            points = told_of(rows, method)
            mean, sd = 100 * np.array(list(points.values())).T
            axes.errorbar(
                list(points), mean, sd, color=colour, marker="o", ms=4, lw=1.6, capsize=3, label=label
            )
        axes.axhline(100 * told_of(rows, "oracle")[0][0], color="#333333", lw=1, label="oracle")
        axes.axvline(study.spurious, color="#999999", lw=0.9, ls="--")
        axes.set(
            xlabel="pairs or environments", ylabel="accuracy in the test domain, %",
            title=f"{study.spurious} spurious dimensions",
        )  # fmt: skip
        open_frame(axes)
        axes.legend(frameon=False)
        return as_image(figure, kind)


def read_study(path: Path, **changes: Any) -> Study:
    """Settings of a file, some replaced.

    Raises
    ------
    CfpairsError
        If the file cannot be read, or a setting is unknown, missing or impossible.
    """
    study = read_settings(Study, path, **changes)
    if study.spurious >= study.dim or min(study.environments) < 2:
        raise CfpairsError(
            "the study cannot be made so", got=f"spurious = {study.spurious}, dim = {study.dim}, "
            f"environments = {study.environments}", expected="spurious below dim, and 2 or more environments",
        )  # fmt: skip
    return study


def work(path: Path, changes: dict[str, Any]) -> Outcome:
    """Every seed, the comparison and the figures."""
    study = read_study(path, **changes)
    rows = [row for seed in range(study.seeds) for row in measure(study, seed)]
    figures = figure_files(draw, rows, study)
    return Outcome(comparison(rows, study), {"results.csv": as_csv(rows), **figures})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_simulated("synthetic-irm", __doc__, work, argv, quick=QUICK)


if __name__ == "__main__":
    raise SystemExit(main())
