"""What the studies on images share: a configuration of cfpairs, run stage by stage."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from paper_tables import config_of, study_parser

from cfpairs.config import parse_options
from cfpairs.registry import resolve
from cfpairs.tables import read_table
from cfpairs.workflow import Context, build_pairs, embed, find_config, probe

Row = dict[str, Any]

SAID = {
    "in-domain": "in-domain selection",
    "validation": "selection on val",
    "worst-group": "selection by val's worst group",
    "pairs": "selection by held-out pairs",
    "oracle": "oracle selection",
    "accuracy": "oracle selection by accuracy",
}


def open_context(
    config: Path, workspace: Path, root: Path, encoder: str | None, options: Mapping[str, Any]
) -> Context:
    """The configuration with another workspace, data folder and encoder, and some options of the data set.

    Raises
    ------
    CfpairsError
        If the file cannot be read, or a setting cannot be used.
    """
    context = Context(find_config(config, workspace)[0])
    found = context.config
    data = found.data.model_copy(
        update={"root": root.absolute(), "options": {**found.data.options, **options}}
    )
    spec = found.encoder if encoder is None else found.encoder.model_copy(update={"spec": encoder})
    return context.with_config(data=data, encoder=spec)


def starting_pairs(context: Context) -> dict[str, tuple[int, dict[str, Any]]]:
    """Number and options of the pairs of each method that the data set in the folder suggests."""
    data = context.config.data
    kind = resolve("datasets", data.preset)
    found = kind(parse_options(kind.Options, data.options, "data.options")).starting(context.data_root)
    return {pair["method"]: (pair["pairs"], pair.get("options", {})) for pair in found.get("pairs", [])}


def prepare(context: Context) -> None:
    """Manifest, pair sets and embeddings, as far as they are not there; those to train with come first."""
    first = context.config.data.train_with
    with context.workspace.lock():
        for pair in sorted(context.config.pairs, key=lambda pair: pair.set_name not in first):
            _tell(build_pairs(context, pair).summary)
        _tell(embed(context).summary)


def measured(context: Context, names: Sequence[str] = (), **settings: Any) -> list[Row]:
    """Means over the seeds of a probe run on the pair sets `names`, with some settings replaced."""
    return [row for row in _probed(context, names, settings)["results"] if row["seed"] is None]


def curve(context: Context, names: Sequence[str], **settings: Any) -> list[Row]:
    """Test accuracy of NCM against r, the ridge chosen by held-out pairs; `names` as for `measured`."""
    folder = Path(_probed(context, names, settings)["folder"])
    rows: list[Row] = read_table(folder / "curves.parquet").to_pylist()
    return [row for row in rows if row["method"] == "ncm"]


def by_accuracy(context: Context, names: Sequence[str], **settings: Any) -> list[Row]:
    """Of each method and pair set of a run the setting with the best accuracy in test; as `measured`."""
    folder = Path(_probed(context, names, settings, tell=False)["folder"])
    grid = read_table(folder / "grid.parquet").to_pandas()
    grid["pair_set"] = grid["pair_set"].fillna("")
    every = ["pair_set", "method", "r", "C", "params"]
    means = grid.groupby(every, sort=False)[["worst_group", "average"]].mean().reset_index()
    best = means.loc[means.groupby(["pair_set", "method"], sort=False)["average"].idxmax()]
    return [
        {**row, "selection": "accuracy", "params": {"C": row.pop("C"), "setting": json.loads(row["params"])}}
        for row in best.to_dict("records")
    ]


def _probed(
    context: Context, names: Sequence[str], settings: Mapping[str, Any], *, tell: bool = True
) -> dict[str, Any]:
    changed = context.with_config(probe=context.config.probe.model_copy(update=dict(settings)))
    with context.workspace.lock():
        done = probe(changed, names)
    if tell:
        _tell("; ".join([done.summary, *done.notes]))
    return done.data


def images_used(context: Context) -> dict[str, int]:
    """Items of the data set itself in every split."""
    counts: dict[str, int] = {}
    table = read_table(context.workspace.manifest, columns=["split", "origin"])
    for row in table.to_pylist():
        if row["origin"] == "source":
            counts[row["split"]] = counts.get(row["split"], 0) + 1
    return counts


def plain(rows: Iterable[Row], **more: Any) -> list[Row]:
    """The columns of results that a table of a study has."""
    return [
        {
            **more,
            "pair_set": row["pair_set"] or "",
            "method": row["method"],
            "selection": row["selection"],
            "r": row["r"],
            "worst_group": row["worst_group"],
            "average": row["average"],
            "params": json.dumps(row["params"], sort_keys=True),
        }
        for row in rows
    ]


def image_parser(said: str | None, name: str) -> argparse.ArgumentParser:
    """The options that all of them have; `name`, with hyphens, is of the configuration and the folder."""
    parser = study_parser(said)
    parser.add_argument("--root", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--encoder", help="lite, timm:MODEL or open_clip:MODEL/WEIGHTS; the configuration's")
    parser.add_argument("--out", type=Path, default=Path("cfpairs-work") / name)
    parser.add_argument("--config", type=Path, default=config_of(name))
    return parser


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
