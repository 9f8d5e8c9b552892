"""Find the component that has one distribution in two Gaussian environments.

Paper: Norman, Meir (2025), Unsupervised Invariant Risk Minimization, section 3.1 and figure 2.
Data: simulated. x = mu_e + A_inv z_inv + A_e z_e + noise in three dimensions; z_e varies five times as much
in the first environment as in the second.
Cost, expected result and all settings: configs/synthetic-pica.yaml.
Run: python pipelines/synthetic_pica.py --out cfpairs-work/synthetic-pica [--seeds 20]
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
from simulated import Outcome, run_simulated

from cfpairs.config import Strict
from cfpairs.probes.pica import PICAProjection
from cfpairs.probes.probabilistic_pica import ProbabilisticPICA

Array = NDArray[np.float64]
Row = dict[str, Any]

CONFIG = config_of("synthetic-pica")
COLOURS = ("#2c6fbb", "#d9822b")


class Study(Strict):
    """Settings; what they mean is said in the configuration file."""

    seeds: PositiveInt
    rows: int = Field(ge=10)
    means: tuple[tuple[float, ...], tuple[float, ...]]
    invariant: tuple[float, ...]
    environmental: tuple[float, ...]
    variances: tuple[PositiveFloat, PositiveFloat]
    noise: PositiveFloat
    tol: PositiveFloat


def draw_rows(study: Study, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64]]:
    """Rows (2 n, d) of both environments, and the environment of each."""
    n, parts = study.rows, []
    for mean, variance in zip(study.means, study.variances, strict=True):
        inv, own = rng.normal(size=(n, 1)), np.sqrt(variance) * rng.normal(size=(n, 1))
        noise = np.sqrt(study.noise) * rng.normal(size=(n, len(mean)))
        parts.append(np.array(mean) + inv * study.invariant + own * study.environmental + noise)
    return np.vstack(parts), np.repeat([0, 1], n)


def ratio(z: Array, env: NDArray[np.int64]) -> float:
    """Variance in the first environment over that in the second."""
    return float(z[env == 0].var(ddof=1) / z[env == 1].var(ddof=1))


def measure(study: Study, seed: int) -> Row:
    """Variance ratios of one seed, on the rows that the components were found on and on others."""
    rng = np.random.default_rng([seed, 0])
    (X, env), (other, other_env) = draw_rows(study, rng), draw_rows(study, rng)
    row: Row = {"seed": seed}
    for name, found in {
        "pica": PICAProjection(1, tol=study.tol).fit(X, env=env),
        "pca": PICAProjection(1).fit(X),
    }.items():
        row[name] = ratio(found.transform(X)[:, 0], env)
        row[f"{name}_held_out"] = ratio(found.transform(other)[:, 0], other_env)
    model = ProbabilisticPICA(environment_variances=study.variances).fit(X, env=env)
    row |= {f"A_inv_{i + 1}": float(value) for i, value in enumerate(model.A_inv_[:, 0])}
    row |= {f"A_e_{i + 1}": float(value) for i, value in enumerate(model.A_env_[:, 0])}
    default = ProbabilisticPICA().fit(X, env=env).environment_variances_[1]
    return row | {"noise": model.noise_variance_, "default_variance_2": float(default)}


def comparison(rows: Sequence[Row], study: Study) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    data = f"simulated, n = {study.rows} + {study.rows}, {len(rows)} seed{'s' * (len(rows) > 1)}"

    def told(name: str) -> str:
        values = np.array([row[name] for row in rows])
        return f"{values.mean():.3f} ({values.std():.3f})"

    def vector(name: str) -> str:
        # The sign of a loading is free; A_e is found in units of the larger standard deviation.
        true = study.environmental if name == "A_e" else study.invariant
        loadings = np.array([[row[f"{name}_{i + 1}"] for i in range(len(true))] for row in rows])
        found = (np.sign(loadings @ true)[:, None] * loadings).mean(axis=0)
        scale = np.sqrt(max(study.variances)) if name == "A_e" else 1.0
        return " ".join(f"{value / scale:.2f}" for value in found)

    exact = np.sqrt(2 * 2 / study.rows)
    return [
        ("variance ratio, PICA, held out", "1", told("pica_held_out"), data),
        ("variance ratio, PCA, held out", "not 1", told("pca_held_out"), data),
        ("variance ratio, PICA, same rows", "1", told("pica"), data),
        ("sampling error of a ratio of 1", "", f"{exact:.3f}", "formula"),
        ("A_inv, probabilistic PICA", _words(study.invariant), vector("A_inv"), "ratio of variances given"),
        ("A_e, probabilistic PICA", _words(study.environmental), vector("A_e"), "ratio of variances given"),
        ("noise variance", f"{study.noise:g}", told("noise"), data),
        (
            "sigma_e^2(2) where nothing is given",
            f"at least {min(study.variances) / max(study.variances):g}",
            told("default_variance_2"),
            "ratio of traces",
        ),
    ]


def _words(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def draw(study: Study, kind: str) -> bytes:
    """Rows of the first seed in two of their dimensions, and along the axes of PICA and of PCA."""
    X, env = draw_rows(study, np.random.default_rng([0, 0]))
    pica, pca = PICAProjection(1, tol=study.tol).fit(X, env=env), PICAProjection(1).fit(X)
    with drawing("synthetic-pica", 11, 3.6) as figure:
        axes = figure.subplots(1, 3)
        for e, colour in enumerate(COLOURS):
            own = X[env == e]
            axes[0].scatter(own[:, 0], own[:, 2], s=4, color=colour, alpha=0.4, lw=0, rasterized=True)
        axes[0].set(xlabel="x1", ylabel="x3", title="the rows")
        for at, (name, found) in enumerate({"PICA": pica, "PCA": pca}.items(), start=1):
            z = found.transform(X)[:, 0]
            of = [z[env == e] - z[env == e].mean() for e in (0, 1)]
            bins = np.linspace(*np.quantile(np.concatenate(of), [0.001, 0.999]), 50)
            for e, colour in enumerate(COLOURS):
                label = f"environment {e + 1}, variance {of[e].var():.2f}"
                axes[at].hist(of[e], bins, density=True, histtype="step", lw=1.6, color=colour, label=label)
            axes[at].set(xlabel=f"along {name}'s first component, centred", title=name)
            axes[at].legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2))
        for each in axes:
            open_frame(each)
        return as_image(figure, kind)


def work(path: Path, changes: dict[str, Any]) -> Outcome:
    """Every seed, the comparison and the figures."""
    study = read_settings(Study, path, **changes)
    rows = [measure(study, seed) for seed in range(study.seeds)]
    figures = figure_files(draw, study)
    return Outcome(comparison(rows, study), {"results.csv": as_csv(rows), **figures})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_simulated("synthetic-pica", __doc__, work, argv)


if __name__ == "__main__":
    raise SystemExit(main())
