"""Stage ``probe``: fit the probes on the embeddings and the pair sets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy
from numpy.typing import NDArray

from cfpairs.errors import WorkspaceError
from cfpairs.registry import entries, resolve
from cfpairs.review.decisions import dropped_by_hand
from cfpairs.tables import (
    PAIRS,
    RESULTS,
    REVIEW_COLUMNS,
    fingerprint,
    load_manifest,
    make_table,
    read_table,
    table_digest,
    write_bytes,
    write_table,
)
from cfpairs.vectors import contents_digest
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.embeddings import encoder_id
from cfpairs.workflow.inputs import ProbeInputs, load_inputs, pair_set_names
from cfpairs.workflow.manifest import source_digest
from cfpairs.workflow.quality import assess_all, highest_ranks

if TYPE_CHECKING:
    from cfpairs.probes.study import Study

__all__ = [
    "hand_notes",
    "latest_run",
    "pairs_digest",
    "probe",
    "probe_state",
    "run_spec",
]


def run_spec(context: Context, names: Sequence[str]) -> dict[str, Any]:
    """All that the result of a run depends on."""
    config = context.config
    encoder = encoder_id(context)
    ids = _items_used(context, names)
    return {
        "probe": config.probe.model_dump(mode="json"),
        "preprocess": config.preprocess.model_dump(mode="json"),
        "encoder_id": encoder,
        "source_digest": source_digest(context),
        "contents": contents_digest(context.workspace.embeddings(encoder), ids),
        **_made_by(context),
        "pair_sets": {name: pairs_digest(context, name) for name in names},
    }


def pairs_digest(context: Context, name: str) -> str:
    """Digest of all that is computed from in a pair set: its pairs and which of them are used.

    Keeping a pair that is used anyway, or a note, changes nothing; dropping one does, and taking that back
    gives the old digest again.
    """
    table = read_table(context.workspace.pairs(name), PAIRS)
    return table_digest(table, [c for c in sorted(table.column_names) if c not in REVIEW_COLUMNS])


def _items_used(context: Context, names: Sequence[str]) -> pa.Array:
    """Ids of the data set's own items and of those that the pair sets made."""
    manifest = load_manifest(context.workspace)
    if "pair_set" not in manifest.column_names:
        return manifest["item_id"]
    wanted = pa.array([*names, *context.config.data.train_with], pa.string())
    own = pc.or_kleene(pc.is_null(manifest["pair_set"]), pc.is_in(manifest["pair_set"], value_set=wanted))
    return manifest["item_id"].filter(own)


def _made_by(context: Context) -> dict[str, Any]:
    """The pair sets whose made items are training items, for the record of a run that has some."""
    names = context.config.data.train_with
    missing = [name for name in names if not context.workspace.pairs(name).exists()]
    if missing:
        raise WorkspaceError(
            f"training items are to come from pair set {missing[0]!r}, which is not there",
            remedy="make it with 'cfpairs build', or take it out of data.train_with",
        )
    digests = {n: pairs_digest(context, n) for n in names}
    return {"train_with": digests} if digests else {}


def _run_id(spec: dict[str, Any]) -> str:
    return fingerprint("probe", 4, spec)


