"""The stages in order, what each needs, and whether it is done."""

from cfpairs.workflow.build import build_pairs
from cfpairs.workflow.context import Context, StageResult, find_config
from cfpairs.workflow.embed import embed
from cfpairs.workflow.manifest import keep_config, make_manifest
from cfpairs.workflow.probe import probe
from cfpairs.workflow.report import report
from cfpairs.workflow.stages import run_stages, stage_states

__all__ = [
    "Context",
    "StageResult",
    "build_pairs",
    "embed",
    "find_config",
    "keep_config",
    "make_manifest",
    "probe",
    "report",
    "run_stages",
    "stage_states",
]
