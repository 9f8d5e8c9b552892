"""The stages in order, what each needs, and whether it is done."""

from cfpairs.workflow.comparing import compare
from cfpairs.workflow.context import Context, StageResult, find_config
from cfpairs.workflow.embeddings import embed
from cfpairs.workflow.manifest import keep_config, make_manifest
from cfpairs.workflow.pairs import build_pairs
from cfpairs.workflow.probing import probe
from cfpairs.workflow.reporting import report
from cfpairs.workflow.stages import run_stages, stage_states

__all__ = [
    "Context",
    "StageResult",
    "build_pairs",
    "compare",
    "embed",
    "find_config",
    "keep_config",
    "make_manifest",
    "probe",
    "report",
    "run_stages",
    "stage_states",
]
