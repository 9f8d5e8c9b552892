"""The judge of edits: the configured encoder and a label probe on the embeddings of the training items."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cfpairs.encoders.base import Encoder
from cfpairs.encoders.factory import open_encoder
from cfpairs.errors import CfpairsError, DataError
from cfpairs.preprocessing import Preprocessor
from cfpairs.vectors import Embeddings, read_embeddings
from cfpairs.workflow.context import Context
from cfpairs.workflow.embeddings import embed_missing

if TYPE_CHECKING:
    from cfpairs.probes.fits import LinearFits

__all__ = ["EncoderJudge", "LabelProbe", "open_judge"]

FOLDS = 5
RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Inverse ridge strengths that the label probe tunes over, for vectors whose coordinates are about one."""

# Margins are compared with a low quantile of others: more digits would change no verdict.
TOLERANCE = 1e-3


class LabelProbe:
    """Logistic regression that weighs label x environment groups equally and leaves subjects out in turn.

    A plain probe leans on the background, so that a good edit would turn it over. Beside the weights, the
    mean shift between environments within labels is taken out of the probe's reach.

    Parameters
    ----------
    X : ndarray of shape (n, d)
        Preprocessed vectors.
    label, env : ndarray of shape (n,)
    subject : sequence of str, length n
        Rows of one subject are left out together.
    ridges : sequence of float
        Inverse ridge strengths; the one with the best mean accuracy over groups, each row judged by the fit
        that has not seen it, is taken.

    Attributes
    ----------
    fold : ndarray of shape (n,)
        The fit that has not seen each row.
    accuracy : float
        Mean over groups of the accuracy on rows left out.
    """

    def __init__(
        self,
        X: NDArray[np.float64],
        label: NDArray[np.int64],
        env: NDArray[np.int64],
        subject: Sequence[str],
        ridges: Sequence[float] = RIDGES,
    ) -> None:
        # scikit-learn and SciPy take seconds to import; a command that builds nothing does not wait.
        from cfpairs.probes.base import balancing_weights, encode_labels
        from cfpairs.probes.solver import fit_logistic, principal_axes
        from cfpairs.selection import fold_of_clusters, pair_clusters

        classes, index = encode_labels(label)
        self._axes = principal_axes(X)
        rows = (X @ self._axes).astype(np.float32)
        clusters = pair_clusters(subject, subject)
        alone = len(np.unique(clusters)) < 2  # one subject for all items says nothing
        self.fold = fold_of_clusters(np.arange(len(rows)) if alone else clusters, FOLDS, 0)
        fits: list[LinearFits] = []
        for number in range(int(self.fold.max()) + 1):
            seen = self.fold != number
            Q = environment_shifts(rows[seen], index[seen], env[seen])
            fits.append(
                fit_logistic(
                    rows[seen],
                    index[seen],
                    len(classes),
                    np.asarray(ridges),
                    ranks=np.full(len(ridges), Q.shape[1]),
                    Q=Q,
                    sample_weight=balancing_weights(label[seen], env[seen], "group"),
                    tol=TOLERANCE,
                )
            )
        right = np.empty((len(rows), len(ridges)), np.bool_)
        for number, fit in enumerate(fits):
            out = self.fold == number
            right[out] = fit.predict(rows[out]) == index[out, None]
        groups = [(label == y) & (env == e) for y in np.unique(label) for e in np.unique(env)]
        accuracy = np.mean([right[g].mean(axis=0) for g in groups if g.any()], axis=0)
        best = int(accuracy.argmax())
        self.accuracy = float(accuracy[best])
        self._fits = [fit.take([best]) for fit in fits]

    def logits(self, vectors: NDArray[np.float32], fold: NDArray[np.int64]) -> NDArray[np.float64]:
        """Logits (n, C), each row by the fit whose number is in `fold`."""
        rows = vectors @ self._axes
        found = np.stack([fit.logits(rows)[:, 0] for fit in self._fits])[fold, np.arange(len(rows))]
        if found.shape[1] == 1:
            found = np.column_stack([np.zeros(len(rows)), found])
        return np.asarray(found, np.float64)


