"""Which image is drawn in which colour: the options of coloured MNIST, its splits, domains and labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationInfo, field_validator

from cfpairs.config import Strict
from cfpairs.datasets.idx import PARTS
from cfpairs.errors import DataError

__all__ = ["ColoredMNISTOptions", "PlannedItem", "label_names", "plan_part"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class ColoredMNISTOptions(Strict):
    """Settings of `ColoredMNIST`."""

    limit: Annotated[int, Field(ge=2)] | None = Field(
        default=6000, description="most items taken of train and of t10k; null: all"
    )
    validation: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.1, description="share of the items taken of train that becomes val"
    )
    environment: Literal["colour", "domain"] = Field(
        default="colour",
        description="what env is: the colour, or the domain, in which colours are flipped alike",
    )
    classes: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default=(5, 6, 7, 8, 9), description="IDX classes that are label 1 before the noise"
    )
    label_noise: Annotated[float, Field(ge=0.0, le=0.5)] = Field(
        default=0.25, description="share of the labels that are flipped"
    )
    train_flips: tuple[Share, ...] = Field(
        default=(0.1, 0.2),
        description="share of the items of each training domain whose colour is not the label's",
    )
    test_flip: Share = Field(default=0.9, description="the same share in test")
    size: Annotated[int, Field(ge=8, le=512)] | None = Field(
        default=None, description="side of an image in pixels; null: as in the files, 28 for MNIST"
    )

    @field_validator("classes", "train_flips")
    @classmethod
    def _some_and_distinct(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if not value:
            raise ValueError("needs at least one entry")
        if info.field_name == "classes" and len(set(value)) < len(value):
            raise ValueError("names a class twice")
        return value


@dataclass(frozen=True)
class PlannedItem:
    """One image before it is drawn: ``index`` is its row in the IDX files of its part."""

    part: str
    index: int
    split: str
    label: int
    flipped: bool
    domain: int
    colour: int


def plan_part(
    options: ColoredMNISTOptions, part: str, classes: NDArray[np.uint8], seed: int
) -> list[PlannedItem]:
    """What becomes of the items of one part.

    Parameters
    ----------
    options : ColoredMNISTOptions
    part : {"train", "t10k"}
        The first is dealt to train and val and, within each, to the training domains in turn; the second is
        test, a domain of its own.
    classes : ndarray of uint8, shape (n,)
        The IDX class of every item.
    seed : int

    Returns
    -------
    list of PlannedItem
        By split and index. What an item is does not depend on ``limit``: a larger one adds items.

    Raises
    ------
    DataError
        If the classes give items of one label only, or a split has no item.
    """
    true = np.isin(classes, options.classes)
    if true.all() or not true.any():
        raise DataError(
            f"all items of {part} have one label",
            got=f"classes {class_range(set(classes.tolist()))} in the files",
            expected=f"some of {class_range(set(options.classes))} and some others",
            remedy="set data.options.classes",
        )
    rng = np.random.default_rng([seed, PARTS.index(part)])
    chosen = rng.permutation(len(classes))[: options.limit]
    noise, draw = rng.random((2, len(classes)))
    split, domain = _deal(options, part, len(chosen))
    flips = np.array([*options.train_flips, options.test_flip])
    flipped = noise[chosen] < options.label_noise
    label = true[chosen] ^ flipped
    colour = label ^ (draw[chosen] < flips[domain])
    rows = zip(
        *(a.tolist() for a in (chosen, split, label.astype(int), flipped, domain, colour.astype(int))),
        strict=True,
    )
    planned = [PlannedItem(part, *row) for row in rows]
    return sorted(planned, key=lambda item: (item.split != "train", item.index))


def _deal(options: ColoredMNISTOptions, part: str, n: int) -> tuple[NDArray[np.str_], NDArray[np.int64]]:
    """The split and the domain of the first `n` items, the same for those that a smaller `n` has."""
    if part != "train":
        return np.full(n, "test"), np.full(n, len(options.train_flips))
    steps = np.floor(np.arange(n + 1) * options.validation + 1e-9)
    held_out = np.diff(steps) > 0
    if held_out.all() or (options.validation and not held_out.any()):
        raise DataError(
            "too few items to deal to train and val", got=n, remedy="raise limit, or set validation to 0"
        )
    turn = np.where(held_out, held_out.cumsum(), (~held_out).cumsum()) - 1
    return np.where(held_out, "val", "train"), turn % len(options.train_flips)


def label_names(options: ColoredMNISTOptions, classes: NDArray[np.uint8]) -> tuple[str, str]:
    """The classes of label 0 and of label 1 in words, such as ``("0-4", "5-9")``."""
    present = set(classes.tolist())
    return class_range(present - set(options.classes)), class_range(present & set(options.classes))


def class_range(classes: set[int]) -> str:
    """Numbers in words, runs of them shortened.

    Examples
    --------
    >>> class_range({0, 1, 2, 5, 7, 8})
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for number in sorted(classes):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
