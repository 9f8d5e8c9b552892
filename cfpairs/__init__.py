"""Counterfactual pairs: curate them, measure their quality, probe without the shortcut.

The names below are imported when they are first used, so that ``import cfpairs`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cfpairs import plot
    from cfpairs.errors import CfpairsError
    from cfpairs.metrics import evaluate
    from cfpairs.probes.alignment import CausIRLClassifier
    from cfpairs.probes.erm import ERMClassifier
    from cfpairs.probes.irm import IRMClassifier
    from cfpairs.probes.ncm import NCMClassifier
    from cfpairs.probes.sweep import fit_sweep
    from cfpairs.quality import PairQuality, assess_pairs
    from cfpairs.registry import available
    from cfpairs.subspace import CounterfactualProjection, difference_matrix
    from cfpairs.tables import load_manifest
    from cfpairs.vectors import read_embeddings
    from cfpairs.workflow import build_pairs, embed
    from cfpairs.workspace import Workspace

_HOME = {
    "CausIRLClassifier": "cfpairs.probes.alignment",
    "CfpairsError": "cfpairs.errors",
    "CounterfactualProjection": "cfpairs.subspace",
    "ERMClassifier": "cfpairs.probes.erm",
    "IRMClassifier": "cfpairs.probes.irm",
    "NCMClassifier": "cfpairs.probes.ncm",
    "PairQuality": "cfpairs.quality",
    "Workspace": "cfpairs.workspace",
    "assess_pairs": "cfpairs.quality",
    "available": "cfpairs.registry",
    "build_pairs": "cfpairs.workflow",
    "difference_matrix": "cfpairs.subspace",
    "embed": "cfpairs.workflow",
    "evaluate": "cfpairs.metrics",
    "fit_sweep": "cfpairs.probes.sweep",
    "load_manifest": "cfpairs.tables",
    "read_embeddings": "cfpairs.vectors",
}

__all__ = [
    "CausIRLClassifier",
    "CfpairsError",
    "CounterfactualProjection",
    "ERMClassifier",
    "IRMClassifier",
    "NCMClassifier",
    "PairQuality",
    "Workspace",
    "assess_pairs",
    "available",
    "build_pairs",
    "difference_matrix",
    "embed",
    "evaluate",
    "fit_sweep",
    "load_manifest",
    "plot",
    "read_embeddings",
]


def __getattr__(name: str) -> Any:
    if name == "plot":
        return import_module("cfpairs.plot")
    if name not in _HOME:
        raise AttributeError(f"module 'cfpairs' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
