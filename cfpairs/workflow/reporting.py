"""Stage ``report``: the page, the same numbers for programs, and the terminal's summary."""

from __future__ import annotations

import json
import platform
import shlex
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cfpairs.config import dump_config
from cfpairs.encoders.base import library_versions
from cfpairs.errors import WorkspaceError
from cfpairs.review.decisions import dropped_by_hand
from cfpairs.tables import (
    PAIRS,
    RESULTS,
    REVIEW_COLUMNS,
    file_metadata,
    fingerprint,
    load_manifest,
    read_table,
    table_digest,
    write_bytes,
)
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.inputs import ProbeInputs, load_inputs
from cfpairs.workflow.manifest import group_table, source_digest
from cfpairs.workflow.probing import hand_notes, latest_run
from cfpairs.workflow.quality import assess_all, stored_comparison, stored_quality

if TYPE_CHECKING:
    from cfpairs.report.assess import PairSetInput

__all__ = ["report", "report_state", "standing_report"]

LIBRARIES = ("cfpairs", "numpy", "scipy", "scikit-learn", "pyarrow", "torch", "openvino", "faiss-cpu")


def _fingerprint(context: Context, run_id: str) -> str:
    said = _said(context)
    more = [said] if said else []
    return fingerprint("report", 3, run_id, context.config.report.model_dump(mode="json"), *more)


def _said(context: Context) -> dict[str, str]:
    """Digests of what people have said of the pairs, by pair set; the page shows their notes."""
    tables = {n: read_table(context.workspace.pairs(n), PAIRS) for n in context.workspace.pair_set_names()}
    spoken = {n: [c for c in REVIEW_COLUMNS if c in table.column_names] for n, table in tables.items()}
    return {n: table_digest(tables[n], columns) for n, columns in spoken.items() if columns}


