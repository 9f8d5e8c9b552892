"""Photographs that travel inside scikit-image, and seeded crops of them.

Each photograph is cut into one region a split, so that no pixel of a background is seen both in training
and in testing. The photographs are grey; a light tint gives each its usual colour back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cfpairs.errors import DataError

__all__ = ["PHOTOGRAPHS", "REGIONS", "Photograph", "crop_background", "load_photograph"]

Turns = Literal[1, 4]

SIDE = 512
"""Every photograph is this many pixels wide and high."""

Box = tuple[int, int, int, int]

REGIONS: Mapping[str, tuple[Box, ...]] = {
    "train": ((0, 0, 171, SIDE), (341, 0, SIDE, SIDE)),
    "val": ((171, 0, 341, 170),),
    "test": ((171, 170, 341, SIDE),),
}
"""Left, top, right, bottom of the parts of each photograph that a split may use; they do not overlap.

Validation and test lie between the two parts of train, so that the slant of the brick wall, say, is no other
in test than in train.
"""

CROP_SIDES = (100, 164)
"""Smallest and largest side of a crop in pixels of the photograph."""

BRIGHTNESS = (95.0, 150.0)


@dataclass(frozen=True)
class Photograph:
    """One photograph of a surface.

    Attributes
    ----------
    name : str
    tint : tuple of float
        Red, green and blue factors of the surface's usual colour.
    contrast : float
        How much of the photograph's contrast is kept: the bright joints of a wall would cross out a digit.
    turns : {1, 4}
        4 if a crop may be turned by quarter turns: the surface has no upright direction.
    """

    name: str
    tint: tuple[float, float, float]
    contrast: float
    turns: Turns


PHOTOGRAPHS: Mapping[str, Photograph] = {
    "grass": Photograph("grass", (0.80, 1.04, 0.58), 0.8, 4),
    "gravel": Photograph("gravel", (1.06, 0.99, 0.88), 0.8, 4),
    "brick": Photograph("brick", (1.16, 0.90, 0.80), 0.48, 1),
}


def photograph_path(name: str) -> Path:
    """Where scikit-image keeps a photograph; the file may be absent."""
    spec = find_spec("skimage")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0] if places else "skimage") / "data" / f"{name}.png"


@cache
def load_photograph(path: Path) -> NDArray[np.float32]:
    """Grey values 0..255 of one photograph, shape (512, 512); read-only.

    Raises
    ------
    DataError
        If the file is missing, unreadable or of another size.
    """
    remedy = "reinstall scikit-image, which brings it: pip install --force-reinstall scikit-image"
    try:
        with Image.open(path) as image:
            grey = np.asarray(image.convert("L"), np.float32)
    except FileNotFoundError as error:
        raise DataError("a photograph is missing", got=f"no file {path}", remedy=remedy) from error
    except (OSError, SyntaxError) as error:
        raise DataError(f"the photograph {path} cannot be read", got=error, remedy=remedy) from error
    if grey.shape != (SIDE, SIDE):
        raise DataError(
            f"the photograph {path} has another size",
            got=f"{grey.shape[1]} x {grey.shape[0]}",
            expected=f"{SIDE} x {SIDE}",
            remedy=remedy,
        )
    grey.flags.writeable = False
    return grey


def crop_background(
    photograph: Photograph, split: str, size: int, tint: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """A random crop as a background.

    Parameters
    ----------
    photograph : Photograph
    split : {"train", "val", "test"}
        Whose region the crop lies in.
    size : int
        Side of the result in pixels.
    tint : float
        0 leaves the crop grey, 1 gives it its full colour.
    rng : numpy.random.Generator
        Decides place, scale, turn, mirror, brightness, contrast and strength of tint.

    Returns
    -------
    ndarray of shape (size, size, 3)
        Red, green, blue in 0..255; values may lie a little outside.
    """
    import cv2

    boxes = REGIONS[split]
    left, top, right, bottom = boxes[int(rng.integers(len(boxes)))]
    side = int(rng.integers(CROP_SIDES[0], CROP_SIDES[1] + 1))
    x = int(rng.integers(left, right - side + 1))
    y = int(rng.integers(top, bottom - side + 1))
    grey = load_photograph(photograph_path(photograph.name))[y : y + side, x : x + side]
    grey = np.rot90(grey, int(rng.integers(photograph.turns)))
    if rng.integers(2):
        grey = grey[:, ::-1]
    way = cv2.INTER_CUBIC if side < size else cv2.INTER_AREA
    grey = cv2.resize(np.ascontiguousarray(grey), (size, size), interpolation=way).astype(np.float32)
    grey = (grey - grey.mean()) * (photograph.contrast * rng.uniform(0.85, 1.15)) + rng.uniform(*BRIGHTNESS)
    colour = 1 + tint * rng.uniform(0.7, 1.3) * (np.asarray(photograph.tint) - 1)
    return np.asarray(grey[:, :, None] * colour, np.float32)
