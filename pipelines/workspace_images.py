"""Images of a workspace and of its pairs, in memory, for networks that are trained whole."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cfpairs import CfpairsError, Workspace, load_manifest
from cfpairs.embedding.images import UnusableImageError, decode_rgb, read_file
from cfpairs.encoders.base import Preprocessing
from cfpairs.encoders.preprocessing import square_pixels
from cfpairs.tables import read_table

Pixels = NDArray[np.uint8]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Items:
    """Images (n, 3, side, side), labels (n,) from 0 on, and environments (n,)."""

    pixels: Pixels
    y: Ints
    env: Ints

    @property
    def group(self) -> Ints:
        """Number of each item's label and environment together, from 0 on."""
        _, number = np.unique(np.stack([self.y, self.env]), axis=1, return_inverse=True)
        return number.reshape(-1).astype(np.int64)


@dataclass(frozen=True)
class World:
    """The three parts of a data set and the images of its pairs, first and second sides."""

    train: Items
    val: Items
    test: Items
    first: Pixels
    second: Pixels

    @property
    def n_labels(self) -> int:
        """Labels are 0..n_labels-1."""
        return int(max(part.y.max() for part in (self.train, self.val, self.test))) + 1

    def digest(self) -> str:
        """Tells other images, labels, environments or pairs from these."""
        found = hashlib.sha256()
        for part in (self.train, self.val, self.test):
            for values in (part.pixels, part.y, part.env):
                found.update(values.tobytes())
        for side in (self.first, self.second):
            found.update(side.tobytes())
        return found.hexdigest()


def read_world(workspace: Workspace, pair_set: str, side: int, *, edits_in_training: bool) -> World:
    """Images of a workspace and of a pair set; those that cannot be read are left out and said on stderr.

    Raises
    ------
    CfpairsError
        If there is no manifest or no such pair set, or a part or the pair set has no image.
    """
    columns = ["item_id", "path", "split", "label", "env", "origin"]
    items = {row["item_id"]: row for row in load_manifest(workspace).select(columns).to_pylist()}
    pairs = read_table(workspace.pairs(pair_set), columns=["a_id", "b_id", "status"]).to_pylist()
    pairs = [(pair["a_id"], pair["b_id"]) for pair in pairs if pair["status"] == "ok"]
    edited = {b for _, b in pairs} if edits_in_training else set()
    parts = {
        name: [
            key
            for key, row in items.items()
            if row["split"] == name and (row["origin"] == "source" or key in edited)
        ]
        for name in ("train", "val", "test")
    }
    half = (0.5, 0.5, 0.5)
    how = Preprocessing(size=side, resize=side, interpolation="bicubic", mean=half, std=half)
    pixels: dict[str, Pixels] = {}
    wanted = dict.fromkeys(
        [key for part in parts.values() for key in part] + [key for pair in pairs for key in pair]
    )
    for key in wanted:
        try:
            pixels[key] = square_pixels(decode_rgb(read_file(workspace.file(items[key]["path"]))), how)
        except (UnusableImageError, KeyError):
            continue
    if len(wanted) > len(pixels):
        print(f"{len(wanted) - len(pixels)} of {len(wanted)} images cannot be read", file=sys.stderr)
    found = {}
    for name, keys in parts.items():
        there = [key for key in keys if key in pixels]
        if not there:
            raise CfpairsError(f"split {name!r} has no image", got=f"{len(keys)} items")
        found[name] = Items(
            np.stack([pixels[key] for key in there]),
            np.array([items[key]["label"] for key in there], np.int64),
            np.array([items[key]["env"] for key in there], np.int64),
        )
    whole = [pair for pair in pairs if pair[0] in pixels and pair[1] in pixels]
    if not whole:
        raise CfpairsError(f"pair set {pair_set!r} has no pair of images", got=f"{len(pairs)} pairs")
    sides = (np.stack([pixels[pair[at]] for pair in whole]) for at in (0, 1))
    return World(found["train"], found["val"], found["test"], *sides)
