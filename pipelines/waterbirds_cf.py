"""Worst group against the rank on Waterbirds-CF: pairs by editing, nearest and random.

Paper: Bai, Ji, Zhou, Inouye (2025), From Invariant Representations to Invariant Data, main table and E.1.
Data: any folder in the layout of Waterbirds (Sagawa et al. 2020) without the minority of its training items;
the edits that take their place are training items too. See data_cards/waterbirds.md.
Cost, expected result and all settings: configs/waterbirds-cf.yaml.
Run: python pipelines/waterbirds_cf.py --root DIR --encoder open_clip:ViT-B-32/openai
Writes results.csv, curve.csv, figure.svg and figure.png; what is there is not made again.
"""

from __future__ import annotations

from collections.abc import Sequence

from image_studies import (
    SAID,
    Row,
    curve,
    image_parser,
    images_used,
    measured,
    open_context,
    plain,
    prepare,
    starting_pairs,
)
from paper_tables import as_csv, as_image, drawing, exit_status, figure_files, finish, open_frame

from cfpairs.tables import read_table
from cfpairs.workflow import Context

RANKS = tuple(range(2, 25, 2))
"""The paper chooses r in [2, 24]."""
CURVE = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)
RULES = ("in-domain", "worst-group", "pairs", "oracle")
PLAIN = ("erm", "irm", "vrex", "groupdro", "coral", "fish", "mixup", "lisa")
TOLD = {
    ("erm", "", "in-domain"): "78.1 %",
    ("ncm", "edit", "in-domain"): "81.2 %",
    ("ncm", "edit", "oracle"): "86 %",
}
"""Worst groups that the paper's text gives; the other figures are an image."""
COLOURS = {"edit": "#0b6e4f", "nearest": "#2c6fbb", "random": "#d9822b"}


def with_own_numbers(context: Context) -> Context:
    """As many pairs of every kind as the folder has minority training items, label by label."""
    asked = starting_pairs(context)
    pairs = tuple(
        pair.model_copy(update={"pairs": n, "options": {**pair.options, **options}})
        for pair in context.config.pairs
        for n, options in [asked[pair.method]]
    )
    return context.with_config(pairs=pairs)


def usable(context: Context, name: str) -> int:
    """Pairs of a set that stood the checks."""
    states = read_table(context.workspace.pairs(name), columns=["status"])["status"].to_pylist()
    return sum(state == "ok" for state in states)


def measure(context: Context) -> tuple[list[Row], list[Row]]:
    """The table's rows, and the curve's."""
    rows = plain(measured(context, methods=PLAIN, selection=("in-domain", "worst-group", "oracle")))
    points: list[Row] = []
    for name in [pair.set_name for pair in context.config.pairs]:
        n = usable(context, name)
        ranks = tuple(r for r in RANKS if r <= 3 * n // 5) or (1,)
        rows += plain(measured(context, [name], methods=("ncm",), r=ranks, selection=RULES))
        shown = tuple(r for r in CURVE if r <= 4 * n // 5) or (1,)
        points += curve(context, [name], methods=("erm", "ncm"), r=shown, selection=("pairs",))
    return rows, points


def comparison(rows: Sequence[Row], data: str) -> list[tuple[str, str, str, str]]:
    """What the paper says of the worst group, what was found, and on what data."""
    lines = []
    for row in rows:
        said = f", {row['pair_set']} pairs, r = {row['r']}" if row["pair_set"] else ""
        paper = TOLD.get((row["method"], row["pair_set"], row["selection"]), "")
        ours = f"{100 * row['worst_group']:.1f} % (average {100 * row['average']:.1f})"
        lines.append((f"{row['method']}{said}, {SAID[row['selection']]}", paper, ours, data))
    return lines


def draw(rows: Sequence[Row], points: Sequence[Row], kind: str) -> bytes:
    """Worst group and average in test against r."""
    with drawing("waterbirds-cf", 6.2, 4) as figure:
        axes = figure.subplots()
        for name in dict.fromkeys(point["pair_set"] for point in points):
            own = sorted(
                (p["r"], 100 * p["worst_group"], 100 * p["average"]) for p in points if p["pair_set"] == name
            )
            r, worst, average = zip(*own, strict=True)
            colour = COLOURS.get(name, "#555555")
            axes.plot(
                r, worst, color=colour, marker="o", ms=4, lw=1.6, label=f"NCM, {name} pairs: worst group"
            )
            axes.plot(r, average, color=colour, lw=0.9, ls=":", label=f"NCM, {name} pairs: average")
        erm = next(row for row in rows if (row["method"], row["selection"]) == ("erm", "in-domain"))
        axes.axhline(100 * erm["worst_group"], color="#333333", lw=1, ls="--", label="ERM: worst group")
        axes.set_xscale("symlog", base=2, linthresh=1)
        axes.set(xlabel="r", ylabel="test accuracy, %", ylim=(0, 100))
        open_frame(axes)
        axes.legend(frameon=False, fontsize=7)
        return as_image(figure, kind)


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print ``paper | ours | data used``, write tables and figures."""
    args = image_parser(__doc__, "waterbirds-cf").parse_args(argv)
    context = with_own_numbers(
        open_context(args.config, args.out / "work", args.root, args.encoder, {"variant": "counterfactual"})
    )
    prepare(context)
    rows, points = measure(context)
    used = images_used(context)
    spec = context.config.encoder.spec
    data = f"{args.root.name}, {used['train']} train, {used['test']} test images, {spec}"
    files = {
        "results.csv": as_csv(rows),
        "curve.csv": as_csv(points),
        **figure_files(draw, rows, points),
    }
    finish(args.out, comparison(rows, data), files)


if __name__ == "__main__":
    raise SystemExit(main())
