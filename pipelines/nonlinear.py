"""Beyond linear probes: fine-tune a network with the pair constraint on its features.

Paper: Bai, Ji, Zhou, Inouye (2025), From Invariant Representations to Invariant Data, E.3 and figure 5.
Data: a workspace with images and a pair set (`cfpairs init`, `cfpairs build`); without one the digits are
drawn and edited (data_cards/digits.md).
Cost, expected result and all settings: configs/nonlinear.yaml, configs/nonlinear-waterbirds.yaml.
Run: python pipelines/nonlinear.py [--workspace DIR --config configs/nonlinear-waterbirds.yaml --device cuda]
Writes results.csv, figure.svg and figure.png; every epoch is kept, so that a run that was broken off goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from finetuning import METHODS, Row, Run, Settings, fine_tune
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
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from workspace_images import World, read_world

from cfpairs import CfpairsError, Workspace
from cfpairs.config import Strict
from cfpairs.tables import fingerprint
from cfpairs.workflow import Context, build_pairs, find_config

CONFIG = config_of("nonlinear")
BEST = {"best": "best epoch", "chosen": "epoch with val's best worst group", "last": "last epoch"}
GAINS = (
    ("ncm", "erm", "10.5"),
    ("ncm", "irm", "3.0"),
    ("ncm", "groupdro", "2.6"),
    ("ncm-upweight", "upweight", "4.4"),
)
"""Points of the worst group by which the first is ahead of the second in the paper's text."""
COLOURS = {
    "erm": "#555555", "irm": "#8e6bbf", "groupdro": "#d9822b", "upweight": "#2c6fbb", "ncm": "#0b6e4f",
    "ncm-upweight": "#b3282d",
}  # fmt: skip


class Study(Strict):
    """Settings; what they mean is said in the configuration file."""

    pair_set: str
    edits_in_training: bool
    backbone: str
    weights: Path | None = None
    side: Annotated[int, Field(ge=16, le=1024)]
    latent: PositiveInt | None
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: PositiveInt
    epochs: PositiveInt
    batch: PositiveInt
    pair_batch: PositiveInt
    weight: NonNegativeFloat
    irm_weight: NonNegativeFloat
    group_rate: NonNegativeFloat
    rate: PositiveFloat
    momentum: Annotated[float, Field(ge=0, lt=1)]
    decay: NonNegativeFloat


def digits(out: Path) -> Workspace:
    """A workspace of digits on grass and stone, with edited pairs; what is there is not made again."""
    context = Context(find_config(config_of("digits"), out / "digits")[0])
    context = context.with_config(
        data=context.config.data.model_copy(update={"root": (out / "data").absolute()})
    )
    edit = next(pair for pair in context.config.pairs if pair.method == "edit")
    with context.workspace.lock():
        print(build_pairs(context, edit).summary, file=sys.stderr, flush=True)
    return context.workspace


