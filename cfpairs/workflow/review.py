"""The desk of ``cfpairs review``: what it is given of the other stages, and running it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cfpairs.errors import WorkspaceError
from cfpairs.review.desk import Desk
from cfpairs.review.meter import Bench, Meter, Reading
from cfpairs.tables import PAIRS, load_manifest, read_table
from cfpairs.workflow.context import Context, StageResult
from cfpairs.workflow.inputs import ProbeInputs, load_inputs, pair_set_names
from cfpairs.workflow.probing import latest_run, run_spec
from cfpairs.workflow.quality import middle_ridge, pair_quality, stored_quality

__all__ = ["BenchMaker", "Review", "open_review", "reread"]


@dataclass(frozen=True)
class Review:
    """A desk that is ready to be served.

    Attributes
    ----------
    desk : Desk
    meter : Meter
    """

    context: Context
    desk: Desk
    meter: Meter

    def serve(self, port: int, ready: Callable[[str], None]) -> StageResult:
        """Serve the page until the process is told to end; `ready` is given its address.

        Raises
        ------
        ConfigError
            If the port cannot be had.
        """
        from cfpairs.report.thumbnails import picture
        from cfpairs.review.app import make_app
        from cfpairs.review.pictures import Pictures
        from cfpairs.review.server import open_place, serve

        place = open_place(port)
        app = make_app(
            self.desk,
            self.meter,
            Pictures(picture),
            self.context.workspace.file,
            token=place.token,
            hosts=place.hosts,
            title=str(self.context.workspace.root),
        )
        self.meter.start()
        try:
            serve(app, place, lambda: ready(place.url))
        finally:
            self.meter.stop()
        return self.result()

    def result(self) -> StageResult:
        """What was decided so far, this time and before."""
        counts = {name: self.desk.counts(name) for name in self.desk.sheets}
        lines = tuple(
            f"pairs {name}: {n['used']} used, {n['dropped_by_hand']} dropped and {n['kept_by_hand']} kept by "
            f"hand, {n['to_do']} not looked at"
            for name, n in counts.items()
        )
        return StageResult(
            "review",
            self.desk.decided > 0,
            f"review: {self.desk.decided} decisions",
            lines,
            {"decisions": self.desk.decided, "pair_sets": counts},
        )


def open_review(context: Context, pair_sets: Sequence[str] = ()) -> Review:
    """Lay the pair sets on the desk, worst pairs first as far as a probe run knows.

    Parameters
    ----------
    pair_sets : sequence of str
        Names; by default all that are in the workspace.

    Raises
    ------
    WorkspaceError
        If there is no pair to decide on.
    UnknownNameError
        If a pair set is not there.
    """
    from cfpairs.quality.evidence import BROKEN

    names = pair_set_names(context, pair_sets)
    if not names:
        raise WorkspaceError("there are no pairs to review", remedy="make some with 'cfpairs build'")
    desk = Desk(context.workspace, names, load_manifest(context.workspace))
    known, _ = _known_quality(context)
    known = {name: quality for name, quality in known.items() if name in names}
    return Review(context, desk, Meter(desk, BenchMaker(context, names), known, BROKEN))


def _known_quality(context: Context) -> tuple[dict[str, Any], dict[str, Any]]:
    """Quality by pair set as the newest probe run found it, and what that run was computed from."""
    run = latest_run(context)
    if run is None:
        return {}, {}
    folder = context.workspace.probe_run(run)
    try:
        spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
    except (OSError, ValueError):
        return {}, {}
    return stored_quality(folder) or {}, spec


class BenchMaker:
    """Measures the pairs of a workspace; its embeddings are read once, when they are first needed.

    Parameters
    ----------
    context : Context
    names : sequence of str
    """

    def __init__(self, context: Context, names: Sequence[str]) -> None:
        self._context, self._names = context, list(names)
        self._lock = threading.Lock()
        self._inputs: ProbeInputs | None = None

    def _load(self) -> ProbeInputs:
        with self._lock:
            if self._inputs is None:
                tables = {name: self._all_pairs(name) for name in self._names}
                self._inputs = load_inputs(self._context, self._names, tables)
            return self._inputs

    def _all_pairs(self, name: str) -> pa.Table:
        """The pairs that can be decided on, as if all of them were used: a dropped one may come back."""
        manifest = set(load_manifest(self._context.workspace)["item_id"].to_pylist())
        rows = read_table(self._context.workspace.pairs(name), PAIRS).to_pylist()
        table = pa.Table.from_pylist(
            [
                row | {"status": "ok"}
                for row in rows
                if row["status"] != "rejected" and {row["a_id"], row["b_id"]} <= manifest
            ],
            schema=pa.schema(list(PAIRS.fields)),
        )
        return PAIRS.validate(table)

    def __call__(self, name: str, _pair_ids: Sequence[str], kept: Sequence[str]) -> Bench:
        """The bench of one pair set.

        Raises
        ------
        WorkspaceError
            If items have no embedding.
        DataError
            If the pairs cannot be measured.
        """
        inputs = self._load()
        place = {pair: i for i, pair in enumerate(inputs.kept[name])}
        seed, C = self._context.config.seed, middle_ridge(self._context)

        def assess(pairs: Sequence[str]) -> dict[str, Any]:
            rows = np.array([place[pair] for pair in pairs if pair in place], np.int64)
            found: dict[str, Any] = pair_quality(inputs, name, seed, C, rows).to_dict()
            return found

        quality = self._stored(name) or assess(kept)
        return Bench(
            pair_ids=tuple(inputs.kept[name]),
            differences=_in_metric(inputs, name, quality),
            quality=quality,
            measured=frozenset(kept),
            assess=assess,
            read=reread,
        )

    def _stored(self, name: str) -> dict[str, Any] | None:
        """What the newest probe run found, if it saw the very same pairs and embeddings."""
        known, spec = _known_quality(self._context)
        on_disk = self._context.workspace.pair_set_names()
        sets = [one for one in spec.get("pair_sets", ()) if one in on_disk]
        if name not in sets:
            return None
        now = run_spec(self._context, sets)
        measured_from = ("encoder_id", "preprocess", "source_digest", "contents", "train_with")
        same = all(spec.get(key) == now.get(key) for key in measured_from)
        if not same or spec["pair_sets"][name] != now["pair_sets"][name]:
            return None
        found: dict[str, Any] | None = known.get(name)
        return found


def _in_metric(inputs: ProbeInputs, name: str, quality: Mapping[str, Any]) -> NDArray[np.float64]:
    """Differences of the pairs in the metric that their quality was measured in; copies are zero."""
    from cfpairs.quality.measure import metric_of_control
    from cfpairs.quality.metric import SPECTRUM_SHRINKAGE, within_groups

    D = inputs.pairs[name].differences.astype(np.float64)
    train = inputs.train
    if quality["metric"] == "within-group":
        scatter = within_groups(np.asarray(train.X, np.float64), train.y, train.env)
        if scatter is not None:
            D = np.ascontiguousarray(scatter.metric(SPECTRUM_SHRINKAGE).whiten(D.T).T)
    elif quality["metric"] == "control" and name in inputs.controls:
        D = np.ascontiguousarray(
            metric_of_control(np.asarray(inputs.controls[name], np.float64)).whiten(D.T).T
        )
    copies = {row["pair_id"] for row in quality["flags"] if row["flag"] == "duplicate"}
    D[[pair in copies for pair in inputs.kept[name]]] = 0.0
    return D


def _level(quality: Mapping[str, Any]) -> float:
    """Singular value over which a direction was counted.

    That is the noise edge, or where long pairs were shortened for the count, a level between the last one
    that counted and the first that did not.
    """
    values, rank, edge = quality["singular_values"], quality["rank"], float(quality["noise_edge"])
    above = values[rank - 1] if rank else np.inf
    below = values[rank] if rank < len(values) else 0.0
    return edge if below <= edge < above else float(min(2.0 * below, (above + below) / 2.0))


def reread(quality: Mapping[str, Any], values: NDArray[np.float64], n_pairs: int, broken: int) -> Reading:
    """What a new spectrum changes about a quality that was measured on other pairs of the same set.

    The noise of a pair is taken to be what it was: the edge moves with the number of pairs as that of the
    Marchenko-Pastur law does, and the directions are counted again. Of the verdict only what
    follows from these is said anew; the rest waits until the pairs are measured.

    Parameters
    ----------
    quality : mapping
        ``PairQuality.to_dict()``.
    values : ndarray of shape (m,)
        Singular values of the pairs that are kept, in the metric of the quality.
    n_pairs : int
    broken : int
        Kept pairs with a flag that says that the pair is wrong.
    """
    from cfpairs.quality.evidence import BROKEN_SHARE
    from cfpairs.quality.noise import sigma_tail

    before, d = quality["n_pairs"], quality["dim"]
    grown = (np.sqrt(n_pairs) + np.sqrt(d)) / (np.sqrt(before) + np.sqrt(d))
    edge = None if quality["noise_edge"] is None else float(quality["noise_edge"] * grown)
    rank = 0 if edge is None else int((values > _level(quality) * grown).sum())
    energy = float((values**2).sum())
    share = None
    if energy > 0.0 and quality["sigma"] is not None:
        sigma = sigma_tail(values, n_pairs, d, rank) if quality["sigma"] > 0.0 else 0.0
        share = min(1.0, sigma**2 * n_pairs * d / energy)
    old = quality["verdict"]
    if n_pairs == 0:
        level, text = "needs_pairs", "there are no pairs"
    elif broken > max(1.0, BROKEN_SHARE * n_pairs):
        level, text = "fix_pairs", f"{broken} of {n_pairs} pairs look broken"
    elif rank == 0:
        level, text = "needs_pairs", f"no direction of the {n_pairs} pairs stands above the noise"
    elif quality["rank"] == 0 or old["text"].endswith("look broken"):
        level, text = "measuring", "the reason for the last verdict is gone; the pairs are measured again"
    else:
        level, text = old["level"], old["text"]
    return Reading(rank, edge, share, level, text)
