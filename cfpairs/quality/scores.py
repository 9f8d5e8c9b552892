"""Doubts about single pairs of a set too large to compare every pair with every other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs.quality.flags import EQUAL, NEAR_DIMENSIONS, Doubt, dominating, far_out, robust_z
from cfpairs.quality.moments import blocks, side_by_side
from cfpairs.quality.spectrum import Spectrum

__all__ = ["Scores", "copies", "score_pairs"]

Floats = NDArray[np.float64]

_BITS, _BANDS = 64, 4
_NEAR_BITS = 4  # of 64: an angle of about .2, a cosine of .98
_NEAR_LENGTH = 0.1
_LARGEST_BUCKET = 256


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
        Signs of 64 random projections in which the differences have equal variances; near copies differ in
        few bits.
    near : float
        Relative difference of the lengths of near copies; in few dimensions only equal lengths count, as
        pairs point the same way by chance there.
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
    turn = (found.directions / scale) @ rng.standard_normal((full, _BITS + 1))
    turn /= np.abs(turn).max(initial=1e-300)
    axes = np.concatenate([robust, found.top(r), turn], axis=1).astype(np.float32)
    inner, bits = robust.shape[1], robust.shape[1] + r
    left, leverage, marks = np.empty(k), np.empty(k), np.empty(k, dtype=np.uint64)
    fits = bool(lengths.max(initial=0.0) < 1e15)  # squares, as float32

    def read(rows: slice) -> None:
        length = lengths[rows]
        block = D[rows] if fits else D[rows] / np.where(length > 0.0, length, 1.0)[:, None]
        found_at = block.astype(np.float32, copy=False) @ axes
        along = found_at[:, :bits].astype(np.float64) * (1.0 if fits else length[:, None])
        left[rows] = np.sqrt(np.clip(length**2 - (along[:, :inner] ** 2).sum(axis=1), 0.0, None))
        leverage[rows] = ((along[:, inner:] / found.values[:r]) ** 2).sum(axis=1)
        signs = found_at[:, bits:] > 0.0
        signs ^= signs[:, -1:]  # the same for a difference and its opposite
        marks[rows] = np.packbits(signs[:, :_BITS], axis=1).view(np.uint64)[:, 0]

    with side_by_side() as run:
        run(read, blocks(D.shape))
    return Scores(left, leverage, marks, _NEAR_LENGTH if full >= NEAR_DIMENSIONS else EQUAL)


def copies(scores: Scores, lengths: Floats, pair_ids: tuple[str, ...]) -> list[Doubt]:
    """Pairs whose difference an earlier pair has too, up to its sign.

    Equal differences are always found; near ones (a cosine over about .98) nine times in ten. Groups of more
    than 256 candidates are compared with their first alone.
    """
    k = len(lengths)
    first, apart = np.full(k, k), np.full(k, _BITS)
    for band in range(_BANDS):
        key = (scores.marks >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(key, kind="stable")
        starts = np.flatnonzero(np.diff(key[order], prepend=key[order][:1] + np.uint64(1)))
        ends = np.append(starts[1:], k)
        position = np.arange(k)
        start = np.repeat(starts, ends - starts)
        for step in range(1, min(int((ends - starts).max(initial=1)), _LARGEST_BUCKET)):
            here = np.flatnonzero(position - step >= start)
            if not len(here):
                break
            _compare(scores, lengths, order[here], order[here - step], first, apart)
        large = np.flatnonzero(position - start >= _LARGEST_BUCKET)
        _compare(scores, lengths, order[large], order[start[large]], first, apart)
    return [
        Doubt(
            int(j),
            "duplicate",
            float(np.cos(np.pi * apart[j] / _BITS)),
            f"same difference as {pair_ids[first[j]]}",
            2.0 - apart[j] / (_NEAR_BITS + 1.0),
        )
        for j in np.flatnonzero(first < k)
    ]


def _compare(
    scores: Scores,
    lengths: Floats,
    later: NDArray[np.int64],
    earlier: NDArray[np.int64],
    first: NDArray[np.int64],
    apart: NDArray[np.int64],
) -> None:
    """Note the earliest near copy of each of the `later` pairs."""
    bits = np.bitwise_count(scores.marks[later] ^ scores.marks[earlier])
    one, two = lengths[later], lengths[earlier]
    near = (bits <= _NEAR_BITS) & (np.abs(one - two) <= scores.near * np.maximum(one, two)) & (one > 0.0)
    for j, i, n in zip(later[near], earlier[near], bits[near], strict=True):
        if i < first[j]:
            first[j], apart[j] = i, n
