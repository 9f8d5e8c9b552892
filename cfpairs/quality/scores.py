"""Doubts about single pairs of a set too large to compare every pair with every other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.flags import (
    EQUAL,
    NEAR_DIMENSIONS,
    Doubt,
    are_copies,
    copy_doubts,
    dominating,
    far_out,
    near_distance,
    nearest_squares,
    robust_z,
    spread_places,
)
from cfpairs.quality.moments import blocks, side_by_side
from cfpairs.quality.spectrum import Spectrum

__all__ = ["Scores", "copies", "score_pairs"]

Floats = NDArray[np.float64]

_BITS, _BANDS = 48, 3
_NEAR_BITS = 6  # of 48: three are expected at an angle of .2, a cosine of .98
_LARGEST_BUCKET = 256
_BLOCK = 0.125  # of a common block: what is read stays in the cache
_ASKED = 16  # pairs whose neighbours say how near pairs usually are
_AT_ONCE = 2048


@dataclass(frozen=True)
class Scores:
    """What one reading of the pairs tells of each of them; all of shape (k,).

    Attributes
    ----------
    left : ndarray
        Length of what the robust directions leave of it.
    leverage : ndarray
        How much it decides of the first r plain directions.
    marks : ndarray of uint64
        Signs of 48 random projections in which the differences have equal variances; near copies differ in
        few bits.
    near : float
        Distance within which two pairs that point the same way are copies. It is 0 in few dimensions, where
        pairs point the same way by chance.
    """

    left: Floats
    leverage: Floats
    marks: NDArray[np.uint64]
    near: float

    def doubts(self, sound: NDArray[np.int64], r: int) -> list[Doubt]:
        """Outliers and pairs that dominate, among `sound` ones."""
        return [*far_out(robust_z(self.left[sound]), sound), *dominating(self.leverage, r)]


def score_pairs(
    D: NDArray[np.floating], lengths: Floats, found: Spectrum, robust: Floats, r: int, seed: int
) -> Scores:
    """Read the pairs once, block by block.

    Parameters
    ----------
    D : array of shape (k, d)
    lengths : ndarray of shape (k,)
    found : Spectrum
        Of all pairs.
    robust : ndarray of shape (d, r)
    r : int
        Number of directions.
    seed : int
        Of the random projections.
    """
    k = len(D)
    rng = np.random.default_rng([seed, 6])
    full = found.numerical_rank
    scale = np.where(found.values[:full] > 0.0, found.values[:full], np.inf)
    turn = (found.directions / scale) @ rng.standard_normal((full, _BITS))
    turn /= np.abs(turn).max(initial=1e-300)
    inner, bits = robust.shape[1], robust.shape[1] + r
    fits = bool(lengths.max(initial=0.0) < 1e15)  # squares, as float32
    some = spread_places(k if fits and full >= NEAR_DIMENSIONS else 0, _ASKED)
    axes = np.concatenate([robust, found.top(r), turn, np.asarray(D[some]).T], axis=1).astype(np.float32)
    nearest: list[Floats] = []
    left, leverage, marks = np.empty(k), np.empty(k), np.zeros((k, 8), dtype=np.uint8)

    def read(rows: slice) -> None:
        length = lengths[rows]
        block = D[rows] if fits else D[rows] / np.where(length > 0.0, length, 1.0)[:, None]
        found_at = block.astype(np.float32, copy=False) @ axes
        along = found_at[:, :bits].astype(np.float64) * (1.0 if fits else length[:, None])
        left[rows] = np.sqrt(np.clip(length**2 - (along[:, :inner] ** 2).sum(axis=1), 0.0, None))
        leverage[rows] = ((along[:, inner:] / found.values[:r]) ** 2).sum(axis=1)
        signs = found_at[:, bits : bits + _BITS] > 0.0
        signs ^= signs[:, :1]  # the same for a difference and its opposite
        marks[rows, : _BITS // 8] = np.packbits(signs, axis=1)
        if len(some):
            nearest.append(nearest_squares(length, lengths[some], found_at[:, bits + _BITS :]))

    side_by_side(read, blocks(D.shape, times=_BLOCK))
    near = near_distance(np.concatenate(nearest)) if nearest else 0.0
    return Scores(left, leverage, marks.view(np.uint64)[:, 0], near)


def copies(D: NDArray[np.floating], scores: Scores, lengths: Floats, pair_ids: Sequence[str]) -> list[Doubt]:
    """Pairs whose difference an earlier pair has too, up to its sign; see `flags.duplicates`.

    Two pairs are compared if a third of their marks are equal and most of the others. So equal differences
    are always found, and near ones (a cosine over .98 where all dimensions vary alike) three times in four
    or more; of more than 256 candidates the first alone is compared.
    """
    k = len(lengths)
    first, cosine = np.full(k, -1), np.zeros(k)
    position = np.arange(k)

    def compare(later: NDArray[np.int64], earlier: NDArray[np.int64]) -> None:
        _compare(D, scores, lengths, later, earlier, first, cosine)

    for band in range(_BANDS):
        key = (scores.marks >> np.uint64(16 * band)).astype(np.uint16)
        order = np.argsort(key, kind="stable")  # 16 bits are sorted by radix
        starts = np.flatnonzero(np.diff(key[order], prepend=key[order][:1] + np.uint16(1)))
        ends = np.append(starts[1:], k)
        start = np.repeat(starts, ends - starts)
        here = position
        for step in range(1, min(int((ends - starts).max(initial=1)), _LARGEST_BUCKET)):
            here = here[here - step >= start[here]]
            if not len(here):
                break
            compare(order[here], order[here - step])
        large = np.flatnonzero(position - start >= _LARGEST_BUCKET)
        compare(order[large], order[start[large]])
    return copy_doubts(first, cosine, pair_ids)


def _compare(
    D: NDArray[np.floating],
    scores: Scores,
    lengths: Floats,
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    first: NDArray[np.int64],
    cosine: Floats,
) -> None:
    """Note an earlier copy of each of the `later` pairs that has none yet."""
    bits = np.bitwise_count(scores.marks[later] ^ scores.marks[earlier])
    found = np.flatnonzero((bits <= _NEAR_BITS) & (first[later] < 0))
    one, two = lengths[later[found]], lengths[earlier[found]]
    found = found[(one > 0.0) & (two > 0.0) & (np.abs(one - two) <= np.maximum(EQUAL * one, scores.near))]
    for start in range(0, len(found), _AT_ONCE):
        j, i = later[found[start : start + _AT_ONCE]], earlier[found[start : start + _AT_ONCE]]
        one, two = lengths[j], lengths[i]
        # Divided first: squares of huge values would overflow.
        unit = np.asarray(D[j], dtype=np.float64) / one[:, None]
        inner = np.abs(np.einsum("ij,ij->i", unit, np.asarray(D[i], dtype=np.float64) / two[:, None]))
        near = are_copies(one, two, inner, scores.near)
        first[j[near]], cosine[j[near]] = i[near], inner[near]
