"""Which handwritten digit is painted on what: the options of the data set, its splits and its groups."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from cfpairs.config import Strict

__all__ = ["ENVIRONMENTS", "LABELS", "SPLIT_ENDS", "DigitsOptions", "PlannedItem", "plan_items"]

ENVIRONMENTS = (("grass", ("grass",)), ("stone", ("gravel", "gravel", "gravel", "brick")))
"""Name of each environment and the photographs that its backgrounds are drawn from, evenly."""

LABELS = ("0-4", "5-9")
SPLIT_ENDS = {"train": 0.60, "val": 0.75, "test": 1.0}
"""Up to which share of the digit images each split reaches."""


class DigitsOptions(Strict):
    """Settings of `Digits`."""

    size: Annotated[int, Field(ge=32, le=512)] = Field(default=112, description="side of an image in pixels")
    train: Annotated[int, Field(ge=8, le=200_000)] = Field(default=1500, description="even")
    val: Annotated[int, Field(ge=4, le=200_000)] = Field(default=400, description="a multiple of 4")
    test: Annotated[int, Field(ge=4, le=200_000)] = Field(default=800, description="a multiple of 4")
    renderings: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="training items of each digit image, all in the same environment"
    )
    shortcut: Annotated[float, Field(ge=0.5, le=1.0)] = Field(
        default=0.95, description="share of each label's training items in its usual environment"
    )
    tint: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=1.0, description="how much colour the grey photographs get"
    )

    @field_validator("train")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even, so that both labels have as many items")
        return value

    @field_validator("val", "test")
    @classmethod
    def _four_groups(cls, value: int) -> int:
        if value % 4:
            raise ValueError("must be a multiple of 4, so that the four groups have as many items")
        return value

    @model_validator(mode="after")
    def _two_scans_a_label(self) -> DigitsOptions:
        if self.train < 4 * self.renderings:
            raise ValueError(
                f"train must be at least {4 * self.renderings}, two digit images a label with "
                f"{self.renderings} renderings each (got {self.train})"
            )
        return self


@dataclass(frozen=True)
class PlannedItem:
    """One image before it is drawn: ``digit`` is the row of the scan, ``serial`` counts within the split."""

    split: str
    serial: int
    label: int
    env: int
    digit: int


def plan_items(options: DigitsOptions, digits: NDArray[np.int64], seed: int) -> list[PlannedItem]:
    """Which digit image goes where.

    Parameters
    ----------
    options : DigitsOptions
    digits : ndarray of int, shape (n,)
        The digit 0-9 that each scan shows.
    seed : int

    Returns
    -------
    list of PlannedItem
        By split, label and environment. The scans are dealt to the splits digit by digit, so that each
        split has its share of every digit; a scan is used again only when its split has run out. A training
        scan has several renderings in one environment, as a subject that was photographed where it lives.
    """
    pools = _deal_scans(digits, np.random.default_rng([seed, 0]))
    planned: list[PlannedItem] = []
    for number, split in enumerate(SPLIT_ENDS):
        wanted = getattr(options, split)
        copies = options.renderings if split == "train" else 1
        share = options.shortcut if split == "train" else 0.5
        scans = -(-wanted // (2 * copies))
        serial = 0
        for label in range(len(LABELS)):
            rng = np.random.default_rng([seed, 1, number, label])
            drawn = np.repeat(list(_endless(pools[split, label], rng, scans)), copies)[: wanted // 2]
            usual = copies * usual_scans(scans, share)
            for env in range(len(ENVIRONMENTS)):
                for digit in drawn[:usual] if env == label else drawn[usual:]:
                    planned.append(PlannedItem(split, serial, label, env, int(digit)))
                    serial += 1
    return planned


def usual_scans(scans: int, share: float) -> int:
    """How many of a label's digit images go to its usual environment: one less than all if any shall stray.

    Examples
    --------
    >>> usual_scans(250, 0.95), usual_scans(3, 0.95), usual_scans(3, 1.0)
    (238, 2, 3)
    """
    return scans if share == 1 else min(round(scans * share), scans - 1)


def _deal_scans(
    digits: NDArray[np.int64], rng: np.random.Generator
) -> dict[tuple[str, int], NDArray[np.int64]]:
    dealt: dict[tuple[str, int], list[NDArray[np.int64]]] = {}
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(digits == digit))
        start = 0
        for split, end in SPLIT_ENDS.items():
            stop = round(end * len(rows))
            dealt.setdefault((split, int(digit >= 5)), []).append(rows[start:stop])
            start = stop
    return {key: np.concatenate(parts) for key, parts in dealt.items()}


def _endless(pool: NDArray[np.int64], rng: np.random.Generator, count: int) -> Iterator[int]:
    """`count` members of `pool`, each once before any comes again."""
    given = 0
    while given < count:
        for member in rng.permutation(pool)[: count - given]:
            yield int(member)
            given += 1