def report_state(context: Context) -> tuple[str, str]:
    """State of the page and why."""
    run_id = latest_run(context)
    try:
        found = json.loads(context.workspace.report_json.read_text())["provenance"]["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return "missing", ""
    if run_id is None or found != _fingerprint(context, run_id) or not context.workspace.report_html.exists():
        return "stale", "the probe run or the settings changed"
    return "done", ""


def report(context: Context) -> StageResult:
    """Write report.html and report.json from the latest probe run.

    Raises
    ------
    WorkspaceError
        If no probe was run.
    """
    from cfpairs.report.as_json import render_json
    from cfpairs.report.assess import assess
    from cfpairs.report.html import render_html
    from cfpairs.report.terminal import render_terminal

    begun = time.perf_counter()
    workspace = context.workspace
    run_id = latest_run(context)
    if run_id is None:
        raise WorkspaceError("there is no probe run to report", remedy="run 'cfpairs probe'")
    folder = workspace.probe_run(run_id)
    spec = json.loads((folder / "spec.json").read_text())
    inputs = load_inputs(context, list(spec["pair_sets"]))
    manifest = load_manifest(workspace)
    data = assess(
        title=context.config.report.title,
        groups=group_table(manifest),
        pair_sets=_pair_sets(context, inputs, folder),
        results=read_table(folder / "results.parquet", RESULTS).to_pylist(),
        curves=read_table(folder / "curves.parquet").to_pylist(),
        selection=spec["probe"]["selection"][0],
        image_of=_image_finder(context, manifest, inputs),
        item_of=_item_finder(manifest),
        data=_data(context, inputs, manifest.num_rows),
        provenance=_provenance(context, inputs, run_id, spec),
        gallery=context.config.report.gallery,
        comparison=stored_comparison(folder),
        grid=read_table(folder / "grid.parquet").to_pylist(),
        commands=_commands(context, spec),
        configuration=_configuration(context, spec),
    )
    plain = render_json(data)
    write_bytes(workspace.report_html, render_html(data).encode())
    write_bytes(workspace.report_json, json.dumps(plain, indent=1, allow_nan=False).encode())
    seconds = time.perf_counter() - begun
    return StageResult(
        "report",
        True,
        f"report: {workspace.report_html} in {seconds:.1f} s",
        hand_notes({name: dropped_by_hand(table) for name, table in inputs.tables.items()}),
        {
            "html": str(workspace.report_html),
            "json": str(workspace.report_json),
            "verdict": _short(plain["verdict"]),
        },
        render_terminal(data),
    )


def standing_report(context: Context) -> StageResult:
    """The report that is there, for a run that finds it up to date."""
    workspace = context.workspace
    verdict = json.loads(workspace.report_json.read_text())["verdict"]
    return StageResult(
        "report",
        False,
        f"{verdict['text']}\nreport: {workspace.report_html}, up to date",
        (),
        {"html": str(workspace.report_html), "json": str(workspace.report_json), "verdict": _short(verdict)},
    )


def _short(verdict: dict[str, Any]) -> dict[str, Any]:
    """The verdict without what only the page needs."""
    return {key: verdict[key] for key in ("level", "text", "recommended_r")}


def _commands(context: Context, spec: dict[str, Any]) -> list[str]:
    """What makes the probe run and the page again; the run's own settings stand in the configuration."""
    names = list(spec["pair_sets"])
    known = {pair.set_name for pair in context.config.pairs}
    if set(names) == known:
        return ["cfpairs run -c cfpairs.yaml"]
    wanted = " ".join(f"--pair-set {shlex.quote(name)}" for name in names)
    lines = ["cfpairs embed -c cfpairs.yaml"]
    lines.append(" ".join(filter(None, ("cfpairs probe -c cfpairs.yaml", wanted))))
    lines.append("cfpairs report -c cfpairs.yaml")
    missing = [name for name in names if name not in known]
    if missing:
        lines.insert(0, f"# pair sets not in the configuration, from their data cards: {', '.join(missing)}")
    return lines


def _configuration(context: Context, spec: dict[str, Any]) -> str:
    """The configuration of the run, with the data folder named as the user would have to name it."""
    config = context.config
    root = config.data.root
    data = config.data.model_copy(update={"root": None if root is None else Path(root.name)})
    probe = type(config.probe).model_validate(spec["probe"])
    return dump_config(
        config.model_copy(update={"workspace": Path("cfpairs-work"), "data": data, "probe": probe})
    )


def _pair_sets(context: Context, inputs: ProbeInputs, folder: Path) -> list[PairSetInput]:
    """Every pair set with its quality as the probe run found it."""
    quality = stored_quality(folder) or assess_all(context, inputs, folder)
    return [_pair_set(context, inputs, name, quality[name]) for name in inputs.pairs]


def _pair_set(context: Context, inputs: ProbeInputs, name: str, quality: dict[str, Any]) -> PairSetInput:
    from cfpairs.report.assess import PairSetInput

    rows = [_with_note(row) for row in inputs.tables[name].to_pylist()]
    card = context.workspace.card(name)
    return PairSetInput(
        name=name,
        method=rows[0]["method"] if rows else name,
        counts=dict(Counter(_status(row) for row in rows)),
        quality=quality,
        pairs=sorted(rows, key=lambda row: row["status"] != "ok"),
        card=card.read_text(encoding="utf-8") if card.exists() else "",
    )


def _status(row: dict[str, Any]) -> str:
    return "dropped by hand" if row.get("decision") == "drop" else str(row["status"])


def _with_note(row: dict[str, Any]) -> dict[str, Any]:
    """The pair with its reviewer's note as part of the reason."""
    said = [part for part in (row["reason"], row.get("note")) if part]
    return row | {"reason": "; ".join(said) or None}


def _image_finder(context: Context, manifest: Any, inputs: ProbeInputs) -> Callable[[str], Path | None]:
    """Images of items, and of the sides that a check stopped, which are no items."""
    paths: dict[str, str | None] = {}
    for table in inputs.tables.values():
        if "rejected_path" in table.column_names:
            paths |= dict(zip(table["b_id"].to_pylist(), table["rejected_path"].to_pylist(), strict=True))
    paths |= dict(zip(manifest["item_id"].to_pylist(), manifest["path"].to_pylist(), strict=True))
    workspace = context.workspace

    def image_of(item_id: str) -> Path | None:
        path = paths.get(item_id)
        return workspace.file(path) if path else None

    return image_of


def _item_finder(manifest: Any) -> Callable[[str], dict[str, Any]]:
    place = {item: i for i, item in enumerate(manifest["item_id"].to_pylist())}

    def item_of(item_id: str) -> dict[str, Any]:
        found: dict[str, Any] = manifest.slice(place[item_id], 1).to_pylist()[0]
        return found

    return item_of


def _data(context: Context, inputs: ProbeInputs, n_items: int) -> dict[str, Any]:
    return {
        "preset": context.config.data.preset,
        "items": n_items,
        "train": len(inputs.train.ids),
        "test": len(inputs.test.ids),
        "dimensions": int(inputs.train.X.shape[1]),
        "failures": len(inputs.failed),
    }


def _provenance(context: Context, inputs: ProbeInputs, run_id: str, spec: dict[str, Any]) -> dict[str, Any]:
    config = context.config
    folder = context.workspace.embeddings(inputs.encoder_id)
    first = next(iter(sorted(folder.glob("part-*.parquet"))), None)
    written = {} if first is None else file_metadata(first)
    return {
        "commands": _commands(context, spec),
        "seed": config.seed,
        "probe_seeds": list(config.probe.seeds),
        "probe_run": run_id,
        "encoder": config.encoder.spec,
        "encoder_id": inputs.encoder_id,
        "weights_sha256": written.get("weights_sha256") or None,
        "embedding_files": json.loads(written.get("files", "[]")),
        "preprocess": spec["preprocess"],
        "manifest": source_digest(context),
        "pair_sets": spec["pair_sets"],
        "fingerprint": _fingerprint(context, run_id),
        "python": platform.python_version(),
        "libraries": library_versions(*LIBRARIES),
    }
