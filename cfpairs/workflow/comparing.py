"""Two workspaces side by side: reads both, writes one page and the same for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from cfpairs.errors import ConfigError, WorkspaceError
from cfpairs.tables import RESULTS, load_manifest, read_table, write_bytes
from cfpairs.workflow.context import Context, StageResult, find_config
from cfpairs.workflow.probing import latest_run
from cfpairs.workflow.quality import stored_quality
from cfpairs.workspace import Workspace

if TYPE_CHECKING:
    from cfpairs.report.compare import RunInput
    from cfpairs.report.model import Result

__all__ = ["compare"]


def compare(first: Path, second: Path, out: Path) -> StageResult:
    """Compare the latest probe runs of two workspaces.

    Parameters
    ----------
    first, second : Path
        Workspaces; they are only read.
    out : Path
        The page to write; the same for programs goes beside it, with the suffix ``.json``.

    Raises
    ------
    ConfigError
        If `out` is no name of a page.
    WorkspaceError
        If one of them is no workspace or has no probe run, or `out` cannot be written.
    """
    from cfpairs.report.compare import compare_runs, comparison_json, render_comparison
    from cfpairs.report.terminal import render_comparison_terminal

    plain = _beside(out)
    names = _names(first, second)
    runs = [_run(path, name) for path, name in zip((first, second), names, strict=True)]
    found = compare_runs(*runs)
    write_bytes(out, render_comparison(found).encode())
    write_bytes(plain, json.dumps(comparison_json(found), indent=1, allow_nan=False).encode())
    return StageResult(
        "compare",
        True,
        f"compare: {out}",
        (),
        {
            "html": str(out),
            "json": str(plain),
            "better": found.better,
            "text": found.text,
            "gain": found.gain,
            "paired": found.paired,
            "differs": [fact.name for fact in found.facts if not fact.same],
        },
        render_comparison_terminal(found),
    )


def _beside(out: Path) -> Path:
    """The file for programs beside the page `out`."""
    if out.name in ("", "..") or out.suffix == ".json" or out.is_dir():
        raise ConfigError(
            "the page of the comparison cannot have this name",
            got=f"{str(out)!r}{', a folder' if out.is_dir() else ''}",
            expected="a file such as compare.html",
        )
    return out.with_suffix(".json")


def _names(first: Path, second: Path) -> tuple[str, str]:
    """As short as tells them apart."""
    a, b = first.absolute(), second.absolute()
    return (
        (a.name, b.name) if a.name != b.name else (f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}")
    )


def _run(path: Path, name: str) -> RunInput:
    from cfpairs.report.assess import recommended
    from cfpairs.report.compare import RunInput
    from cfpairs.report.verdict import quality_level

    workspace = Workspace(path)
    if not workspace.config.exists() or not workspace.manifest.exists():
        raise WorkspaceError("no workspace", got=path, remedy="name the folder that 'cfpairs run' writes to")
    config, _ = find_config(workspace.config, path)
    context = Context(config)
    run_id = latest_run(context)
    if run_id is None:
        raise WorkspaceError(
            f"workspace {path} has no probe run to compare", remedy=f"run 'cfpairs probe -w {path}'"
        )
    folder = workspace.probe_run(run_id)
    spec = json.loads((folder / "spec.json").read_text())
    quality = stored_quality(folder) or {}
    results = read_table(folder / "results.parquet", RESULTS).to_pylist()
    levels = {pairs: quality_level(found) for pairs, found in quality.items()}
    selection = spec["probe"]["selection"][0]
    best, _ = recommended(results, selection, levels)
    manifest = load_manifest(workspace)
    columns = (manifest[c].to_pylist() for c in ("item_id", "label_name", "env_name"))
    return RunInput(
        name=name,
        results=results,
        selection=selection,
        levels=levels,
        facts=_facts(context, spec, quality),
        right={} if best is None else _right(folder, best),
        groups={item: (label, env) for item, label, env in zip(*columns, strict=True)},
    )


def _facts(context: Context, spec: dict[str, Any], quality: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What a run depends on, in words that tell two runs apart."""

    def pairs(name: str, digest: str) -> str:
        n = quality.get(name, {}).get("n_pairs")
        return f"{name} ({digest[:6] if n is None else f'{n} pairs, {digest[:6]}'})"

    probe = spec["probe"]
    return {
        "data": f"{context.config.data.preset} ({spec['source_digest'][:6]})",
        "encoder": spec["encoder_id"],
        "preprocessing": ", ".join(f"{key} {value}" for key, value in spec["preprocess"].items()),
        "pairs": "; ".join(pairs(name, digest) for name, digest in spec["pair_sets"].items()) or "none",
        "probes": ", ".join(probe["methods"]),
        "search": f"r {probe['r']}, C {', '.join(f'{c:g}' for c in probe['C'])}, budget {probe['budget']}",
        "selection rule": probe["selection"][0],
        "seeds": f"{context.config.seed}; probes {', '.join(map(str, probe['seeds']))}",
    }


def _right(folder: Path, best: Result) -> dict[tuple[str | None, str, str], dict[str, float]]:
    """For the probe `best` and each test item, the share of seeds that classify it rightly."""
    pair_set = pc.field("pair_set")
    wanted = pair_set.is_null() if best.pair_set is None else pair_set == best.pair_set
    wanted &= (pc.field("method") == best.method) & (pc.field("selection") == best.selection)
    path = folder / "predictions.parquet"
    if not path.exists():
        return {}
    table = read_table(path, columns=["item_id", "label", "predicted"], rows=wanted)
    right = pc.equal(table["label"], table["predicted"])
    shares = table.append_column("right", right).group_by("item_id").aggregate([("right", "mean")])
    items, means = (shares[name].to_pylist() for name in ("item_id", "right_mean"))
    return {(best.pair_set, best.method, best.selection): dict(zip(items, means, strict=True))}
