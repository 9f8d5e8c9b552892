"""Pairs of an item and what an autoencoder of environments makes of it in another one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from cfpairs.config import Strict, check_options
from cfpairs.errors import DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import TrainItems, cell_rng, embedded_items, missing_notes, pair_id, shortfall_note
from cfpairs.pairs.edit.base import EditPlan
from cfpairs.pairs.edit.checks import Checked, CheckOptions, Checks, check_section
from cfpairs.pairs.edit.pixels import encode_png
from cfpairs.pairs.edit.streams import Choose, Outcome, Stream, in_order, make_streams, next_wave
from cfpairs.pairs.transfer.options import ModelOptions
from cfpairs.pairs.transfer.spaces import ImageSpace, Space, VectorSpace
from cfpairs.tables import MANIFEST, PAIRS, fingerprint, make_table, write_bytes
from cfpairs.vectors import Embeddings

if TYPE_CHECKING:
    from cfpairs.pairs.transfer.viae import VIAE

__all__ = ["TransferBuilder", "TransferOptions"]

CHUNK = 256
"""Items that are moved at once."""

LIMITS = (
    "what the autoencoder has not learnt to tell apart moves with the environment or stays with the item",
    "where every label has one environment of its own, nothing can tell the two apart",
)


class TransferOptions(Strict):
    """Settings of `TransferBuilder`."""

    space: Literal["embedding", "image"] = Field(
        default="embedding", description="embedding: vectors are moved, no image is made; image: small images"
    )
    keep_detail: bool | None = Field(
        default=None,
        description="add the change of what is decoded to the item, so that what the autoencoder cannot draw "
        "stays; false: take what is decoded; default: true in embedding space, false for images",
    )
    draw: Literal["prior", "mean"] = Field(
        default="prior", description="the target's z_e: drawn from its prior, or its mean"
    )
    dims: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=64, description="principal components of the embedding that are moved; the rest stays"
    )
    most_items: Annotated[int, Field(ge=40)] = Field(
        default=20000, description="most training items that the autoencoder learns from"
    )
    choose: Choose = Field(default="balanced", description="which items are moved, as for method edit")
    model: ModelOptions = ModelOptions()
    checks: CheckOptions = CheckOptions()

    @property
    def keeps_detail(self) -> bool:
        """Whether the change alone is taken from the autoencoder."""
        return self.space == "embedding" if self.keep_detail is None else self.keep_detail


@dataclass(frozen=True)
class _Moved:
    """One item in another environment: the vector or the pixels, and what the checks say."""

    row: int
    env: int
    result: NDArray[np.generic]
    checked: Checked


class TransferBuilder:
    """Pair each chosen item with itself in another environment.

    Parameters
    ----------
    options : TransferOptions

    Notes
    -----
    A `VIAE` is trained on the training items and their environments; labels are not looked at, except that
    groups are seen equally often if ``model.balance`` says so. An item is encoded with the encoder of its
    environment, its z_e replaced by one of the target's, and decoded. In embedding space the vector belongs
    to an item without an image. What fails a check is rejected and the next candidate takes its place.

    Attributes
    ----------
    wants_judge : bool
        Whether `build` makes use of ``inputs.judge``.
    makes_images, makes_vectors : bool
        What is made.
    """

    Options: ClassVar[type[BaseModel]] = TransferOptions
    needs_embeddings: ClassVar[bool] = True
    version: ClassVar[int] = 2

    def __init__(self, options: BaseModel) -> None:
        options = check_options(TransferOptions, options)
        self.options = options
        self.wants_judge = options.checks.embedding
        self.makes_images = options.space == "image"
        self.makes_vectors = not self.makes_images

    def build(self, inputs: BuildInputs) -> PairSet:
        """Train the autoencoder and move items until there are as many pairs as asked for.

        Raises
        ------
        DataError
            If there is one environment only, one has too few items, images cannot be used, or not a single
            pair passed the checks.
        """
        items, space, left_out = self._open(inputs)
        mover = _Mover(items, space, self.options, inputs)
        checks = Checks(self.options.checks, items, inputs.judge if self.wants_judge else None)
        streams = make_streams(items, frozenset(items.env_names), self.options.choose, 1, inputs.seed)
        made: dict[str, NDArray[np.generic]] = {}
        with inputs.progress.task("moving items", inputs.n_pairs) as advance:
            while wave := next_wave(streams, inputs.n_pairs):
                for start in range(0, len(wave), CHUNK):
                    part = wave[start : start + CHUNK]
                    for (stream, _), moved in zip(
                        part, self._moved(mover, part, checks, inputs), strict=True
                    ):
                        outcome = self._outcome(items, moved, inputs)
                        if outcome.item is not None:
                            made[outcome.item["item_id"]] = moved.result
                            advance(1)
                        stream.add(outcome)
        return self._pair_set(items, list(in_order(streams)), made, inputs, left_out)

    def _open(self, inputs: BuildInputs) -> tuple[TrainItems, Space, list[str]]:
        """The items, as the model sees them, and a line about those that are left out."""
        items = TrainItems.of(inputs.manifest)
        if self.makes_vectors:
            if inputs.embeddings is None:
                raise DataError("method transfer needs embeddings", remedy="run 'cfpairs embed'")
            items, left_out = embedded_items(items, inputs.embeddings)
            return items, VectorSpace(items.ids, inputs.embeddings, self.options.dims), left_out
        first = items.table.slice(0, 1).to_pylist()[0]
        files = [inputs.workspace.file(path) for path in items.table["path"].to_pylist()]
        return items, ImageSpace(files, (first["height"], first["width"])), []

    def _moved(
        self, mover: _Mover, part: Sequence[tuple[Stream, int]], checks: Checks, inputs: BuildInputs
    ) -> list[_Moved]:
        tasks = [stream.candidates[place] for stream, place in part]
        rows, targets = (np.array([int(task[i]) for task in tasks], np.int64) for i in (0, 1))
        results = mover.move(rows, targets)
        sources = mover.items.table.take(rows).to_pylist()
        found = [Checked() for _ in results]
        if isinstance(mover.space, ImageSpace):
            plans = [EditPlan(source=mover.space.pixels[row], key=()) for row in rows]
            images = [np.asarray(result, np.uint8) for result in results]
            found = checks.check(sources, targets.tolist(), plans, images)
        elif inputs.judge is not None and self.wants_judge:
            vectors = inputs.judge.prepare(np.stack([np.asarray(result, np.float32) for result in results]))
            found = checks.check_vectors(sources, targets.tolist(), vectors)
        return [
            _Moved(int(row), int(env), result, checked)
            for row, env, result, checked in zip(rows, targets, results, found, strict=True)
        ]

    def _outcome(self, items: TrainItems, moved: _Moved, inputs: BuildInputs) -> Outcome:
        source = items.table.slice(moved.row, 1).to_pylist()[0]
        content = hashlib.sha256(moved.result.tobytes()).hexdigest()
        item_id = f"transfer-{fingerprint(inputs.name, source['item_id'], moved.env, content)}"
        pair = {
            "pair_id": pair_id("transfer", source["item_id"], item_id),
            "a_id": source["item_id"],
            "b_id": item_id,
            "method": "transfer",
            "label": source["label"],
            "env_a": source["env"],
            "env_b": moved.env,
            "score": None,
            "seed": inputs.seed,
            "status": "ok",
            "reason": None,
            "space": self.options.space,
            **moved.checked.columns,
        }
        if moved.checked.fault is not None:
            return Outcome(pair | {"status": "rejected", "reason": moved.checked.fault}, None)
        path, (height, width) = "", (0, 0)
        if self.makes_images:
            file = inputs.workspace.pair_images(inputs.name) / f"{item_id}.png"
            pixels = np.asarray(moved.result, np.uint8)
            write_bytes(file, encode_png(pixels))
            path, (height, width) = inputs.workspace.relative(file), pixels.shape[:2]
        item = {
            **{key: source[key] for key in ("split", "label", "label_name", "subject")},
            "item_id": item_id,
            "path": path,
            "mask_path": None,
            "env": moved.env,
            "env_name": items.env_names[moved.env],
            "width": width,
            "height": height,
            "origin": "transfer",
            "parent_id": source["item_id"],
            "pair_set": inputs.name,
        }
        return Outcome(pair, item)

    def _pair_set(
        self,
        items: TrainItems,
        done: Sequence[Outcome],
        results: Mapping[str, NDArray[np.generic]],
        inputs: BuildInputs,
        left_out: Sequence[str],
    ) -> PairSet:
        pairs = [outcome.pair for outcome in done]
        made = [outcome.item for outcome in done if outcome.item is not None]
        if not made:
            reason, count = Counter(str(pair["reason"]) for pair in pairs).most_common(1)[0]
            raise DataError(
                "no pair could be made",
                got=f"{len(pairs)} items rejected, {count} of them because: {reason}",
                remedy="train longer (option model.epochs) or loosen the option 'checks'",
            )
        notes = [
            *left_out,
            *missing_notes(items),
            *shortfall_note(inputs.n_pairs, len(made), "no more items that pass the checks"),
        ]
        what = "vector" if self.makes_vectors else "image"
        card = pair_card(
            inputs,
            items,
            pairs,
            method=f"A training item and its {what} in another environment, decoded by a variational "
            "invariant autoencoder (Norman, Meir 2025) from the item's invariant code and the target's "
            "environmental one.",
            settings={
                **self.options.model_dump(mode="json", exclude={"model", "checks"}),
                **self.options.model.model_dump(mode="json"),
                "keep_detail": self.options.keeps_detail,
            },
            limits=LIMITS,
            notes=notes,
        )
        card += "\n" + check_section(self.options.checks, pairs)
        vectors = None
        if self.makes_vectors and inputs.embeddings is not None:
            ids = [item["item_id"] for item in made]
            stacked = np.stack([np.asarray(results[item], np.float32) for item in ids])
            vectors = Embeddings(ids, stacked, inputs.embeddings.metadata)
        return PairSet(make_table(pairs, PAIRS), make_table(made, MANIFEST), card, tuple(notes), vectors)


class _Mover:
    """The trained autoencoder of one pair set.

    Parameters
    ----------
    items : TrainItems
    space : Space
    options : TransferOptions
    inputs : BuildInputs
    """

    def __init__(
        self, items: TrainItems, space: Space, options: TransferOptions, inputs: BuildInputs
    ) -> None:
        from cfpairs.pairs.transfer.training import train_viae  # torch takes seconds to import

        self.items, self.space, self._options, self._seed = items, space, options, inputs.seed
        self._names, self._code = np.unique(items.env, return_inverse=True)
        rows = np.arange(len(items.ids))
        if len(rows) > options.most_items:
            rows = np.sort(cell_rng(inputs.seed, "transfer").choice(rows, options.most_items, replace=False))
        group = items.label * len(self._names) + self._code
        self._model: VIAE = train_viae(
            space.model_rows(rows),
            self._code[rows],
            options.model,
            inputs.seed,
            group=group[rows] if options.model.balance else None,
            state=inputs.workspace.pair_folder(inputs.name) / "viae.pt",
            progress=inputs.progress,
        )

    def move(self, rows: NDArray[np.int64], targets: NDArray[np.int64]) -> list[NDArray[np.generic]]:
        """The items of these rows in the environments `targets`."""
        import torch

        noise = None
        if self._options.draw == "prior":
            draws = [
                cell_rng(self._seed, "transfer", self.items.ids[row], int(env)).normal(
                    size=self._model.env_dim
                )
                for row, env in zip(rows, targets, strict=True)
            ]
            noise = torch.from_numpy(np.asarray(draws, np.float32))
        with torch.inference_mode():
            moved, kept = self._model.transfer(
                torch.from_numpy(self.space.model_rows(rows)),
                torch.from_numpy(self._code[rows]),
                torch.from_numpy(np.searchsorted(self._names, targets)),
                noise,
            )
        return [
            self.space.result(int(row), a, b, self._options.keeps_detail)
            for row, a, b in zip(rows, moved.numpy(), kept.numpy(), strict=True)
        ]
