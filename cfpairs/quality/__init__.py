"""Statistics of pair quality: noise, rank, reliability, trade-offs, flags, and a verdict in words."""

from cfpairs.quality.assess import assess_pairs
from cfpairs.quality.compare import ComparisonRow, compare_sets
from cfpairs.quality.moments import PairMoments
from cfpairs.quality.result import PairQuality

__all__ = ["ComparisonRow", "PairMoments", "PairQuality", "assess_pairs", "compare_sets"]
