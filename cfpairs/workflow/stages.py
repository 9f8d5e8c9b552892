"""All stages in order: which are done, stale or missing, and running those that are not done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cfpairs.errors import CfpairsError
from cfpairs.tables import load_manifest, read_table
from cfpairs.vectors import part_files
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.embeddings import embed, embeddings_state, encoder_id
from cfpairs.workflow.manifest import make_manifest, manifest_state
from cfpairs.workflow.pairs import build_pairs, needs_embeddings, pairs_state
from cfpairs.workflow.probing import pair_set_names, probe, probe_state
from cfpairs.workflow.reporting import report, report_state, standing_report

__all__ = ["StageState", "run_stages", "stage_states"]


@dataclass(frozen=True)
class StageState:
    """One line of ``cfpairs status``: ``state`` is done, stale, missing or unknown; ``detail`` says why."""

    stage: str
    state: str
    detail: str
    rows: int | None = None


def stage_states(context: Context) -> list[StageState]:
    """The state of every stage, in order; never raises for a fault in one stage."""
    workspace = context.workspace
    found = [_state("manifest", lambda: manifest_state(context), lambda: len(load_manifest(workspace)))]
    configured = {p.set_name: p for p in context.config.pairs}
    for name, pair in configured.items():
        found.append(
            _state(
                f"pairs:{name}",
                lambda pair=pair: pairs_state(context, pair),  # type: ignore[misc]
                lambda name=name: read_table(workspace.pairs(name)).num_rows,  # type: ignore[misc]
            )
        )
    for name in pair_set_names(context):
        if name not in configured:
            rows = read_table(workspace.pairs(name)).num_rows
            found.append(StageState(f"pairs:{name}", "done", "not in the configuration", rows))
    found.append(_state("embeddings", lambda: embeddings_state(context), lambda: _embedded(context)))
    found.append(_state("probe", lambda: probe_state(context), None))
    found.append(_state("report", lambda: report_state(context), None))
    return found


def _embedded(context: Context) -> int:
    folder = context.workspace.embeddings(encoder_id(context))
    return sum(read_table(file, columns=["item_id"]).num_rows for file in part_files(folder))


def _state(stage: str, look: Callable[[], tuple[str, str]], count: Callable[[], int] | None) -> StageState:
    try:
        state, detail = look()
        rows = count() if count is not None and state != "missing" else None
    except CfpairsError as error:
        return StageState(stage, "unknown", str(error))
    return StageState(stage, state, detail, rows)


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
