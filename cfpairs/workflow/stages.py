"""All stages in order: which are done, stale or missing, and running those that are not done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cfpairs.config import PairConfig
from cfpairs.errors import CfpairsError
from cfpairs.review.decisions import dropped_by_hand
from cfpairs.tables import load_manifest, read_table
from cfpairs.vectors import part_files
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.embeddings import embed, embeddings_state, encoder_id
from cfpairs.workflow.inputs import pair_set_names
from cfpairs.workflow.manifest import make_manifest, manifest_state
from cfpairs.workflow.pairs import build_pairs, needs_embeddings, pairs_state
from cfpairs.workflow.probing import latest_run, probe, probe_state
from cfpairs.workflow.reporting import report, report_state, standing_report

__all__ = ["StageState", "run_stages", "stage_states"]


@dataclass(frozen=True)
class StageState:
    """One line of ``cfpairs status``.

    Attributes
    ----------
    stage : str
    state : str
        ``done``, ``stale``, ``missing`` or ``unknown``.
    detail : str
        Why, and what else is to know.
    rows : int or None
        Items, pairs, vectors or results.
    size : int or None
        Bytes on disk.
    time : str or None
        When its last file was written, as ISO 8601 in UTC.
    """

    stage: str
    state: str
    detail: str
    rows: int | None = None
    size: int | None = None
    time: str | None = None


def stage_states(context: Context) -> list[StageState]:
    """The state of every stage, in order; never raises for a fault in one stage."""
    workspace = context.workspace
    found = [
        _state(
            "manifest",
            lambda: manifest_state(context),
            lambda: len(load_manifest(workspace)),
            lambda: [workspace.manifest],
        )
    ]
    configured = {p.set_name: p for p in context.config.pairs}
    on_disk = workspace.pair_set_names()
    for name in [*configured, *(n for n in pair_set_names(context) if n not in configured)]:
        found.append(_pair_state(context, name, configured.get(name), name in on_disk))
    found.append(
        _state(
            "embeddings",
            lambda: embeddings_state(context),
            lambda: _embedded(context),
            lambda: _files(workspace.embeddings(encoder_id(context))),
        )
    )
    run = latest_run(context)
    folder = None if run is None else workspace.probe_run(run)
    found.append(
        _state(
            "probe",
            lambda: probe_state(context),
            lambda: 0 if folder is None else read_table(folder / "results.parquet").num_rows,
            lambda: [] if folder is None else _files(folder),
        )
    )
    pages = [workspace.report_html, workspace.report_json]
    found.append(_state("report", lambda: report_state(context), None, lambda: pages))
    return found


def _pair_state(context: Context, name: str, pair: PairConfig | None, there: bool) -> StageState:
    """The state of a pair set, and how many of its pairs people have dropped."""
    workspace = context.workspace

    def look() -> tuple[str, str]:
        state, why = ("done", "not in the configuration") if pair is None else pairs_state(context, pair)
        by_hand = dropped_by_hand(read_table(workspace.pairs(name))) if there else 0
        said = [why] if why else []
        return state, "; ".join([*said, *([f"{by_hand} dropped by hand"] if by_hand else [])])

    return _state(
        f"pairs:{name}",
        look,
        lambda: read_table(workspace.pairs(name)).num_rows,
        lambda: _files(workspace.pair_folder(name)),
    )


def _embedded(context: Context) -> int:
    folder = context.workspace.embeddings(encoder_id(context))
    return sum(read_table(file, columns=["item_id"]).num_rows for file in part_files(folder))


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file()]


def _state(
    stage: str,
    look: Callable[[], tuple[str, str]],
    count: Callable[[], int] | None,
    files: Callable[[], Iterable[Path]],
) -> StageState:
    try:
        state, detail = look()
        if state == "missing":
            return StageState(stage, state, detail)
        rows = count() if count is not None else None
        looked = [stat for file in files() if (stat := _stat(file)) is not None]
    except CfpairsError as error:
        return StageState(stage, "unknown", str(error))
    size = sum(stat.st_size for stat in looked)
    last = max((stat.st_mtime for stat in looked), default=None)
    when = None if last is None else datetime.fromtimestamp(last, UTC).isoformat(timespec="seconds")
    return StageState(stage, state, detail, rows, size, when)


def _stat(file: Path) -> os.stat_result | None:
    try:
        return file.stat()
    except OSError:
        return None


def run_stages(context: Context) -> Iterator[StageResult]:
    """Make every stage that is missing or stale, in order; yields each as it ends.

    Pair sets that need no embeddings come first, so that their images are encoded with all others; of these
    and of the others, those whose made items are training items.
    """
    yield make_manifest(context)
    first = context.config.data.train_with
    ordered = sorted(context.config.pairs, key=lambda pair: pair.set_name not in first)
    later = [p for p in ordered if needs_embeddings(p)]
    for pair in ordered:
        if pair not in later:
            yield build_pairs(context, pair)
    yield embed(context)
    for pair in later:
        yield build_pairs(context, pair)
    yield embed(context) if later else StageResult("embeddings", False, "embeddings: up to date")
    yield probe(context)
    if report_state(context)[0] == "done":
        yield standing_report(context)
    else:
        yield report(context)
