"""Statistics of pair quality: noise, rank, reliability, trade-offs, flags, and a verdict in words."""

from cfpairs.quality.assess import assess_pairs
from cfpairs.quality.result import PairQuality

__all__ = ["PairQuality", "assess_pairs"]
