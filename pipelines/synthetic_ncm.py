"""Draw both panels of the synthetic study of Noisy Counterfactual Matching.

Paper: Bai, Ji, Zhou, Inouye (2025), From Invariant Representations to Invariant Data, figure 2.
Data: simulated. y = sign(theta . z_inv) with z_inv ~ N(0, I_80); the spurious block is y / 20 + sigma u with
u ~ N(0, I_20), sigma small in the two training environments and large in the test domain; x = A z.
The sides of a pair share y and z_inv and have their own u; noise is added to their difference.
Cost, expected result and all settings: configs/synthetic-ncm.yaml.
Run: python pipelines/synthetic_ncm.py --out cfpairs-work/synthetic-ncm [--seeds 5] [--quick]
Writes results.csv, figure.svg and figure.png.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from paper_tables import as_csv, as_image, config_of, drawing, figure_files, open_frame, read_settings
from pydantic import Field, PositiveFloat, PositiveInt
from simulated import Outcome, SpuriousBlock, run_simulated

from cfpairs import CfpairsError, CounterfactualProjection, fit_sweep

Array = NDArray[np.float64]
Row = dict[str, Any]

CONFIG = config_of("synthetic-ncm")
QUICK = {
    "seeds": 1,
    "rows": 2000,
    "test_rows": 4000,
    "pairs": (5, 15, 20, 50, 100),
    "ranks": (5, 10, 15, 18, 20, 22, 25, 50),
}
TOL = 1e-8
SHOWN_RANKS = (10, 15, 18, 20, 22, 25, 50)
COLOURS = ("#0b6e4f", "#2c6fbb", "#d9822b", "#b3282d")


class Study(SpuriousBlock):
    """Settings; what they mean is said in the configuration file."""

    train_variances: tuple[PositiveFloat, ...]
    test_variance: PositiveFloat
    pair_variance: PositiveFloat
    ridge: PositiveFloat
    noises: tuple[float, ...] = Field(min_length=1)
    pairs: tuple[PositiveInt, ...] = Field(min_length=1)
    ranks: tuple[PositiveInt, ...] = Field(min_length=1)

    @property
    def C(self) -> float:
        """The ridge in scikit-learn's convention."""
        return 1.0 / (self.ridge * self.rows)


@dataclass(frozen=True)
class Rows:
    """Embeddings (n, d) and their labels (n,)."""

    X: Array
    y: NDArray[np.int64]


class World:
    """The causal model of one seed, and everything drawn from it."""

    def __init__(self, study: Study, seed: int) -> None:
        self.study, self.rng = study, np.random.default_rng([seed, 0])
        d, s, n = study.dim, study.spurious, study.rows
        self.mixing, _ = np.linalg.qr(self.rng.normal(size=(d, d)))
        self.theta = self.rng.normal(size=d - s)
        self.train = self._rows(n, study.train_variances)
        self.in_domain = self._rows(study.test_rows, study.train_variances)
        self.test = self._rows(study.test_rows, (study.test_variance,))
        self.for_oracle = self._rows(n, (study.test_variance,))
        k = max(study.pairs)
        a, b = self.rng.normal(size=(2, k, s))
        self.exact: Array = np.sqrt(study.pair_variance) * (a - b) @ self.spurious.T
        self.noise: Array = self.rng.normal(size=(k, d)) / np.sqrt(d)

    @property
    def spurious(self) -> Array:
        """Orthonormal basis of the spurious block, shape (d, s)."""
        return self.mixing[:, self.study.dim - self.study.spurious :]

    def differences(self, k: int, eps: float) -> Array:
        """Differences of the first k pairs, shape (k, d)."""
        return self.exact[:k] + eps * self.noise[:k]

    def distance(self, k: int, eps: float) -> float:
        """Sine of the largest angle between the spurious block and the top directions of k >= s pairs."""
        found = CounterfactualProjection(self.study.spurious).fit(self.differences(k, eps))
        return float(np.linalg.norm(found.transform(self.spurious.T), 2))

    def _rows(self, n: int, variances: Sequence[float]) -> Rows:
        d, s = self.study.dim, self.study.spurious
        invariant = self.rng.normal(size=(n, d - s))
        sign = np.sign(invariant @ self.theta)
        sigma = np.sqrt(np.resize(np.asarray(variances), n))
        block = sign[:, None] / s + sigma[:, None] * self.rng.normal(size=(n, s))
        return Rows(np.hstack([invariant, block]) @ self.mixing.T, (sign > 0).astype(np.int64))