def latest_run(context: Context) -> str | None:
    """The probe run that was asked for last, if it is complete."""
    try:
        run_id = str(json.loads(context.workspace.latest_probe.read_text())["run_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    complete = (context.workspace.probe_run(run_id) / "results.parquet").exists()
    return run_id if complete else None


def probe_state(context: Context) -> tuple[str, str]:
    """State of the run that the configuration asks for, and why."""
    latest = latest_run(context)
    if latest is None:
        return "missing", ""
    wanted = run_spec(context, pair_set_names(context))
    if latest != _run_id(wanted):
        return "stale", _what_changed(context.workspace.probe_run(latest) / "spec.json", wanted)
    return "done", ""


_CHANGES = {
    "source_digest": "the items changed",
    "contents": "images or vectors of items changed",
    "encoder_id": "another encoder is set",
    "preprocess": "the preprocessing changed",
    "train_with": "the training items that pair sets made changed",
    "probe": "settings of the probes changed",
}


def _what_changed(spec_file: Path, wanted: dict[str, Any]) -> str:
    """In what a run differs from the one that is wanted."""
    try:
        spec = json.loads(spec_file.read_text())
        before, now = dict(spec["pair_sets"]), wanted["pair_sets"]
    except (OSError, ValueError, KeyError, TypeError):
        return "items, pairs or settings changed since"
    said = [words for key, words in _CHANGES.items() if spec.get(key) != wanted.get(key)]
    said += [f"pairs {name} changed" for name in now if name in before and before[name] != now[name]]
    said += [f"pairs {name} are new" for name in now if name not in before]
    said += [f"pairs {name} are gone" for name in before if name not in now]
    return ", ".join(said) or "it was made by another version"


def probe(context: Context, pair_sets: Sequence[str] = (), *, every: bool = False) -> StageResult:
    """Fit every configured probe on the pair sets, unless that very run is there.

    Parameters
    ----------
    pair_sets : sequence of str
        Names; by default all that are in the workspace.
    every : bool
        Fit every probe that there is instead; without a pair set, every one that needs none.
    """
    begun = time.perf_counter()
    left_out: tuple[str, ...] = ()
    if every:
        context, left_out = _with_every(context, bool(pair_sets))
    config = context.config.probe
    for method in config.methods:
        if method not in entries("probes"):
            resolve("probes", method)
    names = pair_set_names(context, pair_sets)
    spec = run_spec(context, names)
    run_id = _run_id(spec)
    folder = context.workspace.probe_run(run_id)
    made = not (folder / "results.parquet").exists()
    notes = left_out
    if made:
        # scikit-learn and SciPy take seconds to import; status and errors do not wait for them.
        from cfpairs.probes.study import run_study

        inputs = load_inputs(context, names)
        quality = assess_all(context, inputs, folder)
        study = run_study(
            inputs.train,
            inputs.test,
            list(inputs.pairs.values()),
            config,
            context.progress,
            validation=inputs.val,
            highest=highest_ranks(quality),
        )
        notes = (*left_out, *study.notes, *_failure_notes(inputs))
        _write(folder, spec, study)
    write_bytes(context.workspace.latest_probe, json.dumps({"run_id": run_id}).encode())
    by_hand = _dropped_by_hand(context, names)
    results = read_table(folder / "results.parquet", RESULTS).to_pylist()
    seconds = time.perf_counter() - begun
    fits = read_table(folder / "grid.parquet").num_rows
    line = f"probe: {fits} settings of {', '.join(config.methods)} on {len(names)} pair sets"
    return StageResult(
        "probe",
        made,
        f"{line} in {seconds:.1f} s" if made else f"{line}, up to date",
        (*hand_notes(by_hand), *notes),
        {
            "run_id": run_id,
            "folder": str(folder),
            "dropped_by_hand": by_hand,
            "results": [_plain(row) for row in results],
        },
    )


def _dropped_by_hand(context: Context, names: Sequence[str]) -> dict[str, int]:
    tables = {name: read_table(context.workspace.pairs(name), PAIRS) for name in names}
    return {name: dropped_by_hand(table) for name, table in tables.items()}


def hand_notes(by_hand: Mapping[str, int]) -> tuple[str, ...]:
    """A line for each pair set that people have dropped pairs of."""
    return tuple(f"pairs {name}: {n} dropped by hand, not used" for name, n in by_hand.items() if n)


def _with_every(context: Context, named: bool) -> tuple[Context, tuple[str, ...]]:
    """The configuration with every probe, and a line on those that must wait for pairs."""
    names = sorted(entries("probes"))
    lacking: list[str] = []
    if not named and not context.workspace.pair_set_names():
        lacking = [name for name in names if "pairs" in resolve("probes", name).needs]
    methods = tuple(name for name in names if name not in lacking)
    changed = context.with_config(probe=context.config.probe.model_copy(update={"methods": methods}))
    line = f"there is no pair set ('cfpairs build' makes one); without it go {', '.join(lacking)}"
    return changed, (line,) if lacking else ()


def _failure_notes(inputs: ProbeInputs) -> tuple[str, ...]:
    if not inputs.failed:
        return ()
    return (f"{len(inputs.failed)} items without a readable image were left out",)


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"params": json.loads(row["params"])}


def _write(folder: Path, spec: dict[str, Any], study: Study) -> None:
    """Write a run; results.parquet comes last and marks it complete."""
    write_bytes(folder / "spec.json", json.dumps(spec, indent=2).encode())
    write_table(folder / "grid.parquet", pa.Table.from_pylist(study.grid))
    write_table(folder / "curves.parquet", pa.Table.from_pylist(study.curves, schema=_CURVES))
    write_table(folder / "predictions.parquet", pa.concat_tables(study.predictions))
    coefficients: dict[str, NDArray[Any]] = study.coefficients
    write_bytes(folder / "coefficients.safetensors", safetensors.numpy.save(coefficients))
    write_table(folder / "results.parquet", make_table(study.results, RESULTS), RESULTS)


_CURVES = pa.schema(
    [
        ("pair_set", pa.string()),
        ("method", pa.string()),
        ("r", pa.int32()),
        ("C", pa.float64()),
        ("worst_group", pa.float64()),
        ("worst_group_low", pa.float64()),
        ("worst_group_high", pa.float64()),
        ("average", pa.float64()),
    ]
)
