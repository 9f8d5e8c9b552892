"""Stage ``manifest``: a source on disk becomes one row an item."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cfpairs.config import dump_config, parse_options
from cfpairs.datasets.files import notes_of
from cfpairs.errors import DataError
from cfpairs.registry import resolve
from cfpairs.tables import (
    MANIFEST,
    file_metadata,
    fingerprint,
    load_manifest,
    table_digest,
    write_bytes,
    write_table,
)
from cfpairs.workflow.context import Context, StageResult, source_items

__all__ = ["group_table", "keep_config", "make_manifest", "manifest_state", "open_dataset", "source_digest"]

TINY_GROUP = 10

NAMED = 5
"""So many groups are named in one warning."""


def open_dataset(context: Context) -> Any:
    """The data set of the configuration, its options checked."""
    data = context.config.data
    kind = resolve("datasets", data.preset)
    return kind(parse_options(kind.Options, data.options, "data.options"))


def _fingerprint(context: Context, dataset: Any) -> str:
    config = context.config
    return fingerprint(
        "manifest",
        config.data.preset,
        str(context.data_root),
        dataset.version,
        dataset.digest(context.data_root, config.seed),
    )


def manifest_state(context: Context) -> tuple[str, str]:
    """State (``done``, ``stale`` or ``missing``) and why."""
    found = file_metadata(context.workspace.manifest)
    if not found:
        return "missing", ""
    if found.get("fingerprint") != _fingerprint(context, open_dataset(context)):
        return "stale", "the data set or its settings changed"
    return "done", ""


def make_manifest(context: Context) -> StageResult:
    """List the items of the data set, unless that is done.

    Where the items themselves have changed, those that pair sets made are dropped with them; such pair sets
    are then stale and built again.
    """
    workspace = context.workspace
    begun = time.perf_counter()
    dataset = open_dataset(context)
    dataset.prepare(context.data_root, context.workspace, context.config.seed, context.progress)
    wanted = _fingerprint(context, dataset)
    if file_metadata(workspace.manifest).get("fingerprint") == wanted:
        rows = load_manifest(workspace)
        return StageResult("manifest", False, f"manifest: {len(rows)} items, up to date")
    table = MANIFEST.validate(dataset.manifest(context.data_root, workspace, context.config.seed))
    if not len(table):
        raise DataError("the data set has no item", got=str(context.data_root), remedy="check data.root")
    notes = notes_of(table)
    digest = table_digest(table)
    write_table(
        workspace.manifest,
        _with_made_items(context, table, digest),
        MANIFEST,
        {"fingerprint": wanted, "source_digest": digest},
    )
    seconds = time.perf_counter() - begun
    return StageResult(
        "manifest",
        True,
        f"manifest: {len(table)} items in {seconds:.1f} s",
        (*notes, *group_warnings(table)),
        {"items": len(table), "seconds": seconds},
    )


def _with_made_items(context: Context, table: pa.Table, digest: str) -> pa.Table:
    """`table` and, if the data set's items are what they were, the items that pair sets had made."""
    path = context.workspace.manifest
    if not path.exists() or source_digest(context) != digest:
        return table
    old = load_manifest(context.workspace)
    if "pair_set" not in old.column_names:
        return table
    made = old.filter(pc.is_valid(old["pair_set"]))
    return pa.concat_tables([table, made], promote_options="default")


def keep_config(context: Context, source: Path) -> None:
    """Leave the configuration in the workspace, so that a command that is given only ``-w`` finds it.

    Parameters
    ----------
    source : Path
        The file that the configuration was read from; the workspace's own is left as the user wrote it.
    """
    path = context.workspace.config
    if path.exists() and source.exists() and path.samefile(source):
        return
    config, root = context.config, context.config.data.root
    if root is not None and root.is_relative_to(context.workspace.root):
        root = root.relative_to(context.workspace.root)
    data = config.data.model_copy(update={"root": root})
    content = dump_config(config.model_copy(update={"workspace": Path("."), "data": data})).encode()
    if not path.exists() or path.read_bytes() != content:
        write_bytes(path, content)


def source_digest(context: Context) -> str:
    """Digest of the data set's own items, as the manifest recorded it."""
    return file_metadata(context.workspace.manifest).get("source_digest", "")


def group_table(manifest: pa.Table) -> list[dict[str, Any]]:
    """Rows ``split, label, label_name, env, env_name, n`` of the data set's items, empty groups included."""
    items = source_items(manifest)
    columns = ("split", "label", "label_name", "env", "env_name")
    rows = list(zip(*(items[c].to_pylist() for c in columns), strict=True))
    labels = sorted({(r[1], r[2]) for r in rows})
    envs = sorted({(r[3], r[4]) for r in rows})
    count: dict[tuple[str, int, int], int] = {}
    for split, label, _, env, _ in rows:
        count[split, label, env] = count.get((split, label, env), 0) + 1
    return [
        {
            "split": split,
            "label": label,
            "label_name": label_name,
            "env": env,
            "env_name": env_name,
            "n": count.get((split, label, env), 0),
        }
        for split in ("train", "val", "test")
        if any(r[0] == split for r in rows)
        for label, label_name in labels
        for env, env_name in envs
    ]


def group_warnings(manifest: pa.Table) -> list[str]:
    """Lines about groups that are empty or tiny.

    An environment or a label that a split lacks altogether is one line, not one a group, and of many groups
    only the first are named.
    """
    rows = group_table(manifest)
    lines: list[str] = []
    for split in dict.fromkeys(row["split"] for row in rows):
        here = [row for row in rows if row["split"] == split]
        lacking: set[tuple[str, Any]] = set()
        for key, words in (("env", "in"), ("label", "of label")):
            names = {row[key]: row[f"{key}_name"] for row in here}
            gone = [k for k in names if not any(row["n"] for row in here if row[key] == k)]
            lacking.update((key, k) for k in gone)
            if gone:
                lines.append(f"{split}: no item {words} {_some([str(names[k]) for k in gone])}")
        left = [row for row in here if not {("env", row["env"]), ("label", row["label"])} & lacking]
        named = [(row["n"], f"{row['label_name']} in {row['env_name']}") for row in left]
        empty = [name for n, name in named if n == 0]
        tiny = [f"{name} ({n})" for n, name in named if 0 < n < TINY_GROUP]
        if empty:
            lines.append(f"{split}: no item of {_some(empty)}")
        if tiny:
            lines.append(f"{split}: fewer than {TINY_GROUP} items of {_some(tiny)}")
    return lines


def _some(names: list[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:NAMED])} and {more} more"