def measure(study: Study, seed: int) -> list[Row]:
    """Accuracies of one seed: the lines, panel (a) and panel (b)."""
    world, s = World(study, seed), study.spurious
    found: list[Row] = []

    def fit(rows: Rows, panel: str, k: int, eps: float, ranks: Sequence[int]) -> None:
        sweep = fit_sweep(
            rows.X, rows.y, differences=world.differences(k, eps) if ranks else None,
            methods=["ncm" if ranks else "erm"], r=ranks or [0], C=[study.C], tol=TOL,
        )  # fmt: skip
        test, inside = (
            (sweep.predict(part.X) == part.y[:, None]).mean(axis=0) for part in (world.test, world.in_domain)
        )
        for setting, on_test, in_domain in zip(sweep.settings, test, inside, strict=True):
            row = {"panel": panel, "eps": eps, "k": k, "r": setting.r, "seed": seed}
            found.append({**row, "test": float(on_test), "in_domain": float(in_domain)})

    fit(world.train, "erm", 0, 0.0, ())
    fit(world.for_oracle, "oracle", 0, 0.0, ())
    most = max(study.pairs)
    for eps in study.noises:
        for k in study.pairs:
            fit(world.train, "a", k, eps, (min(k, s),))
        # Exact differences have rank s; a larger r would remove directions that no pair names.
        fit(world.train, "b", most, eps, tuple(r for r in study.ranks if eps or r <= s))
    return found


def summarise(rows: Iterable[Row]) -> list[Row]:
    """Mean and standard deviation over the seeds, one row a point of a curve."""
    together: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        together.setdefault((row["panel"], row["eps"], row["k"], row["r"]), []).append(row)
    table = []
    for (panel, eps, k, r), of in together.items():
        point: Row = {"panel": panel, "eps": eps, "k": k, "r": r, "seeds": len(of)}
        for name in ("test", "in_domain"):
            values = np.array([row[name] for row in of])
            point |= {f"{name}_mean": float(values.mean()), f"{name}_sd": float(values.std())}
        table.append(point)
    return table


def curve(table: Sequence[Row], panel: str, eps: float = 0.0) -> list[Row]:
    """The points of one curve, in order."""
    of = [row for row in table if row["panel"] == panel and row["eps"] == eps]
    return sorted(of, key=lambda row: (row["k"], row["r"]))


def best_rank(table: Sequence[Row], eps: float) -> int:
    """Where panel (b) has its highest test accuracy."""
    return int(max(curve(table, "b", eps), key=lambda row: float(row["test_mean"]))["r"])


def comparison(table: Sequence[Row], study: Study, distance: float) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    s, most = study.spurious, max(study.pairs)
    oracle, erm = (curve(table, name)[0]["test_mean"] for name in ("oracle", "erm"))
    data = f"simulated, n = {study.rows}, {study.seeds} seed{'s' * (study.seeds > 1)}"
    lines = [
        ("oracle, ERM on the test domain", "lines in figure 2", f"{oracle:.3f}, {erm:.3f}", data),
        (
            "sine of the angle to the spurious block",
            "0 at eps = 0",
            f"{distance:.1e}",
            f"k = {s}, worst seed",
        ),
    ]
    for eps in study.noises:
        points = {row["k"]: row["test_mean"] for row in curve(table, "a", eps)}
        shown = ", ".join(f"{points[k]:.3f}" for k in (s, most) if k in points)
        says = "the oracle's" if eps <= 1 else "below the oracle's"
        lines.append((f"(a) accuracy at k = {s}, {most}, eps = {eps:g}", says, shown, f"r = {s}"))
    for eps in study.noises:
        says = f"near {s}" if eps <= 1 else f"slightly over {s}"
        lines.append((f"(b) best r, eps = {eps:g}", says, str(best_rank(table, eps)), f"k = {most}"))
    return lines