def environment_shifts(
    X: NDArray[np.float32], label: NDArray[np.int64], env: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Orthonormal directions, shape (d, m), of the mean shift of each environment within labels.

    Labels count equally, and one that is found in a single environment says nothing; m is less than the
    number of environments, and 0 where no label has two.
    """
    shifts: dict[int, list[NDArray[np.float64]]] = {}
    for y in np.unique(label):
        means = {e: X[(label == y) & (env == e)].mean(axis=0) for e in np.unique(env[label == y])}
        middle = np.mean(list(means.values()), axis=0)
        for e, mean in means.items():
            if len(means) > 1:
                shifts.setdefault(int(e), []).append(np.asarray(mean - middle, np.float64))
    if not shifts:
        return np.zeros((X.shape[1], 0))
    stacked = np.stack([np.mean(found, axis=0) for found in shifts.values()])
    _, values, directions = np.linalg.svd(stacked, full_matrices=False)
    return np.ascontiguousarray(directions[values > 1e-6 * max(values[0], 1e-12)].T)


class EncoderJudge:
    """See `cfpairs.pairs.base.Judge`; training vectors, model and probe are made when they are first needed.

    Parameters
    ----------
    context : Context
    items : pyarrow.Table
        Training items, as rows of the manifest.
    embed : callable
        Gives vectors of the training items by the configured encoder as they are stored; items without one
        are left out.
    encoder : Encoder
        The configured encoder; the caller closes it.
    """

    def __init__(
        self, context: Context, items: pa.Table, embed: Callable[[], Embeddings], encoder: Encoder
    ) -> None:
        self._config = context.config.encoder
        self._progress = context.progress
        self._encoder = encoder
        self._unit_space = context.config.preprocess.standardize == "none"
        self.encoder_id = self._encoder.info.id
        self._all_items, self._embed = items, embed
        self._preprocessor = Preprocessor(context.config.preprocess)

    @cached_property
    def _training(self) -> Embeddings:
        found = self._embed()
        ids = [item for item in self._all_items["item_id"].to_pylist() if item in found]
        if not ids:
            raise DataError("no training item has an embedding", remedy="check the images of the data set")
        raw = found.rows(ids)
        self._preprocessor.fit(raw)
        return Embeddings(ids, self._preprocessor.transform(raw), found.metadata)

    @cached_property
    def _row(self) -> dict[str, int]:
        return {item: row for row, item in enumerate(self._training.item_ids)}

    def training(self) -> Embeddings:
        """Vectors of the training items that have one."""
        return self._training

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """Vectors of images as `cfpairs embed` and the probes' preprocessing will give them."""
        from PIL import Image

        self.training()  # fits the preprocessing
        self._encoder.load()
        size, vectors = self._config.batch(self._encoder.info.device), []
        with ThreadPoolExecutor(self._config.threads) as pool:
            for start in range(0, len(images), size):
                opened = [Image.fromarray(image) for image in images[start : start + size]]
                pixels = list(pool.map(self._encoder.preprocess, opened))
                batch = np.zeros((size, *pixels[0].shape), np.float32)
                batch[: len(pixels)] = pixels
                vectors.append(self._encoder.encode(batch)[: len(pixels)].copy())
        return self.prepare(np.concatenate(vectors))

    def prepare(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Vectors of the embedding as the probes' preprocessing will give them."""
        self.training()  # fits the preprocessing
        stored = vectors.astype(self._config.store)
        return np.asarray(self._preprocessor.transform(stored), np.float32)

    def encode_text(self, prompts: Sequence[str]) -> NDArray[np.float32] | None:
        """Unit vectors of texts; None if the encoder has none to offer, or images are standardised."""
        encode = getattr(self._encoder, "encode_text", None)
        if encode is None or not self._unit_space:
            return None
        try:
            vectors = np.asarray(encode(list(prompts)), np.float32)
        except CfpairsError as error:
            self._progress.say(f"texts are not compared: {error}")
            return None
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    def label_logits(self, vectors: NDArray[np.float32], sources: Sequence[str]) -> NDArray[np.float64]:
        """Logits of each vector by the probe that has not seen its source's subject."""
        fold = [self._probe.fold[self._row[s]] if s in self._row else 0 for s in sources]
        return self._probe.logits(vectors, np.asarray(fold, np.int64))

    @cached_property
    def _probe(self) -> LabelProbe:
        items = self._all_items.filter(
            pa.array([i in self._row for i in self._all_items["item_id"].to_pylist()])
        )
        columns = (items[c].to_pylist() for c in ("item_id", "subject", "parent_id"))
        return LabelProbe(
            np.asarray(self._training.matrix, np.float64),
            items["label"].to_numpy().astype(np.int64),
            items["env"].to_numpy().astype(np.int64),
            [subject or parent or item for item, subject, parent in zip(*columns, strict=True)],
        )


@contextmanager
def open_judge(context: Context, sources: pa.Table, name: str) -> Iterator[EncoderJudge]:
    """A judge for the pair set `name`; when first asked, it embeds training items that are not yet."""
    train = sources.filter(pc.equal(sources["split"], "train"))
    encoder = open_encoder(context.config.encoder)

    def embed() -> Embeddings:
        context.progress.say(
            f"pairs {name}: edits are checked in the embedding, which the {len(train)} training items need "
            "first"
        )
        return read_embeddings(embed_missing(context, train, encoder).folder)

    try:
        yield EncoderJudge(context, train, embed, encoder)
    finally:
        encoder.close()
