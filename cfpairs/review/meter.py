"""What the kept pairs are worth: at once from the spectrum, exactly as soon as it has been measured anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cfpairs.errors import CfpairsError
from cfpairs.review.desk import Desk
from cfpairs.review.gauge import Gauge

__all__ = ["Bench", "Meter", "OpenBench", "Reading"]

SHOWN = 40
"""Singular values that are shown."""

QUIET = 0.7
"""Seconds without a decision before the pairs are measured anew; at least as long as that took last."""

LONGEST_QUIET = 30.0


@dataclass(frozen=True)
class Reading:
    """What can be said at once of the pairs that are kept.

    Attributes
    ----------
    rank : int
        Directions over the noise edge.
    noise_edge, noise_share : float or None
    level, text : str
        The verdict as far as it is known.
    """

    rank: int
    noise_edge: float | None
    noise_share: float | None
    level: str
    text: str


@dataclass(frozen=True)
class Bench:
    """The pairs of one set with what is needed to measure them.

    Attributes
    ----------
    pair_ids : tuple of str, length k
        Pairs that have embeddings, whatever their status.
    differences : ndarray of shape (k, d)
        In the metric that the quality was measured in.
    quality : mapping
        ``PairQuality.to_dict()`` of `measured`.
    measured : frozenset of str
        The pairs that it speaks of.
    assess : callable
        Gives the quality of some of the pairs.
    read : callable
        Gives a `Reading` from a quality, singular values, the number of pairs and how many of them look
        broken.
    """

    pair_ids: tuple[str, ...]
    differences: NDArray[np.floating]
    quality: Mapping[str, Any]
    measured: frozenset[str]
    assess: Callable[[Sequence[str]], Mapping[str, Any]]
    read: Callable[[Mapping[str, Any], NDArray[np.float64], int, int], Reading]


OpenBench = Callable[[str, Sequence[str], Sequence[str]], Bench]
"""From the name of a pair set, the ids of its pairs, and of those that are kept."""


class Meter:
    """Measures every pair set of a desk in a thread of its own.

    Parameters
    ----------
    desk : Desk
    open_bench : callable
        Takes seconds: embeddings are read. May raise `CfpairsError`, which is then shown.
    known : mapping of str to mapping
        Quality that an earlier run has found, by pair set.
    broken : iterable of str
        Flags that say that a pair is wrong.
    """

    def __init__(
        self,
        desk: Desk,
        open_bench: OpenBench,
        known: Mapping[str, Mapping[str, Any]],
        broken: Iterable[str] = (),
    ) -> None:
        self._desk, self._open, self._broken = desk, open_bench, frozenset(broken)
        self._quality: dict[str, Mapping[str, Any]] = dict(known)
        self._benches: dict[str, Bench] = {}
        self._gauges: dict[str, Gauge] = {}
        self._lengths: dict[str, tuple[dict[str, float], float]] = {}
        self._measured: dict[str, frozenset[str]] = {}
        self._trouble: dict[str, str] = {}
        self._lock = threading.RLock()
        self._wake = threading.Event()
        self._ended = False
        self._looked_at = ""
        self._last_change = 0.0
        self._took = 0.0
        self.epoch = 0  # goes up when reasons are new, so that the page fetches the pairs again
        for name, quality in self._quality.items():
            desk.set_flags(name, quality["flags"])
        self._thread = threading.Thread(target=self._work, name="meter", daemon=True)

    def start(self) -> None:
        """Begin to measure."""
        self._thread.start()

    def stop(self) -> None:
        """End after what is being measured; nothing is lost by not waiting for it."""
        self._ended = True
        self._wake.set()

    def changed(self) -> None:
        """Tell that a decision was made."""
        self._last_change = time.monotonic()
        self._wake.set()

    def summary(self, name: str) -> dict[str, Any]:
        """Counts, spectrum and verdict of one pair set as things stand."""
        self._looked_at = name
        kept = self._desk.kept(name)
        found: dict[str, Any] = {"pair_set": name, "state": "waiting", "epoch": self.epoch}
        found |= self._desk.counts(name)
        found["broken"] = broken = self._count_broken(name, kept)
        with self._lock:
            bench = self._benches.get(name)
            if name in self._trouble:
                return found | {"state": "unavailable", "trouble": self._trouble[name]}
            if bench is None:
                return found | {"has_reasons": name in self._quality}
            gauge, quality = self._gauges[name], self._quality[name]
            gauge.keep(kept)
            values, n_pairs = gauge.singular_values(), gauge.n_pairs
            exact = self._measured[name] == frozenset(kept)
        if exact:
            verdict = quality["verdict"]
            reading = Reading(
                quality["rank"],
                quality["noise_edge"],
                quality["noise_share"],
                verdict["level"],
                verdict["text"],
            )
        else:
            reading = bench.read(quality, values, n_pairs, broken)
        return found | {
            "state": "ready",
            "has_reasons": True,
            "exact": exact,
            "measured_pairs": quality["n_pairs"],
            "dim": quality["dim"],
            "metric": quality["metric"],
            "singular_values": [float(v) for v in values[:SHOWN]],
            "noise_edge": reading.noise_edge,
            "noise_share": reading.noise_share,
            "rank": reading.rank,
            "recommended_r": quality["recommended_r"],
            "verdict": {"level": reading.level, "text": reading.text},
        }

    def lengths(self, name: str, pair_id: str) -> list[list[Any]]:
        """How far apart a pair's sides are, and the median of the set, in the metric of the quality.

        Empty as long as the embeddings have not been read.
        """
        with self._lock:
            bench, found = self._benches.get(name), self._lengths.get(name)
        if bench is None or found is None or pair_id not in found[0]:
            return []
        return [["distance of the sides", found[0][pair_id]], ["median distance of the set", found[1]]]

    def _count_broken(self, name: str, kept: Sequence[str]) -> int:
        flags = self._desk.flags(name)
        return sum(any(f.flag in self._broken for f in flags.get(pair, ())) for pair in kept)

    def _work(self) -> None:
        """Open a bench at a time, the one that is looked at first; measure anew whenever it is quiet."""
        closed = list(self._desk.sheets)
        while not self._ended:
            stale = [name for name in self._benches if self._is_stale(name)]
            if stale and self._is_quiet():
                self._measure(stale[0])
            elif closed:
                closed.sort(key=lambda name: name != self._looked_at)
                self._open_one(closed.pop(0))
            else:
                self._wake.wait(0.1 if stale else None)
                self._wake.clear()

    def _is_stale(self, name: str) -> bool:
        return name not in self._trouble and self._measured[name] != frozenset(self._desk.kept(name))

    def _is_quiet(self) -> bool:
        quiet = min(max(QUIET, self._took), LONGEST_QUIET)
        return time.monotonic() - self._last_change >= quiet

    def _open_one(self, name: str) -> None:
        kept = self._desk.kept(name)
        try:
            bench = self._open(name, self._desk.reviewable(name), kept)
        except CfpairsError as error:
            self._trouble[name] = str(error)
            return
        except Exception as error:  # a page without figures still sorts pairs
            self._trouble[name] = f"the pairs cannot be measured: {type(error).__name__}: {error}"
            return
        gauge = Gauge(bench.pair_ids, bench.differences, kept)
        lengths = np.linalg.norm(bench.differences, axis=1)
        with self._lock:
            self._lengths[name] = (
                dict(zip(bench.pair_ids, lengths.tolist(), strict=True)),
                float(np.median(lengths)) if len(lengths) else 0.0,
            )
            self._benches[name], self._gauges[name] = bench, gauge
            self._quality[name], self._measured[name] = bench.quality, bench.measured
        # Reasons of the run before stay where pairs are dropped already: what is dropped is not measured.
        old = self._desk.flags(name)
        if not old or not any(d == "drop" for d in self._desk.sheets[name].column("decision")):
            self._desk.set_flags(name, bench.quality["flags"])
        self.epoch += 1

    def _measure(self, name: str) -> None:
        """Measure the pairs that are kept now."""
        kept = self._desk.kept(name)
        begun = time.monotonic()
        try:
            quality = self._benches[name].assess(kept)
        except CfpairsError as error:
            self._trouble[name] = str(error)
            return
        self._took = time.monotonic() - begun
        with self._lock:
            self._quality[name], self._measured[name] = quality, frozenset(kept)
