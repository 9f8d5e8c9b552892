"""Trade the target's accuracy for invariance: CausIRL with MMD on simulated factors.

Paper: Chevalley, Bunne, Krause, Bauer (2022), Invariant Causal Mechanisms through Distribution Matching,
figure 3.
Data: simulated. Y, D ~ Ber(.5); G1 = Y + n, G2 = 2 Y + 2 D + n, G3 = D + n with n ~ N(0, 1); D is the
environment.
Cost, expected result and all settings: configs/synthetic-causirl.yaml.
Run: python pipelines/synthetic_causirl.py --out cfpairs-work/synthetic-causirl [--runs 3] [--quick]
Writes results.csv, figure.svg and figure.png.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from paper_tables import as_csv, as_image, config_of, drawing, figure_files, open_frame, read_settings
from pydantic import Field, PositiveFloat, PositiveInt
from simulated import Outcome, run_simulated

from cfpairs import ERMClassifier
from cfpairs.config import Strict

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
Row = dict[str, Any]

CONFIG = config_of("synthetic-causirl")
QUICK = {"runs": 1, "epochs": 40, "weights": (0, 1, 10)}
TEXT = {10.0: ("54.2 %", "50 %")}
"""What the paper's text says of target and adversary at a weight; the rest is a curve."""


class Study(Strict):
    """Settings; what they mean is said in the configuration file."""

    runs: PositiveInt
    rows: PositiveInt
    test_rows: PositiveInt
    weights: tuple[float, ...] = Field(min_length=1)
    hidden: PositiveInt
    features: PositiveInt
    epochs: PositiveInt
    batch: int = Field(ge=4)
    rate: PositiveFloat
    decay: float = Field(ge=0)
    C: PositiveFloat


@dataclass(frozen=True)
class Sample:
    """Factors (n, 3), target and environment (n,)."""

    X: Array
    y: Ints
    d: Ints


def draw_sample(n: int, rng: np.random.Generator) -> Sample:
    """Rows of the structural equations."""
    y, d = rng.integers(0, 2, (2, n))
    means = np.column_stack([y, 2 * y + 2 * d, d])
    return Sample(means + rng.normal(size=(n, 3)), y, d)


class Encoders:
    """One encoder a weight, all trained at once on the same batches.

    Linear, batch normalisation, ReLU, linear; then a linear classifier of the target.
    """

    def __init__(self, study: Study, dim: int, seed: int) -> None:
        import torch

        rng, f = np.random.default_rng([seed, 1]), len(study.weights)
        shapes = {"W1": (dim, study.hidden), "W2": (study.hidden, study.features), "W3": (study.features, 1)}
        self.parts = {}
        for name, (rows, columns) in shapes.items():
            bound = rows**-0.5
            for part, shape in ((name, (rows, columns)), (name.replace("W", "b"), (1, columns))):
                values = np.repeat(rng.uniform(-bound, bound, (1, *shape)), f, axis=0)
                self.parts[part] = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        self.parts["scale"] = torch.ones(f, 1, study.hidden, requires_grad=True)
        self.parts["shift"] = torch.zeros(f, 1, study.hidden, requires_grad=True)
        self.running = [torch.zeros(f, 1, study.hidden), torch.ones(f, 1, study.hidden)]

    def features(self, x: Tensor, *, training: bool = False) -> Tensor:
        """Shape (f, n, features); `training` normalises by the batch, else by the running averages."""
        p = self.parts
        hidden = x @ p["W1"] + p["b1"]
        mean, variance = self.running
        if training:
            variance, mean = hidden.var(1, keepdim=True, correction=0), hidden.mean(1, keepdim=True)
            for kept, new in zip(self.running, (mean, variance), strict=True):
                kept.lerp_(new.detach(), 0.1)
        normal = (hidden - mean) * (variance + 1e-5).rsqrt()
        return (normal * p["scale"] + p["shift"]).relu() @ p["W2"] + p["b2"]

    def logits(self, z: Tensor) -> Tensor:
        """Of the target, shape (f, n)."""
        found: Tensor = (z @ self.parts["W3"] + self.parts["b3"])[:, :, 0]
        return found


