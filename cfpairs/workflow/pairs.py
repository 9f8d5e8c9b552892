"""Stage ``pairs:NAME``: a builder makes one pair set."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cfpairs.config import PairConfig, parse_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet, Spread
from cfpairs.pairs.cells import cell_counts
from cfpairs.registry import resolve
from cfpairs.review.decisions import Decision, carry_over, decisions_in, read_waiting, write_waiting
from cfpairs.tables import (
    MANIFEST,
    PAIRS,
    file_metadata,
    fingerprint,
    load_manifest,
    read_table,
    write_bytes,
    write_table,
)
from cfpairs.vectors import Embeddings, read_embeddings
from cfpairs.workflow.context import Context, StageResult, source_items, training_items
from cfpairs.workflow.embeddings import embed_missing, encoder_id
from cfpairs.workflow.given import are_given
from cfpairs.workflow.judging import open_judge
from cfpairs.workflow.made_vectors import keep_vectors
from cfpairs.workflow.manifest import make_manifest, open_dataset, source_digest

__all__ = ["build_pairs", "needs_embeddings", "open_builder", "pairs_state"]


def open_builder(pair: PairConfig) -> Any:
    """The builder of a pair set, its options checked."""
    kind = resolve("pairs", pair.method)
    return kind(parse_options(kind.Options, pair.options, f"options of pair set {pair.set_name!r}"))


def needs_embeddings(pair: PairConfig) -> bool:
    """Whether the builder looks at embeddings."""
    return bool(resolve("pairs", pair.method).needs_embeddings)


def _seed(context: Context, pair: PairConfig) -> int:
    return context.config.seed if pair.seed is None else pair.seed


def _wants_judge(builder: Any) -> bool:
    return bool(getattr(builder, "wants_judge", False))


def _fingerprint(context: Context, pair: PairConfig, builder: Any) -> str:
    judged = _wants_judge(builder)
    more = {
        name: file_metadata(context.workspace.pairs(name)).get("fingerprint")
        for name in _joining(context, builder)
    }
    return fingerprint(
        "pairs",
        pair.method,
        builder.version,
        parse_options(builder.Options, pair.options, "options").model_dump(mode="json"),
        pair.pairs,
        _seed(context, pair),
        source_digest(context),
        encoder_id(context) if builder.needs_embeddings or judged else None,
        context.config.preprocess.model_dump(mode="json") if judged else None,
        getattr(builder, "made_with", None),
        None if pair.from_ is None else _file_hash(pair.from_),
        *([more] if more else []),
    )


def _joining(context: Context, builder: Any) -> tuple[str, ...]:
    """Pair sets whose made items are candidates too; what was made of an item is never edited again."""
    makes_items = getattr(builder, "makes_images", False) or getattr(builder, "makes_vectors", False)
    return () if makes_items else context.config.data.train_with


def _file_hash(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise ConfigError(f"cannot read {path}", got=error.strerror or str(error)) from error


def pairs_state(context: Context, pair: PairConfig) -> tuple[str, str]:
    """State (``done``, ``stale`` or ``missing``) of a pair set and why."""
    found = file_metadata(context.workspace.pairs(pair.set_name))
    if not found:
        return "missing", ""
    if found.get("source_digest") != source_digest(context) or not _items_known(context, pair.set_name):
        return "stale", "the manifest changed"
    if found.get("fingerprint") != _fingerprint(context, pair, open_builder(pair)):
        return "stale", "its settings changed"
    return "done", ""


def _items_known(context: Context, name: str) -> bool:
    """Whether the manifest still has every item that the pair set made."""
    manifest = load_manifest(context.workspace)
    made = 0
    if "pair_set" in manifest.column_names:
        made = pc.sum(pc.equal(manifest["pair_set"], name)).as_py() or 0
    return file_metadata(context.workspace.pairs(name)).get("made_items") == str(made)


def build_pairs(
    context: Context, pair: PairConfig, *, force: bool = False, look: bool = False
) -> StageResult:
    """Build one pair set, unless it is there with the same inputs and settings.

    With `look`, the result says at once what the pairs are worth, as far as there are embeddings of their
    items; images that the encoder has judged anyway are embedded for it.

    Items that the builder makes are added to the manifest before the pairs are written: a process that is
    killed in between leaves a pair set that is missing and will be built again, never pairs of items that
    no one knows.

    Raises
    ------
    DataError
        If no pair could be made.
    ConfigError
        If the options are wrong, or images are to be edited and the data set brings embeddings alone.
    """
    workspace, name = context.workspace, pair.set_name
    builder = open_builder(pair)
    _check_encoder(context, pair, builder)
    make_manifest(context)
    begun = time.perf_counter()
    wanted = _fingerprint(context, pair, builder)
    there = file_metadata(workspace.pairs(name)).get("fingerprint") == wanted
    if there and not force and _items_known(context, name):
        done = StageResult(
            f"pairs:{name}", False, f"pairs {name}: up to date", (), {"name": name, "made": False}
        )
        return _with_first_line(context, done, name, builder) if look else done
    manifest = load_manifest(workspace)
    sources = source_items(manifest)
    if _joining(context, builder):
        rest = sources.filter(pc.not_equal(sources["split"], "train"))
        sources = pa.concat_tables([training_items(context, _without_pair_set(manifest, name)), rest])
    embeddings = _embeddings(context, sources, name) if builder.needs_embeddings else None
    judging = open_judge(context, sources, name) if _wants_judge(builder) else nullcontext()
    with judging as judge, _spreading(context, builder) as spread:
        made: PairSet = builder.build(
            BuildInputs(
                workspace=workspace,
                name=name,
                manifest=sources,
                n_pairs=pair.pairs,
                seed=_seed(context, pair),
                embeddings=embeddings,
                source_file=pair.from_,
                root=context.data_root,
                licence=open_dataset(context).licence,
                judge=judge,
                progress=context.progress,
                spread=spread,
            )
        )
    table = PAIRS.validate(made.pairs)
    if not made.counts().get("ok"):
        reasons = [r for r in table["reason"].to_pylist() if r]
        raise DataError(
            f"no pair could be made by {pair.method!r}",
            got=f"{len(table)} tried, such as: {reasons[0]}" if reasons else "no candidate",
        )
    table, said = _with_decisions(context, name, table)
    counts = dict(Counter(table["status"].to_pylist()))
    made_ok = made.counts()["ok"]
    _write(context, name, manifest, made, table, wanted)
    write_waiting(workspace.decisions(name), said.waiting)
    seconds = time.perf_counter() - begun
    others = "".join(f", {n} {status}" for status, n in sorted(counts.items()) if status != "ok")
    control = made.n_control
    others += f" and {control} control pairs" if control else ""
    result = StageResult(
        f"pairs:{name}",
        True,
        f"pairs {name}: {counts.get('ok', 0)} ok{others} in {seconds:.1f} s",
        (*made.notes, *said.notes),
        {
            "name": name,
            "made": True,
            "counts": counts,
            "control": control,
            "seconds": seconds,
            "cells": cell_counts(table, sources),
            "yield": {"tried": len(table), "kept": made_ok, "share": made_ok / len(table)},
            "decisions": {"carried_over": said.carried, "waiting": len(said.waiting)},
        },
    )
    return _with_first_line(context, result, name, builder) if look else result


def _with_first_line(context: Context, result: StageResult, name: str, builder: Any) -> StageResult:
    """The result with a line on the quality of the pairs."""
    from cfpairs.workflow.quality import first_line

    if _wants_judge(builder):
        manifest = load_manifest(context.workspace)
        made = (
            manifest.filter(pc.equal(manifest["pair_set"], name))
            if "pair_set" in manifest.column_names
            else None
        )
        if made is not None and len(made):
            embed_missing(context, made)
    line = first_line(context, name)
    return replace(result, notes=(*result.notes, line), data=result.data | {"quality": line})


def _readable(context: Context, path: Path) -> pa.Table | None:
    """The pair set that is to be replaced; None if there is none, or it is damaged."""
    if not path.exists():
        return None
    try:
        return read_table(path, PAIRS)
    except DataError as error:
        context.progress.say(f"decisions that stood in the damaged pair set are lost: {error}")
        return None


@dataclass(frozen=True)
class _Said:
    """Decisions of people that a rebuilt pair set has taken over, and those that wait for their pairs."""

    carried: int
    waiting: list[Decision]
    folder: Path

    @property
    def notes(self) -> tuple[str, ...]:
        lines = [f"decisions of a review carried over: {self.carried}"] if self.carried else []
        if self.waiting:
            lines.append(
                f"decisions on pairs that this set does not have: {len(self.waiting)}; they wait in "
                f"{self.folder} until such pairs are built again"
            )
        return tuple(lines)


def _with_decisions(context: Context, name: str, table: pa.Table) -> tuple[pa.Table, _Said]:
    """`table` with what people have said of the same pairs before.

    All of it is written beside the pair set first, because the old pair set goes before the new one comes.
    """
    file, path = context.workspace.decisions(name), context.workspace.pairs(name)
    waiting, said = read_waiting(file), []
    old = _readable(context, path)
    if old is not None:
        said, there = decisions_in(old), set(old["pair_id"].to_pylist())
        # What the pair set says of a pair is newer than a file that an interrupted build has left.
        waiting = [decision for decision in waiting if decision.pair_id not in there]
    every = [*said, *waiting]
    write_waiting(file, every)
    table, left = carry_over(table, every)
    return PAIRS.validate(table), _Said(len(every) - len(left), left, file)


def _check_encoder(context: Context, pair: PairConfig, builder: Any) -> None:
    if getattr(builder, "makes_images", False) and are_given(context):
        raise ConfigError(
            f"method {pair.method!r} makes images, which need an encoder, but the data set brings embeddings",
            remedy="use method nearest, random or import, or name the encoder that made the embeddings",
        )


def _spreading(context: Context, builder: Any) -> AbstractContextManager[Spread | None]:
    """Where images are made beside this process: with ``engine: ray``, on its cluster."""
    config = context.config.encoder
    if config.engine != "ray" or not getattr(builder, "spreads", False):
        return nullcontext()
    from cfpairs.workflow.spreading import RaySpread

    return RaySpread(context.workspace, config.ray_address, progress=context.progress)


def _embeddings(context: Context, sources: pa.Table, name: str) -> Embeddings:
    train = sources.filter(pc.equal(sources["split"], "train"))
    context.progress.say(f"pairs {name} needs embeddings of {len(train)} training items")
    report = embed_missing(context, train)
    return read_embeddings(report.folder)


def _write(
    context: Context, name: str, manifest: pa.Table, made: PairSet, table: pa.Table, wanted: str
) -> None:
    workspace = context.workspace
    stale = workspace.pairs(name)
    stale.unlink(missing_ok=True)
    keep_vectors(context, name, made.vectors)
    rows = _without_pair_set(manifest, name)
    if made.items is not None and len(made.items):
        rows = pa.concat_tables([rows, MANIFEST.validate(made.items)], promote_options="default")
    if rows is not manifest:
        write_table(workspace.manifest, rows, MANIFEST, file_metadata(workspace.manifest))
    write_bytes(workspace.card(name), made.card.encode())
    write_table(
        workspace.pairs(name),
        table,
        PAIRS,
        {
            "fingerprint": wanted,
            "source_digest": source_digest(context),
            "made_items": str(0 if made.items is None else len(made.items)),
        },
    )
    _prune_images(context, name, rows, table)


def _without_pair_set(manifest: pa.Table, name: str) -> pa.Table:
    if "pair_set" not in manifest.column_names:
        return manifest
    same = pc.fill_null(pc.equal(manifest["pair_set"], name), False)
    return manifest.filter(pc.invert(same)) if pc.any(same).as_py() else manifest


def _prune_images(context: Context, name: str, manifest: pa.Table, pairs: pa.Table) -> None:
    """Remove images that no item and no rejected pair refers to, such as those of an earlier build."""
    folder = context.workspace.pair_images(name)
    if not folder.is_dir():
        return
    known = {context.workspace.file(p) for p in manifest["path"].to_pylist()}
    known |= {context.workspace.file(p) for p in manifest["mask_path"].to_pylist() if p}
    if "rejected_path" in pairs.column_names:
        known |= {context.workspace.file(p) for p in pairs["rejected_path"].to_pylist() if p}
    for file in folder.rglob("*"):
        if file.is_file() and file not in known:
            file.unlink(missing_ok=True)
