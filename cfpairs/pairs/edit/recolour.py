"""The `recolour` editor: a red image becomes green and a green one red, exactly."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from cfpairs.config import Strict, check_options
from cfpairs.errors import DataError
from cfpairs.pairs.edit.base import EditPlan, EditRejectedError, EditScene, EditTask
from cfpairs.pairs.edit.pixels import decode_image, read_file
from cfpairs.workspace import Workspace

__all__ = ["RecolourEditor", "RecolourOptions", "colour_of", "recolour"]

COLOURS = ("red", "green")
"""Names of the environments that it moves items between; the place of a name is its channel."""


class RecolourOptions(Strict):
    """Settings of `RecolourEditor`: there are none."""


class RecolourEditor:
    """Draw a red item in green, or a green one in red.

    Parameters
    ----------
    options : RecolourOptions

    Notes
    -----
    A coloured digit (Arjovsky et al. 2019) is a grey image in one channel, with the others black. Its
    counterfactual is the same grey image in the other channel: what the data set would have drawn, bit for
    bit, had it chosen the other colour. Nothing is estimated, so such pairs have no error.
    """

    Options: ClassVar[type[BaseModel]] = RecolourOptions
    version: ClassVar[int] = 1
    summary: ClassVar[str] = (
        "The same strokes in the other colour: the red and the green channel change places."
    )
    limits: ClassVar[tuple[str, ...]] = (
        "only for images whose strokes are all red or all green on black, as preset colored-mnist draws them",
    )
    threaded: ClassVar[bool] = True

    def __init__(self, options: BaseModel) -> None:
        self.options = check_options(RecolourOptions, options)
        self._workspace: Workspace | None = None
        self._channels: dict[int, int] = {}

    @property
    def batch_size(self) -> int:
        """One plan at a time."""
        return 1

    def open(self, scene: EditScene) -> frozenset[int]:
        """Find which environment is red and which is green.

        Raises
        ------
        DataError
            If the environments are other than these two.
        """
        channels = {env: COLOURS.index(name) for env, name in scene.env_names.items() if name in COLOURS}
        if len(channels) != len(scene.env_names) or sorted(channels.values()) != [0, 1]:
            raise DataError(
                "the recolour editor needs the environments red and green",
                got=", ".join(scene.env_names[env] for env in sorted(scene.env_names)),
                remedy="use preset colored-mnist with environment: colour, or another editor",
            )
        self._workspace, self._channels = scene.workspace, channels
        return frozenset(channels)

    def plan(self, task: EditTask) -> EditPlan:
        """Read the image and make sure that it has one colour, that of its environment."""
        if self._workspace is None:
            raise DataError("the editor has not been opened", remedy="call open() first")
        content = read_file(self._workspace.file(task.item["path"]), "image")
        image = decode_image(content, "image")
        found = colour_of(image)
        if found is None:
            raise EditRejectedError("the image is not all red or all green on black")
        if found != self._channels[task.item["env"]]:
            raise EditRejectedError(f"the image is {COLOURS[found]}, its environment is {COLOURS[1 - found]}")
        return EditPlan(source=image, key=(hashlib.sha256(content).hexdigest(),))

    def edit(self, plans: Sequence[EditPlan]) -> list[NDArray[np.uint8] | EditRejectedError]:
        """The images in the other colour."""
        return [recolour(plan.source) for plan in plans]

    def close(self) -> None:
        """Forget the scene."""
        self._workspace, self._channels = None, {}


def colour_of(image: NDArray[np.uint8]) -> int | None:
    """The only channel, red (0) or green (1), that is not black everywhere; None if there is no such one.

    Parameters
    ----------
    image : ndarray of uint8, shape (height, width, 3)
    """
    lit = np.asarray(image.any(axis=(0, 1)))
    return int(lit[1]) if lit[0] != lit[1] and not lit[2] else None


def recolour(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`image` (height, width, 3) with its red and green channels in each other's place.

    Examples
    --------
    >>> recolour(np.array([[[9, 0, 0]]], np.uint8)).tolist()
    [[[0, 9, 0]]]
    """
    return np.ascontiguousarray(image[:, :, [1, 0, 2]])
