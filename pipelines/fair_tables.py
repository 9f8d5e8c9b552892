"""Fair representations of a table of people: what an encoder tells of target and sensitive attribute.

What `adult.py` and `german.py` share. An encoder is trained by CausIRL with MMD for every weight of the
distance, frozen, and judged by two networks that read the target and the sensitive attribute from it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fair_data import Array, Ints, Part, Study, read_table, split
from paper_tables import (
    as_csv,
    as_image,
    config_of,
    drawing,
    exit_status,
    figure_files,
    finish,
    open_frame,
    read_settings,
    study_parser,
)
from parallel_nets import Stack, Training, train_causal

from cfpairs.tables import fingerprint, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

Row = dict[str, Any]

QUICK = {"runs": 1, "epochs": 5, "target_epochs": 3, "adversary_epochs": 3}


@dataclass(frozen=True)
class Told:
    """What the paper says in per cent of its best model, at a weight (None: not named), and of no model."""

    weight: float | None
    target: float
    adversary: float
    common_target: float
    common_sensitive: float


def judge(
    codes: tuple[Tensor, Tensor], truth: tuple[Ints, Ints], study: Study, epochs: int, seed: tuple[int, int]
) -> tuple[Array, Array]:
    """Test accuracies (f,) of networks that learn `truth` from codes (f, n, p): best epoch and last.

    Codes are brought to mean 0 and variance 1, so that a small scale hides nothing.
    """
    import torch

    mean, spread = codes[0].mean(1, keepdim=True), codes[0].std(1, keepdim=True)
    Z, held = ((part - mean) / spread.clamp(min=1e-6) for part in codes)
    y, other = (torch.from_numpy(part) for part in truth)
    sizes = (Z.shape[2], *study.judge_hidden, int(y.max()) + 1)
    network = Stack(sizes, len(Z), np.random.default_rng([*seed, 1]))
    rng = np.random.default_rng([*seed, 2])
    optimizer = torch.optim.Adam(network.parameters(), lr=study.judge_rate, weight_decay=study.judge_decay)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    found = []
    for _ in range(epochs):
        for some in np.array_split(rng.permutation(len(y)), max(1, len(y) // study.batch)):
            logits = network(Z[:, some]).transpose(1, 2)
            target = y[some].expand(len(Z), -1)
            loss = torch.nn.functional.cross_entropy(logits, target, reduction="none").mean(1).sum()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        falling.step()
        with torch.inference_mode():
            found.append((network(held).argmax(2) == other).double().mean(1).numpy())
    return np.max(found, axis=0), found[-1]


def measure(train: Part, test: Part, study: Study, run: int) -> list[Row]:
    """A row a weight, and one for the inputs themselves (lambda None)."""
    import torch

    how = Training(study.epochs, study.batch, study.rate, study.decay)
    sizes = (train.X.shape[1], *study.hidden, study.features)
    encode = train_causal(sizes, study.weights, (train.X, train.y, train.s), how, run)
    inputs = [torch.tensor(part.X, dtype=torch.float32) for part in (train, test)]
    with torch.inference_mode():
        codes = [encode(part) for part in inputs]
    rows: list[Row] = [{"run": run, "lambda": weight} for weight in (*study.weights, None)]
    for number, (name, epochs) in enumerate((("y", study.target_epochs), ("s", study.adversary_epochs))):
        truth = (getattr(train, name), getattr(test, name))
        said = ("target", "adversary")[number]
        judged = [
            judge((a.clone(), b.clone()), truth, study, epochs, (run, number))
            for a, b in (codes, [part[None] for part in inputs])
        ]
        for kind, values in zip(("", "_last"), zip(*judged, strict=True), strict=True):
            for row, value in zip(rows, np.concatenate(values), strict=True):
                row[said + kind] = float(value)
        for row in rows:
            row[f"common_{said}"] = float(np.bincount(truth[1]).max() / len(truth[1]))
    return rows


def measured(train: Part, test: Part, study: Study, run: int, out: Path) -> list[Row]:
    """The rows of a run; those on disk for the same table and settings are taken."""
    digest = hashlib.sha256()
    for part in (train, test):
        for array in (part.X, part.y, part.s):
            digest.update(array.tobytes())
    key = fingerprint(run, study.model_dump(mode="json", exclude={"runs"}), digest.hexdigest())
    file = out / "runs" / f"{run}.json"
    if file.is_file():
        held = json.loads(file.read_text())
        if held["key"] == key:
            return list(held["rows"])
    print(f"run {run + 1} of {study.runs}", file=sys.stderr, flush=True)
    rows = measure(train, test, study, run)
    write_bytes(file, json.dumps({"key": key, "rows": rows}, indent=1).encode())
    return rows


def means_of(rows: Sequence[Row], weight: float | None, name: str) -> tuple[float, float]:
    """Mean and standard deviation over the runs, in per cent."""
    values = np.array([100 * row[name] for row in rows if row["lambda"] == weight])
    return float(values.mean()), float(values.std())


def best_weight(rows: Sequence[Row], study: Study) -> float:
    """The weight with the largest lead of the target over the adversary, in test as the paper does."""
    return max(
        study.weights, key=lambda w: means_of(rows, w, "target")[0] - means_of(rows, w, "adversary")[0]
    )


def comparison(rows: Sequence[Row], study: Study, told: Told, data: str) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""

    def found(weight: float | None, name: str) -> str:
        mean, deviation = means_of(rows, weight, name)
        last = means_of(rows, weight, f"{name}_last")[0]
        return f"{mean:.1f} % ({deviation:.1f}); last epoch {last:.1f}"

    best = best_weight(rows, study)
    lines = []
    for name, common, says in (
        ("target", told.common_target, told.target),
        ("adversary", told.common_sensitive, told.adversary),
    ):
        own = means_of(rows, None, f"common_{name}")[0]
        lines += [
            (f"{name}, commonest class", f"{common:.1f} %", f"{own:.1f} %", data),
            (f"{name}, from all inputs", "", found(None, name), data),
        ]
        named = "no lambda named" if told.weight is None else f"lambda = {told.weight:g}"
        lines.append((f"{name}, best lambda ({best:g})", f"{says:.1f} % ({named})", found(best, name), data))
        lines += [
            (f"{name}, lambda = {weight:g}", "figure", found(weight, name), data) for weight in study.weights
        ]
    return lines


def draw(rows: Sequence[Row], study: Study, title: str, kind: str) -> bytes:
    """Target accuracy against the adversary's, a point a weight (the paper's figures 4 and 5)."""
    with drawing(title, 5.6, 3.9) as figure:
        axes = figure.subplots()
        target, adversary = (
            np.array([means_of(rows, weight, name) for weight in (*study.weights, None)]).T
            for name in ("target", "adversary")
        )
        axes.errorbar(
            adversary[0, :-1], target[0, :-1], target[1, :-1], adversary[1, :-1],
            color="#2c6fbb", marker="o", ms=4, lw=1.2, elinewidth=0.7, label="CausIRL with MMD, by lambda",
        )  # fmt: skip
        for weight, x, y in zip(study.weights, adversary[0], target[0], strict=False):
            axes.annotate(f"{weight:g}", (x, y), xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.plot(adversary[0, -1], target[0, -1], "s", color="#d9822b", ms=5, label="from all inputs")
        for name, line in (("target", axes.axhline), ("adversary", axes.axvline)):
            said = "commonest class" if name == "target" else None
            line(means_of(rows, None, f"common_{name}")[0], color="#777777", lw=0.9, ls="--", label=said)
        axes.set(xlabel="adversary accuracy in test, %", ylabel="target accuracy in test, %", title=title)
        open_frame(axes)
        axes.legend(frameon=False, fontsize=8)
        return as_image(figure, kind)


@exit_status
def run_study(name: str, told: Told, said: str | None, argv: Sequence[str] | None) -> None:
    """Run a study, print ``paper | ours | data used``, write table and figures; returns the status."""
    parser = study_parser(said)
    parser.add_argument(
        "--data", type=Path, required=True, help="the table; all of it where there is no --test"
    )
    parser.add_argument("--test", type=Path, help="a table of test rows alone")
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work") / name)
    parser.add_argument("--runs", type=int, help="how many; the configuration's by default")
    parser.add_argument("--quick", action="store_true", help="one run of a few epochs")
    parser.add_argument("--config", type=Path, default=config_of(name))
    args = parser.parse_args(argv)
    changes = (QUICK if args.quick else {}) | ({} if args.runs is None else {"runs": args.runs})
    study = read_settings(Study, args.config, **changes)
    table = read_table(args.data, study)
    other = None if args.test is None else read_table(args.test, study)
    rows: list[Row] = []
    for run in range(study.runs):
        train, test = split(table, other, study, run)
        rows += measured(train, test, study, run, args.out)
    counts = f"{len(train.y)} + {len(test.y)} rows"
    data = f"{args.data.name}, {counts}, {study.runs} run{'s' * (study.runs > 1)}"
    files = {
        "results.csv": as_csv([row | {"lambda": _named(row["lambda"])} for row in rows]),
        **figure_files(draw, rows, study, name),
    }
    finish(args.out, comparison(rows, study, told, data), files)


def _named(weight: float | None) -> float | str:
    return "inputs" if weight is None else weight