def device_of(name: str) -> torch.device:
    """A device that is there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise CfpairsError("there is no GPU that torch can use", remedy="--device cpu")
    return torch.device(name)


def measure(world: World, study: Study, device: torch.device, out: Path) -> list[Row]:
    """A row a method, seed and epoch."""
    unknown = [name for name in study.methods if name not in METHODS]
    if unknown:
        raise CfpairsError("no such method", got=unknown[0], expected=", ".join(METHODS))
    names = set(Settings.__dataclass_fields__) & set(Study.model_fields)
    settings = Settings(**{name: getattr(study, name) for name in names}, amp=device.type == "cuda")
    asked = study.model_dump(mode="json", exclude={"methods", "seeds", "epochs"})
    rows: list[Row] = []
    for seed in range(study.seeds):
        for name in study.methods:
            key = fingerprint(name, seed, asked, world.digest(), settings.amp)
            run = Run(world, settings, METHODS[name], seed, device)
            found = fine_tune(run, study.epochs, out / "runs" / f"{name}-{seed}.pt", key)
            rows += [{"method": name, "seed": seed, **row} for row in found]
    return rows


def told(rows: Sequence[Row], method: str, rule: str) -> tuple[float, float, float]:
    """Worst group (mean and standard deviation over seeds) and average in test, in per cent, by a rule."""
    chosen = []
    for seed in sorted({row["seed"] for row in rows}):
        own = [row for row in rows if (row["method"], row["seed"]) == (method, seed)]
        by = {"best": "test_worst_group", "chosen": "val_worst_group", "last": "epoch"}[rule]
        chosen.append(max(own, key=lambda row: row[by]))
    worst, average = (
        np.array([100 * row[f"test_{name}"] for row in chosen]) for name in ("worst_group", "average")
    )
    return float(worst.mean()), float(worst.std()), float(average.mean())


def comparison(rows: Sequence[Row], study: Study, data: str) -> list[tuple[str, str, str, str]]:
    """What the paper says, what was found, and on what data."""
    lines = []
    for method in study.methods:
        for rule, said in BEST.items():
            worst, deviation, average = told(rows, method, rule)
            lines.append(
                (f"{method}, worst group, {said}", "image of a table" if rule == "best" else "",
                 f"{worst:.1f} % ({deviation:.1f}; average {average:.1f})", data)
            )  # fmt: skip
    for ours, other, paper in GAINS:
        if {ours, other} <= set(study.methods):
            gains = {rule: told(rows, ours, rule)[0] - told(rows, other, rule)[0] for rule in BEST}
            found = f"{gains['best']:+.1f} points (by val {gains['chosen']:+.1f}, last {gains['last']:+.1f})"
            lines.append((f"{ours} over {other}, worst group, best epoch", f"+{paper} points", found, data))
    for method in study.methods:
        last = [
            row["pair_distance"] for row in rows if row["method"] == method and row["epoch"] == study.epochs
        ]
        said = f"{method}, squared distance of pairs in variances of the features"
        lines.append((said, "", f"{np.mean(last):.3f}", data))
    return lines


def draw(rows: Sequence[Row], study: Study, kind: str) -> bytes:
    """Worst group in test over the epochs (figure 5), mean over seeds."""
    from matplotlib.ticker import MaxNLocator

    with drawing("nonlinear", 6.2, 4) as figure:
        axes = figure.subplots()
        at = np.arange(1, study.epochs + 1)
        for method in study.methods:
            own = [row for row in rows if row["method"] == method]
            values = np.array(
                [
                    [100 * row["test_worst_group"] for row in own if row["seed"] == seed]
                    for seed in range(study.seeds)
                ]
            )
            ls = "--" if METHODS[method].pairs else "-"
            axes.plot(at, values.mean(0), color=COLOURS[method], lw=1.6, ls=ls, label=method)
            if study.seeds > 1:
                axes.fill_between(at, values.min(0), values.max(0), color=COLOURS[method], alpha=0.12, lw=0)
        axes.set(xlabel="epoch", ylabel="worst group in test, %", ylim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        open_frame(axes)
        axes.legend(frameon=False, fontsize=8, ncols=2)
        return as_image(figure, kind)


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    parser = study_parser(__doc__)
    parser.add_argument(
        "--workspace", type=Path, help="with images and a pair set; without it, digits are drawn"
    )
    parser.add_argument("--weights", type=Path, help="torchvision's weights of the backbone")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--epochs", type=int, help="how many; the configuration's by default")
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work/nonlinear"))
    parser.add_argument("--config", type=Path, default=CONFIG)
    args = parser.parse_args(argv)
    given = {name: getattr(args, name) for name in ("weights", "epochs")}
    study = read_settings(Study, args.config, **{k: v for k, v in given.items() if v is not None})
    device = device_of(args.device)
    workspace = digits(args.out) if args.workspace is None else Workspace(args.workspace)
    world = read_world(workspace, study.pair_set, study.side, edits_in_training=study.edits_in_training)
    rows = measure(world, study, device, args.out)
    data = (
        f"{'digits' if args.workspace is None else args.workspace.name}, {len(world.train.y)} train, "
        f"{len(world.test.y)} test images, {len(world.first)} pairs, {study.backbone}, "
        f"{study.epochs} epochs"
    )
    files = {"results.csv": as_csv(rows), **figure_files(draw, rows, study)}
    finish(args.out, comparison(rows, study, data), files)


if __name__ == "__main__":
    raise SystemExit(main())
