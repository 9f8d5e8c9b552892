"""From vectors and constraints to the ranked pairs of every cell."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cfpairs.errors import DataError
from cfpairs.pairs.matching.assignment import DENSE, Candidates, greedy, optimal
from cfpairs.pairs.matching.constraints import Block, ConstraintOptions, Constraints, PairCell
from cfpairs.pairs.matching.indices import IndexKind, SearchReport
from cfpairs.pairs.matching.search import nearest_neighbours
from cfpairs.pairs.matching.vectors import UnitVectors
from cfpairs.progress import Advance

__all__ = ["Matcher", "NearestOptions"]

SEVERAL = 32
"""Neighbours that an item proposes for one-to-one pairs where not every pair can be a candidate."""


class NearestOptions(ConstraintOptions):
    """Settings of the matching of nearest items."""

    neighbours: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None,
        description="nearest permitted items of the other side that each item proposes; default 1 with "
        f"reuse, else every item of cells with up to {DENSE} possible pairs and {SEVERAL} in larger ones",
    )
    match: Literal["reuse", "greedy", "optimal"] = Field(
        default="reuse",
        description="an item may be in many pairs; or in one of each cell, chosen closest first (greedy) or "
        "as many pairs as can be with the smallest total distance (optimal)",
    )
    mutual: bool = Field(default=False, description="only pairs in which each item proposes the other")
    caliper: Annotated[float, Field(gt=0, le=2)] | None = Field(
        default=None, description="largest cosine distance (1 - cosine) of a pair"
    )
    index: IndexKind = Field(
        default="auto",
        description="exact search (flat), inverted lists (ivf), or lists for large groups only",
    )
    recall: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.95, description="share of true neighbours that inverted lists must find on a sample"
    )


class Matcher:
    """The candidates of each cell, and a record of how they were found."""

    def __init__(self, options: NearestOptions, limits: Constraints, vectors: UnitVectors, seed: int) -> None:
        self.options = options
        self.limits = limits
        self.vectors = vectors
        self.seed = seed
        self.reports: list[SearchReport] = []
        self.searches = 0
        self.proposed = 0
        self.kept = 0
        self.all_proposed = False
        self.closest: dict[str, float] = {}
        """Smallest distance in each cell that has proposals, and none within the caliper."""

    def candidates(self, cell: PairCell, advance: Advance) -> Candidates:
        """The pairs of a cell, ranked."""
        parts = [self._proposals(block, advance) for block in cell.blocks]
        proposed = sum(len(part) for part in parts)
        smallest = min((1 - float(part.score.max()) for part in parts if len(part)), default=np.inf)
        parts = [self._matched(self._near(part)) for part in parts]
        found = Candidates(
            *(np.concatenate([getattr(p, name) for p in parts]) for name in ("a", "b", "score"))
        )
        if proposed and not len(found):
            self.closest[self.limits.name(cell)] = smallest
        return found.ranked()

    def _proposals(self, block: Block, advance: Advance) -> Candidates:
        """Every pair that an item of either side proposes, once."""
        a, b = block.a, block.b
        k = self._neighbours(block)
        complete = k >= max(len(a), len(b))
        ours = self.vectors.of(a)
        theirs = ours if block.within else self.vectors.of(b)
        one, other, score = self._search(block, a, b, ours, theirs, k, advance)
        if block.within:
            one, other = np.minimum(one, other), np.maximum(one, other)
        elif complete:
            advance(len(b))
        else:
            found = self._search(block, b, a, theirs, ours, k, advance)
            one, other, score = (
                np.concatenate(both)
                for both in zip((one, other, score), (found[1], found[0], found[2]), strict=True)
            )
        key = one * len(self.limits.items.ids) + other
        _, first, times = np.unique(key, return_index=True, return_counts=True)
        if self.options.mutual and not complete:
            first = first[times == 2]
        self.proposed += len(first)
        return Candidates(one[first], other[first], score[first])

    def _neighbours(self, block: Block) -> int:
        if self.options.neighbours is not None:
            self.all_proposed |= self.options.neighbours > min(len(block.a), len(block.b)) - block.within
            return self.options.neighbours
        if self.options.match == "reuse":
            return 1
        return max(len(block.a), len(block.b)) if len(block.a) * len(block.b) <= DENSE else SEVERAL

    def _search(
        self,
        block: Block,
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
        queries: NDArray[np.float32],
        theirs: NDArray[np.float32],
        k: int,
        advance: Advance,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        codes = self.limits.forbidding(block)
        found = nearest_neighbours(
            queries,
            theirs,
            k,
            query_codes=codes[rows],
            other_codes=codes[others],
            kind=self.options.index,
            recall=self.options.recall,
            seed=self.seed,
            advance=advance,
        )
        self.searches += 1
        self.reports += found.reports
        row, rank = np.nonzero(found.places >= 0)
        return rows[row], others[found.places[row, rank]], found.scores[row, rank]

    def _near(self, candidates: Candidates) -> Candidates:
        if self.options.caliper is None:
            return candidates
        # Scores have six decimals; their distances are rounded to as many before they are compared.
        near = candidates.take(np.round(1 - candidates.score, 6) <= self.options.caliper)
        self.kept += len(near)
        return near

    def _matched(self, candidates: Candidates) -> Candidates:
        if self.options.match == "greedy":
            return greedy(candidates)
        return optimal(candidates) if self.options.match == "optimal" else candidates

    def check(self) -> None:
        """Raise if nothing was proposed, or nothing is near enough."""
        if not self.proposed:
            raise DataError(
                "no two training items satisfy the constraints",
                expected=f"items with {self.options.in_words()}",
                remedy="shorten the options 'same' or 'differ'",
            )
        if self.options.caliper is not None and not self.kept:
            raise DataError(
                "the caliper leaves no pair",
                got=self.options.caliper,
                expected=f"at least {min(self.closest.values()):.6f}, the smallest cosine distance found",
            )

    def notes(self) -> list[str]:
        """What a user should know of the search."""
        lines = []
        if self.all_proposed:
            lines.append(f"some items have fewer than {self.options.neighbours} neighbours: all are proposed")
        if self.options.caliper is not None and self.kept < self.proposed:
            lines.append(
                f"caliper {self.options.caliper:g} leaves {self.kept} of {self.proposed} proposed pairs"
            )
        lines += [
            f"no pair of {cell} is within the caliper: the closest are {smallest:.6f} apart"
            for cell, smallest in self.closest.items()
        ]
        used = [report for report in self.reports if report.used]
        if used:
            worst = min(used, key=lambda report: report.recall)
            lines.append(
                f"approximate search in {len(used)} of {self.searches} searches: recall {worst.recall:.3f} "
                f"or more on samples of {worst.queries} queries, {worst.probes} of {worst.lists} lists probed"
            )
        if len(used) < len(self.reports):
            best = max(report.recall for report in self.reports if not report.used)
            lines.append(
                f"{len(self.reports) - len(used)} searches are exact since inverted lists reached a recall "
                f"of {best:.3f} at most, {self.options.recall:g} was asked for"
            )
        return lines

    def in_words(self) -> str:
        """How the neighbours were found, for the card."""
        used = [report.recall for report in self.reports if report.used]
        return f"inverted lists, measured recall {min(used):.3f} or more" if used else "exact"
