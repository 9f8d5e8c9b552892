"""Pairs of texts that differ in the environment alone, for encoders that read texts in the images' space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from string import Formatter
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, field_validator

from cfpairs.config import Strict, check_options
from cfpairs.errors import ConfigError, DataError
from cfpairs.pairs.base import BuildInputs, PairSet
from cfpairs.pairs.cards import pair_card
from cfpairs.pairs.cells import Cell, TrainItems, deal, embedded_items, pair_id, shortfall_note
from cfpairs.registry import suggest
from cfpairs.tables import MANIFEST, PAIRS, fingerprint, make_table
from cfpairs.vectors import Embeddings

__all__ = ["PromptBuilder", "PromptOptions"]

TEMPLATES = (
    "a photo of a {label}, {env}",
    "a blurry photo of a {label}, {env}",
    "a close-up photo of a {label}, {env}",
    "a photo of a small {label}, {env}",
    "a photo of a large {label}, {env}",
    "a bright photo of a {label}, {env}",
    "a dark photo of a {label}, {env}",
    "a good photo of a {label}, {env}",
    "a picture of one {label}, {env}",
    "an image of a {label}, {env}",
)

FIELDS = {"label", "env"}

LIMITS = (
    "texts name the environment, images show it: directions that no word stands for are not found",
    "texts and images lie apart in the embedding; the difference of two texts leaves that gap out, a probe "
    "that is judged on the texts themselves does not",
)


class PromptOptions(Strict):
    """Settings of `PromptBuilder`."""

    templates: tuple[str, ...] = Field(
        default=TEMPLATES, min_length=1, description="texts with {label} and {env} to be filled in"
    )
    labels: dict[str, tuple[Annotated[str, Field(min_length=1)], ...]] = Field(
        default_factory=dict, description="words for each label by its name; default: the name"
    )
    envs: dict[str, tuple[Annotated[str, Field(min_length=1)], ...]] = Field(
        default_factory=dict,
        description="words for each environment by its name, such as 'on the water'; default: the name",
    )

    @field_validator("templates")
    @classmethod
    def _both_fields(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for template in value:
            try:
                found = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
            except ValueError as error:
                raise ValueError(f"template {template!r} cannot be read: {error}") from error
            if found != FIELDS:
                raise ValueError(f"template {template!r} needs {{label}} and {{env}}, and no other field")
        return value


@dataclass(frozen=True)
class _Texts:
    """Two texts with the same template and label, and the cell that they belong to."""

    cell: Cell
    a: str
    b: str


class PromptBuilder:
    """Pair a text that names a label in one environment with the same text in another.

    Parameters
    ----------
    options : PromptOptions

    Notes
    -----
    Every template is filled with every wording of a label and of two environments. Both texts become training
    items of the pair set without an image, whose vectors are those of the encoder's text tower, as long as
    the images' vectors are. No image is looked at.
    """

    Options: ClassVar[type[BaseModel]] = PromptOptions
    needs_embeddings: ClassVar[bool] = True
    makes_vectors: ClassVar[bool] = True
    wants_judge: ClassVar[bool] = True
    version: ClassVar[int] = 1

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(PromptOptions, options)

    def build(self, inputs: BuildInputs) -> PairSet:
        """Encode the texts and pair them.

        Raises
        ------
        ConfigError
            If the encoder reads no texts, or an option names a label or an environment that is not there.
        DataError
            If there is one environment only, or two wordings of different environments are the same text.
        """
        if inputs.embeddings is None or inputs.judge is None:
            raise DataError("method prompt needs embeddings and their encoder", remedy="run 'cfpairs embed'")
        items, left_out = embedded_items(TrainItems.of(inputs.manifest), inputs.embeddings)
        chosen = self._chosen(items, inputs.n_pairs)
        texts = list(dict.fromkeys(text for pair in chosen for text in (pair.a, pair.b)))
        vectors = inputs.judge.encode_text(texts)
        if vectors is None:
            raise ConfigError(
                "method prompt needs an encoder that reads texts, and embeddings that are not standardised",
                got=inputs.judge.encoder_id or "given embeddings",
                remedy="set encoder.spec to an open_clip model and preprocess.standardize to none",
            )
        lengths = np.linalg.norm(inputs.embeddings.rows(items.ids), axis=1)
        vector_of = dict(zip(texts, vectors * np.float32(np.median(lengths)), strict=True))
        pairs, made = self._rows(items, chosen, vector_of, inputs)
        notes = [*left_out, *shortfall_note(inputs.n_pairs, len(pairs), "no more templates and wordings")]
        card = pair_card(
            inputs,
            items,
            pairs,
            method="Two texts that differ in the environment alone, encoded by the encoder's text tower.",
            settings={**self.options.model_dump(mode="json"), "such as": f"{chosen[0].a} / {chosen[0].b}"},
            limits=LIMITS,
            notes=notes,
        )
        stacked = np.stack([vector for _, vector in made.values()])
        found = Embeddings(list(made), stacked, inputs.embeddings.metadata)
        rows = make_table([row for row, _ in made.values()], MANIFEST)
        return PairSet(make_table(pairs, PAIRS), rows, card, tuple(notes), found)

    def _chosen(self, items: TrainItems, n: int) -> list[_Texts]:
        labels = _wordings(self.options.labels, items.label_names, "labels", "a label")
        envs = _wordings(self.options.envs, items.env_names, "envs", "an environment")
        for low, high in combinations(sorted(envs), 2):
            if same := set(envs[low]) & set(envs[high]):
                raise DataError(
                    "two environments have the same words",
                    got=repr(min(same)),
                    remedy="give others in 'envs'",
                )
        cells = [
            list(self._of_cell(Cell(label, low, high), labels[label], envs[low], envs[high]))
            for label in sorted(labels)
            for low, high in combinations(sorted(envs), 2)
        ]
        taken = [0] * len(cells)
        chosen = []
        for turn in deal([len(cell) for cell in cells], n):
            chosen.append(cells[turn][taken[turn]])
            taken[turn] += 1
        return chosen

    def _of_cell(
        self, cell: Cell, labels: Sequence[str], low: Sequence[str], high: Sequence[str]
    ) -> Iterator[_Texts]:
        """Every pair of texts once, all templates before other wordings."""
        seen = set()
        for label, a, b in product(labels, low, high):
            for template in self.options.templates:
                texts = (template.format(label=label, env=a), template.format(label=label, env=b))
                if texts not in seen:
                    seen.add(texts)
                    yield _Texts(cell, *texts)

    def _rows(
        self,
        items: TrainItems,
        chosen: Sequence[_Texts],
        vector_of: dict[str, NDArray[np.float32]],
        inputs: BuildInputs,
    ) -> tuple[list[dict[str, Any]], dict[str, tuple[dict[str, Any], NDArray[np.float32]]]]:
        pairs = []
        made: dict[str, tuple[dict[str, Any], NDArray[np.float32]]] = {}
        for texts in chosen:
            ids = []
            for text, env in ((texts.a, texts.cell.env_a), (texts.b, texts.cell.env_b)):
                content = hashlib.sha256(vector_of[text].tobytes()).hexdigest()
                item_id = f"prompt-{fingerprint(inputs.name, text, texts.cell.label, env, content)}"
                ids.append(item_id)
                row = {
                    "item_id": item_id,
                    "path": "",
                    "split": "train",
                    "label": texts.cell.label,
                    "label_name": items.label_names[texts.cell.label],
                    "env": env,
                    "env_name": items.env_names[env],
                    "mask_path": None,
                    # One text may be in several pairs: what shares a label's text stays together in a fold.
                    "subject": f"prompt-{fingerprint(texts.cell.label)}-{texts.a}",
                    "width": 0,
                    "height": 0,
                    "origin": "prompt",
                    "parent_id": None,
                    "pair_set": inputs.name,
                }
                made.setdefault(item_id, (row, vector_of[text]))
            pairs.append(
                {
                    "pair_id": pair_id("prompt", *ids),
                    "a_id": ids[0],
                    "b_id": ids[1],
                    "method": "prompt",
                    "label": texts.cell.label,
                    "env_a": texts.cell.env_a,
                    "env_b": texts.cell.env_b,
                    "score": None,
                    "seed": inputs.seed,
                    "status": "ok",
                    "reason": None,
                    "text_a": texts.a,
                    "text_b": texts.b,
                }
            )
        return pairs, made


def _wordings(
    given: dict[str, tuple[str, ...]], names: dict[int, str], option: str, what: str
) -> dict[int, tuple[str, ...]]:
    """Words for each number; a name that no training item has is a mistake."""
    for name in given:
        if name not in names.values():
            raise ConfigError(
                f"option {option!r} names {what} that no training item has",
                got=repr(name),
                expected=suggest(name, tuple(names.values())),
            )
    return {number: given.get(name) or (_plain(name),) for number, name in names.items()}


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ")