def train(study: Study, sample: Sample, seed: int) -> Encoders:
    """Minimise cross-entropy + lambda * MMD between two mixtures of the environments (algorithm 1)."""
    import torch

    from cfpairs.probes.distances import causal_cuts, mmd, pair_weights

    encoders, rng = Encoders(study, sample.X.shape[1], seed), np.random.default_rng([seed, 2])
    optimizer = torch.optim.Adam(encoders.parts.values(), lr=study.rate, weight_decay=study.decay)
    X, y = torch.tensor(sample.X, dtype=torch.float32), torch.tensor(sample.y, dtype=torch.float32)
    strength = torch.tensor(study.weights)[:, None, None]
    for _ in range(study.epochs):
        order = rng.permutation(len(X))
        for rows in np.array_split(order, max(1, len(X) // study.batch)):
            z = encoders.features(X[rows], training=True)
            sets = torch.from_numpy(causal_cuts(sample.d[rows], 2, rng))
            _, slope = mmd(z.detach(), pair_weights(sets, z.dtype))
            target = y[rows].expand(len(z), -1)
            loss = torch.nn.functional.binary_cross_entropy_with_logits(
                encoders.logits(z), target, reduction="none"
            ).mean(1)
            optimizer.zero_grad(set_to_none=True)
            # The slope of the distance is known, so that it need not be followed back.
            (loss.sum() + (strength * slope * z).sum()).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return encoders


def measure(study: Study, run: int) -> list[Row]:
    """Test accuracy of a linear discriminator of target and environment, for every weight."""
    import torch

    rng = np.random.default_rng([run, 0])
    train_part, test = draw_sample(study.rows - study.test_rows, rng), draw_sample(study.test_rows, rng)
    encoders = train(study, train_part, run)
    with torch.inference_mode():
        Z, held = (
            encoders.features(torch.tensor(part.X, dtype=torch.float32)).numpy().astype(np.float64)
            for part in (train_part, test)
        )
    rows = []
    for at, weight in enumerate(study.weights):
        row: Row = {"run": run, "lambda": float(weight)}
        for name, own, other in (("target", train_part.y, test.y), ("adversary", train_part.d, test.d)):
            row[name] = float(ERMClassifier(C=study.C).fit(Z[at], own).score(held[at], other))
        rows.append(row)
    return rows


def told(rows: Sequence[Row], weight: float, name: str) -> tuple[float, float]:
    """Mean and standard deviation over the runs."""
    values = np.array([row[name] for row in rows if row["lambda"] == float(weight)])
    return float(values.mean()), float(values.std())


def comparison(rows: Sequence[Row], study: Study) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    data = f"simulated, n = {study.rows}, {study.runs} run{'s' * (study.runs > 1)}"
    lines = []
    for weight in study.weights:
        for at, name in enumerate(("target", "adversary")):
            mean, deviation = told(rows, weight, name)
            says = TEXT.get(float(weight), ("figure", "figure"))[at]
            lines.append(
                (f"{name}, lambda = {weight:g}", says, f"{100 * mean:.1f} % ({100 * deviation:.1f})", data)
            )
    return lines


def draw(rows: Sequence[Row], study: Study, kind: str) -> bytes:
    """Accuracies against the weight."""
    with drawing("synthetic-causirl", 5.6, 3.8) as figure:
        axes = figure.subplots()
        at = np.arange(len(study.weights))
        for name, colour in (("target", "#2c6fbb"), ("adversary", "#b3282d")):
            mean, sd = 100 * np.array([told(rows, weight, name) for weight in study.weights]).T
            axes.errorbar(at, mean, sd, color=colour, marker="o", ms=4, lw=1.6, capsize=3, label=name)
        axes.axhline(50, color="#777777", lw=0.9, ls="--", label="chance")
        axes.set_xticks(at, [f"{weight:g}" for weight in study.weights])
        axes.set(xlabel="lambda", ylabel="test accuracy, %", title="linear discriminators on the features")
        open_frame(axes)
        axes.legend(frameon=False)
        return as_image(figure, kind)


def work(path: Path, changes: dict[str, Any]) -> Outcome:
    """Every run, the comparison and the figures."""
    study = read_settings(Study, path, **changes)
    rows = [row for run in range(study.runs) for row in measure(study, run)]
    figures = figure_files(draw, rows, study)
    return Outcome(comparison(rows, study), {"results.csv": as_csv(rows), **figures})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    return run_simulated("synthetic-causirl", __doc__, work, argv, repeats="runs", quick=QUICK)


if __name__ == "__main__":
    raise SystemExit(main())
