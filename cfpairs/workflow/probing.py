"""Stage ``probe``: fit the probes on the embeddings and the pair sets."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import safetensors.numpy
from numpy.typing import NDArray

from cfpairs.errors import DataError, UnknownNameError, WorkspaceError
from cfpairs.preprocessing import Preprocessor
from cfpairs.registry import entries, resolve, suggest
from cfpairs.review.decisions import dropped_by_hand
from cfpairs.tables import (
    PAIRS,
    RESULTS,
    REVIEW_COLUMNS,
    file_metadata,
    fingerprint,
    load_manifest,
    make_table,
    read_table,
    table_digest,
    write_bytes,
    write_table,
)
from cfpairs.vectors import Embeddings, contents_digest, read_embeddings
from cfpairs.workflow.context import Context, StageResult, source_items, training_items
from cfpairs.workflow.embeddings import encoder_id, failures, unembedded
from cfpairs.workflow.manifest import source_digest
from cfpairs.workflow.quality import assess_all, highest_ranks

if TYPE_CHECKING:
    from cfpairs.probes.crossfit import ItemRows, PairRows
    from cfpairs.probes.study import Study

__all__ = [
    "ProbeInputs",
    "hand_notes",
    "latest_run",
    "load_inputs",
    "pair_arguments",
    "pair_set_names",
    "pairs_at_hand",
    "pairs_digest",
    "probe",
    "probe_state",
    "run_spec",
]


@dataclass(frozen=True)
class ProbeInputs:
    """Everything that probes and pair quality are computed from.

    Attributes
    ----------
    encoder_id : str
    train, val, test : ItemRows
        Items of each split, preprocessed.
    pairs : dict of str to PairRows
        Usable pairs of every pair set.
    tables : dict of str to pyarrow.Table
        All pairs of every pair set, rejected and dropped ones too.
    kept : dict of str to list of str
        ``pair_id`` of the usable pairs, in the order of `pairs`.
    failed : list of dict
        Images that could not be read.
    controls : dict of str to ndarray of shape (c, d)
        Differences of the control pairs of the pair sets that have some.
    """

    encoder_id: str
    train: ItemRows
    val: ItemRows
    test: ItemRows
    pairs: dict[str, PairRows]
    tables: dict[str, pa.Table]
    kept: dict[str, list[str]]
    failed: list[dict[str, Any]]
    controls: dict[str, NDArray[np.float32]]


def pair_set_names(context: Context, chosen: Sequence[str] = ()) -> list[str]:
    """Pair sets on disk, those of the configuration first; or the chosen ones.

    Raises
    ------
    UnknownNameError
        If a chosen one is not there.
    """
    on_disk = context.workspace.pair_set_names()
    for name in chosen:
        if name not in on_disk:
            raise UnknownNameError(
                "no such pair set",
                got=repr(name),
                expected=suggest(name, tuple(on_disk)) if on_disk else None,
                remedy="make it with 'cfpairs build'",
            )
    if chosen:
        return list(dict.fromkeys(chosen))
    first = [p.set_name for p in context.config.pairs if p.set_name in on_disk]
    return [*first, *(n for n in on_disk if n not in first)]


def load_inputs(
    context: Context, names: Sequence[str], tables: Mapping[str, pa.Table] | None = None
) -> ProbeInputs:
    """Read and preprocess what is needed for pair sets `names`.

    Parameters
    ----------
    names : sequence of str
    tables : mapping of str to pyarrow.Table, optional
        What the pair sets are taken to be; by default as they are on disk.

    Raises
    ------
    WorkspaceError
        If a stage before is missing or stale.
    """
    workspace = context.workspace
    manifest = load_manifest(workspace)
    found = encoder_id(context)
    to_do = unembedded(context)
    if to_do:
        raise WorkspaceError(
            f"items without an embedding by {context.config.encoder.spec!r}",
            got=f"{len(to_do)} of {len(manifest)}",
            remedy="run 'cfpairs embed'",
        )
    raw = read_embeddings(workspace.embeddings(found))
    sources = source_items(manifest)
    preprocessor = Preprocessor(context.config.preprocess)
    train = training_items(context, manifest)
    preprocessor.fit(raw.rows([i for i in _ids(train, "train") if i in raw]))
    embeddings = preprocessor.transform_embeddings(raw)
    rows_of = _Subjects(manifest)
    read = {name: _read_pairs(context, name) for name in names} | dict(tables or {})
    pairs, kept = {}, {}
    for name, table in read.items():
        pairs[name], kept[name] = _pair_rows(name, table, embeddings, rows_of)
    return ProbeInputs(
        found,
        _item_rows(train, "train", embeddings, rows_of),
        _item_rows(sources, "val", embeddings, rows_of),
        _item_rows(sources, "test", embeddings, rows_of),
        pairs,
        read,
        kept,
        failures(context, found),
        _control_differences(manifest, names, embeddings),
    )


def pairs_at_hand(context: Context, name: str) -> dict[str, Any] | None:
    """Arguments of `assess_pairs` from the vectors that are there, as far as these are enough.

    Returns
    -------
    dict or None
        None where fewer than half of the usable pairs have vectors of both sides, or no training item has.
    """
    raw = read_embeddings(context.workspace.embeddings(encoder_id(context)))
    manifest = load_manifest(context.workspace)
    train = training_items(context, manifest)
    ids = [i for i in _ids(train, "train") if i in raw]
    table = _read_pairs(context, name)
    usable = int(pc.sum(pc.equal(table["status"], "ok")).as_py() or 0)
    if not ids or not usable:
        return None
    preprocessor = Preprocessor(context.config.preprocess)
    preprocessor.fit(raw.rows(ids))
    embeddings = preprocessor.transform_embeddings(raw)
    rows_of = _Subjects(manifest)
    pairs, kept = _pair_rows(name, table, embeddings, rows_of)
    if 2 * len(kept) < usable:
        return None
    items = _item_rows(train, "train", embeddings, rows_of)
    control = _control_differences(manifest, [name], embeddings).get(name)
    return pair_arguments(items, pairs, kept, table, control)


def _control_differences(
    manifest: pa.Table, names: Sequence[str], embeddings: Embeddings
) -> dict[str, NDArray[np.float32]]:
    """Source less its null edit for each control item that has vectors, by pair set."""
    if "pair_set" not in manifest.column_names:
        return {}
    made = manifest.filter(pc.equal(manifest["origin"], "control"))
    found: dict[str, list[tuple[str, str]]] = {}
    columns = (made[column].to_pylist() for column in ("pair_set", "parent_id", "item_id"))
    for name, parent, item in sorted(zip(*columns, strict=True)):
        if name in names and parent in embeddings and item in embeddings:
            found.setdefault(name, []).append((parent, item))
    return {
        name: embeddings.rows([parent for parent, _ in ids]) - embeddings.rows([item for _, item in ids])
        for name, ids in found.items()
    }


def pair_arguments(
    train: ItemRows,
    pairs: PairRows,
    kept: Sequence[str],
    table: pa.Table,
    control: NDArray[np.float32] | None = None,
) -> dict[str, Any]:
    """Arguments of `assess_pairs` for one pair set.

    Parameters
    ----------
    train : ItemRows
        Training items.
    pairs : PairRows
    kept : sequence of str
        ``pair_id`` of its rows.
    table : pyarrow.Table
        All pairs of the set.
    control : ndarray of shape (c, d), optional
        Differences of its control pairs.
    """
    makers = None
    if "editor" in table.column_names:
        editor = dict(zip(table["pair_id"].to_pylist(), table["editor"].to_pylist(), strict=True))
        makers = [str(editor[pair]) for pair in kept]
    return {
        "D": pairs.differences,
        "X": train.X,
        "y": train.y,
        "env": train.env,
        "a": pairs.a,
        "pair_labels": pairs.labels,
        "clusters": pairs.subject_a.astype(str),
        "pair_ids": list(kept),
        "pair_envs": None if pairs.env_a is None or pairs.env_b is None else (pairs.env_a, pairs.env_b),
        "makers": makers,
        "control": control,
    }


def _ids(table: pa.Table, split: str) -> list[str]:
    found: list[str] = table.filter(pc.equal(table["split"], split))["item_id"].to_pylist()
    return found


class _Subjects:
    """Label, environment and subject of every item."""

    def __init__(self, manifest: pa.Table) -> None:
        columns = (manifest[c].to_pylist() for c in ("item_id", "label", "env", "subject", "parent_id"))
        self.rows = {
            item: (label, env, subject or parent or item)
            for item, label, env, subject, parent in zip(*columns, strict=True)
        }

    def take(self, items: Sequence[str], place: int) -> list[Any]:
        unknown = [item for item in items if item not in self.rows]
        if unknown:
            raise DataError(
                "pairs of items that the manifest does not have",
                got=f"{len(unknown)}, such as {unknown[0]!r}",
                remedy="build the pair set again with --force",
            )
        return [self.rows[item][place] for item in items]


def _item_rows(sources: pa.Table, split: str, embeddings: Embeddings, rows_of: _Subjects) -> ItemRows:
    from cfpairs.probes.crossfit import ItemRows

    ids = [item for item in _ids(sources, split) if item in embeddings]
    return ItemRows(
        ids,
        embeddings.rows(ids),
        np.array(rows_of.take(ids, 0), np.int64),
        np.array(rows_of.take(ids, 1), np.int64),
        np.array(rows_of.take(ids, 2), dtype=object),
    )


def _read_pairs(context: Context, name: str) -> pa.Table:
    path = context.workspace.pairs(name)
    if file_metadata(path).get("source_digest") != source_digest(context):
        raise WorkspaceError(
            f"pair set {name!r} was built from another manifest",
            remedy=f"run 'cfpairs build' for it again, or remove {path.parent}",
        )
    return read_table(path, PAIRS)


def _pair_rows(
    name: str, table: pa.Table, embeddings: Embeddings, rows_of: _Subjects
) -> tuple[PairRows, list[str]]:
    from cfpairs.probes.crossfit import PairRows

    rows = [
        row
        for row in table.to_pylist()
        if row["status"] == "ok" and row["a_id"] in embeddings and row["b_id"] in embeddings
    ]
    a, b = [row["a_id"] for row in rows], [row["b_id"] for row in rows]
    env_a = _known(rows, "env_a", rows_of.take(a, 1))
    env_b = _known(rows, "env_b", rows_of.take(b, 1))
    pairs = PairRows(
        name=name,
        method=rows[0]["method"] if rows else name,
        a=embeddings.rows(a),
        b=embeddings.rows(b),
        labels=np.array(_known(rows, "label", rows_of.take(a, 0)), np.int64),
        env_a=np.array(env_a, np.int64),
        env_b=np.array(env_b, np.int64),
        subject_a=np.array(rows_of.take(a, 2), dtype=object),
        subject_b=np.array(rows_of.take(b, 2), dtype=object),
    )
    return pairs, [row["pair_id"] for row in rows]


def _known(rows: Sequence[dict[str, Any]], column: str, otherwise: Sequence[Any]) -> list[Any]:
    return [o if row[column] is None else row[column] for row, o in zip(rows, otherwise, strict=True)]


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
    return fingerprint("probe", 3, spec)


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
