"""Two workspaces side by side: reads both, writes one page and the same for programs."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpairs.errors import WorkspaceError
from cfpairs.tables import RESULTS, load_manifest, read_table, write_bytes
from cfpairs.workflow.context import Context, StageResult, find_config
from cfpairs.workflow.probing import latest_run
from cfpairs.workflow.quality import stored_quality
from cfpairs.workspace import Workspace

if TYPE_CHECKING:
    from cfpairs.report.compare import RunInput

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
    WorkspaceError
        If one of them is no workspace or has no probe run, or `out` cannot be written.
    """
    from cfpairs.report.compare import compare_runs, comparison_json, render_comparison
    from cfpairs.report.terminal import render_comparison_terminal

    names = _names(first, second)
    runs = [_run(path, name) for path, name in zip((first, second), names, strict=True)]
    found = compare_runs(*runs)
    plain = out.with_suffix(".json")
    if plain == out:
        raise WorkspaceError(
            "the page cannot have this name", got=out.name, expected="a name such as compare.html"
        )
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


def _names(first: Path, second: Path) -> tuple[str, str]:
    """As short as tells them apart."""
    a, b = first.absolute(), second.absolute()
    return (
        (a.name, b.name) if a.name != b.name else (f"{a.parent.name}/{a.name}", f"{b.parent.name}/{b.name}")
    )


def _run(path: Path, name: str) -> RunInput:
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
    manifest = load_manifest(workspace)
    columns = (manifest[c].to_pylist() for c in ("item_id", "label_name", "env_name"))
    return RunInput(
        name=name,
        results=results,
        selection=spec["probe"]["selection"][0],
        levels={pairs: quality_level(found) for pairs, found in quality.items()},
        facts=_facts(context, spec, quality),
        right=_right(folder),
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


def _right(folder: Path) -> dict[tuple[str | None, str, str], dict[str, float]]:
    """For each chosen probe and test item, the share of seeds that classify it rightly."""
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(
            folder / "predictions.parquet",
            columns=["item_id", "pair_set", "method", "selection", "label", "predicted"],
        )
    except OSError:
        return {}
    sums: dict[tuple[str | None, str, str], dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for item, pair_set, method, rule, label, predicted in zip(
        *(table[name].to_pylist() for name in table.column_names), strict=True
    ):
        sums[pair_set, method, rule][item].append(label == predicted)
    return {
        key: {item: sum(found) / len(found) for item, found in items.items()} for key, items in sums.items()
    }