def by_rank(table: Sequence[Row], study: Study) -> list[tuple[str, ...]]:
    """Test accuracy of panel (b): a line a noise, a column a rank."""
    ranks = [r for r in SHOWN_RANKS if r in study.ranks]
    lines = [("accuracy at r =", *map(str, ranks))]
    for eps in study.noises:
        points = {row["r"]: row["test_mean"] for row in curve(table, "b", eps)}
        lines.append((f"eps = {eps:g}", *(f"{points[r]:.3f}" if r in points else "-" for r in ranks)))
    return lines


def draw(table: Sequence[Row], study: Study, kind: str) -> bytes:
    """Both panels as ``svg`` or ``png``; the same table gives the same bytes."""
    with drawing("synthetic-ncm", 10, 4.2) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        panels = ((left, "a", "k", f"(a) pairs k, r = min(k, {study.spurious})"),
                  (right, "b", "r", f"(b) removed directions r, k = {max(study.pairs)}"))  # fmt: skip
        for axes, panel, x, title in panels:
            for eps, colour in zip(study.noises, _colours(len(study.noises)), strict=True):
                points = curve(table, panel, eps)
                at, mean, sd, inside = (
                    np.array([row[name] for row in points])
                    for name in (x, "test_mean", "test_sd", "in_domain_mean")
                )
                axes.plot(at, mean, color=colour, marker="o", ms=3, lw=1.6, label=f"NCM, eps = {eps:g}")
                axes.fill_between(at, mean - sd, mean + sd, color=colour, alpha=0.15, lw=0)
                axes.plot(at, inside, color=colour, lw=0.9, ls=":")
            for name, style in (("oracle", "-"), ("erm", "--")):
                level = curve(table, name)[0]["test_mean"]
                label = f"{'ERM' if name == 'erm' else name} ({level:.3f})"
                axes.axhline(level, color="#333333", lw=1, ls=style, label=label)
            axes.plot([], [], color="#333333", lw=0.9, ls=":", label="in-domain test")
            axes.axvline(study.spurious, color="#999999", lw=0.9, ls="--")
            axes.set_title(title, fontsize=10)
            axes.set_xlabel(x)
            open_frame(axes)
        left.set_ylabel("accuracy in the test domain")
        handles, labels = left.get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8
        )
        return as_image(figure, kind)


def _colours(n: int) -> list[str]:
    return [COLOURS[i % len(COLOURS)] for i in range(n)]


def read_study(path: Path, **changes: Any) -> Study:
    """Settings of a file, some replaced.

    Raises
    ------
    CfpairsError
        If the file cannot be read, or a setting is unknown, missing or impossible.
    """
    study = read_settings(Study, path, **changes)
    if not study.spurious <= max(study.pairs) or study.spurious >= study.dim:
        raise CfpairsError(
            "the spurious block does not fit", got=f"spurious = {study.spurious}",
            expected="below dim, and no more than the largest number of pairs",
        )  # fmt: skip
    return study


def work(path: Path, changes: dict[str, Any]) -> Outcome:
    """Every seed, the comparison, the figures, and the table over r."""
    study = read_study(path, **changes)
    table = summarise(row for seed in range(study.seeds) for row in measure(study, seed))
    exact = max(World(study, seed).distance(study.spurious, 0.0) for seed in range(study.seeds))
    figures = figure_files(draw, table, study)
    files = {"results.csv": as_csv(table), **figures}
    return Outcome(comparison(table, study, exact), files, [by_rank(table, study)])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_simulated("synthetic-ncm", __doc__, work, argv, quick=QUICK)


if __name__ == "__main__":
    raise SystemExit(main())
