"""Leave one domain out: what a probe fitted to all other domains is worth in the one it has not seen.

Paper: Bai, Ji, Zhou, Inouye (2025), From Invariant Representations to Invariant Data, table 2 (an image; its
text gives no figure).
Data: DOMAIN/CLASS/image folders, PACS's or any. Pairs: nearest and random images of one class in two of the
domains that training sees.
Cost, expected result and all settings: configs/pacs.yaml.
Run: python pipelines/pacs.py --root DIR --encoder open_clip:ViT-B-32/openai
Writes results.csv, figure.svg and figure.png; what was encoded and fitted is not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from image_studies import SAID, Row, image_parser, images_used, measured, open_context, plain, prepare
from paper_tables import as_csv, as_image, drawing, exit_status, figure_files, finish, open_frame

from cfpairs import load_manifest
from cfpairs.workflow import Context, make_manifest


def domains_of(context: Context) -> list[str]:
    """Names of the environments, in order."""
    with context.workspace.lock():
        make_manifest(context)
    table = load_manifest(context.workspace)
    return sorted(set(table["env_name"].to_pylist()))


def measure(context: Context, known: Path | None) -> list[Row]:
    """Every configured method and pair set; `known` has the same images' embeddings."""
    folder = context.workspace.root / "embeddings"
    if known is not None and known.exists() and not folder.exists():
        shutil.copytree(known, folder)
    prepare(context)
    rows = plain(measured(context, selection=("in-domain", "pairs", "oracle")))
    return [row for row in rows if row["pair_set"] or row["method"] != "ncm"]


def comparison(rows: Sequence[Row], data: str) -> list[tuple[str, str, str, str]]:
    """A line a method, pair set and rule: accuracy in every domain left out, and their mean."""
    lines = []
    for key in dict.fromkeys((row["method"], row["pair_set"], row["selection"]) for row in rows):
        own = {
            row["left_out"]: 100 * row["average"]
            for row in rows
            if (row["method"], row["pair_set"], row["selection"]) == key
        }
        method, pairs, rule = key
        each = ", ".join(f"{name} {value:.1f}" for name, value in own.items())
        said = f"{method}{f', {pairs} pairs' if pairs else ''}, {SAID[rule]}"
        lines.append((said, "image of a table", f"{np.mean(list(own.values())):.1f} % ({each})", data))
    return lines


def draw(rows: Sequence[Row], kind: str) -> bytes:
    """Accuracy in every domain left out, settings chosen in-domain: a group of bars a domain."""
    chosen = [row for row in rows if row["selection"] == "in-domain"]
    domains = list(dict.fromkeys(row["left_out"] for row in chosen))
    series = list(dict.fromkeys((row["method"], row["pair_set"]) for row in chosen))
    with drawing("pacs", 6.4, 3.8) as figure:
        axes = figure.subplots()
        width = 0.8 / len(series)
        for number, (method, pairs) in enumerate(series):
            values = [
                next(
                    100 * r["average"]
                    for r in chosen
                    if (r["left_out"], r["method"], r["pair_set"]) == (domain, method, pairs)
                )
                for domain in domains
            ]
            at = np.arange(len(domains)) + (number - (len(series) - 1) / 2) * width
            axes.bar(at, values, width * 0.9, label=f"{method}{f', {pairs} pairs' if pairs else ''}")
        axes.set_xticks(np.arange(len(domains)), domains)
        axes.set(ylabel="accuracy in the domain left out, %", ylim=(0, 100))
        open_frame(axes)
        axes.legend(frameon=False, fontsize=8)
        return as_image(figure, kind)


@exit_status
def main(argv: Sequence[str] | None = None) -> None:
    """Run the study, print ``paper | ours | data used``, write table and figures."""
    args = image_parser(__doc__, "pacs").parse_args(argv)
    every = open_context(args.config, args.out / "all", args.root, args.encoder, {})
    rows: list[Row] = []
    known: Path | None = None
    for name in domains_of(every):
        folder = args.out / f"without-{name}"
        context = open_context(args.config, folder, args.root, args.encoder, {"test_env": name})
        rows += [{"left_out": name, **row} for row in measure(context, known)]
        known = folder / "embeddings"
    total = sum(images_used(context).values())
    data = f"{args.root.name}, {total} images, {context.config.encoder.spec}"
    files = {"results.csv": as_csv(rows), **figure_files(draw, rows)}
    finish(args.out, comparison(rows, data), files)


if __name__ == "__main__":
    raise SystemExit(main())
