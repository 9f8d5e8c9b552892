"""Pairs of the items that lie closest in the embedding: same label, another environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from pydantic import BaseModel

from cfpairs.config import check_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import TrainItems, deal, embedded_items, shortfall_note
from cfpairs.pairs.matching.assignment import Candidates
from cfpairs.pairs.matching.constraints import Constraints
from cfpairs.pairs.matching.matcher import Matcher, NearestOptions
from cfpairs.pairs.matching.vectors import UnitVectors
from cfpairs.tables import PAIRS, make_table

__all__ = ["NearestBuilder", "NearestOptions"]

LIMITS = (
    "the closest items of two environments differ in more than the environment, and often share its look",
    "the embedding that finds the pairs is the one that the probe later reads",
)
REUSED = "a few items of a small group may be the neighbours of many"

WHY = {
    "reuse": "no more neighbours; option 'neighbours' proposes more for each item",
    "greedy": "with match 'greedy' an item is in one pair of a cell; 'reuse' makes more",
    "optimal": "with match 'optimal' an item is in one pair of a cell; 'reuse' makes more",
}


class NearestBuilder:
    """Pair each item with its nearest neighbours of the same label in another environment.

    Parameters
    ----------
    options : NearestOptions

    Notes
    -----
    Every item of either side of a cell proposes its neighbours on the other; the proposals are thinned by
    `mutual` and `caliper`, matched one to one if `match` says so, and taken by descending similarity, ties by
    id. None of this depends on how many pairs are asked for.
    """

    Options: ClassVar[type[BaseModel]] = NearestOptions
    needs_embeddings: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __init__(self, options: BaseModel) -> None:
        options = check_options(NearestOptions, options)
        if options.match == "optimal" and "env" not in options.differ:
            raise ConfigError(
                "match 'optimal' assigns items of one environment to those of another",
                got=f"differ: {', '.join(options.differ) or 'none'}",
                expected="env among them",
                remedy="use match 'greedy'",
            )
        self.options = options

    def build(self, inputs: BuildInputs) -> PairSet:
        """Make the pairs.

        Raises
        ------
        ConfigError
            If a constraint names no column of the manifest.
        DataError
            If there are no embeddings, one is not finite or has length zero, no two items satisfy the
            constraints, or the caliper leaves no pair.
        """
        if inputs.embeddings is None:
            raise DataError("method nearest needs embeddings", remedy="run 'cfpairs embed'")
        items, left_out = embedded_items(TrainItems.of(inputs.manifest), inputs.embeddings)
        limits = Constraints.of(items, self.options)
        vectors = UnitVectors(limits.items.ids, inputs.embeddings)
        matcher = Matcher(self.options, limits, vectors, inputs.seed)
        blocks = [block for cell in limits.cells for block in cell.blocks]
        searches = sum(len(block.a) + (0 if block.within else len(block.b)) for block in blocks)
        with inputs.progress.task("searching neighbours", searches) as advance:
            found = [matcher.candidates(cell, advance) for cell in limits.cells]
        matcher.check()
        rows = _deal_rows(limits, found, inputs)
        notes = [
            *left_out,
            *limits.notes,
            *matcher.notes(),
            *shortfall_note(inputs.n_pairs, len(rows), WHY[self.options.match]),
        ]
        card = pair_card(
            inputs,
            limits.items,
            rows,
            method="Each training item with its nearest neighbours, by cosine of the embeddings, among the "
            f"items of {self.options.in_words()}.",
            settings={**self.options.settings(), "search": matcher.in_words()},
            limits=(*LIMITS, REUSED) if self.options.match == "reuse" else LIMITS,
            notes=notes,
        )
        return PairSet(make_table(rows, PAIRS), None, card, tuple(notes))


def _deal_rows(limits: Constraints, found: Sequence[Candidates], inputs: BuildInputs) -> list[dict[str, Any]]:
    """The first pairs of every cell, the cells taking turns."""
    taken = [0] * len(found)
    rows = []
    for turn in deal([len(candidates) for candidates in found], inputs.n_pairs):
        one, place = found[turn], taken[turn]
        taken[turn] += 1
        a, b, score = int(one.a[place]), int(one.b[place]), float(one.score[place])
        rows.append(limits.row("nearest", limits.cells[turn], a, b, inputs.seed, score))
    return rows
