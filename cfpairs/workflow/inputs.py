"""What probes and pair quality are computed from: items of every split and pairs, read and preprocessed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cfpairs.errors import DataError, UnknownNameError, WorkspaceError
from cfpairs.preprocessing import Preprocessor
from cfpairs.registry import suggest
from cfpairs.tables import PAIRS, file_metadata, load_manifest, read_table
from cfpairs.vectors import Embeddings, read_embeddings
from cfpairs.workflow.context import Context, source_items, training_items
from cfpairs.workflow.embeddings import encoder_id, failures, unembedded
from cfpairs.workflow.manifest import source_digest

if TYPE_CHECKING:
    from cfpairs.probes.crossfit import ItemRows, PairRows

__all__ = ["ProbeInputs", "load_inputs", "pair_arguments", "pair_set_names", "pairs_at_hand"]


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
