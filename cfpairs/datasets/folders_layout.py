"""How folders of images are read: which is an environment, which a class, and in which split an image is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cfpairs.config import Strict
from cfpairs.datasets.walk import IMAGE_EXTENSIONS, Listing, natural_key
from cfpairs.errors import ConfigError, DataError
from cfpairs.registry import suggest
from cfpairs.tables import fingerprint

__all__ = ["SOURCE", "FoldersOptions", "Found", "find_images", "split_of"]

SOURCE = (
    "PACS, VLCS, OfficeHome and TerraIncognita come so laid out from DomainBed's download script; pass the "
    "folder that holds the domains as --root"
)
SHOWN = 4
Share = Annotated[float, Field(gt=0, lt=1)]


class FoldersOptions(Strict):
    """Settings of the ``folders`` data set."""

    layout: Literal["domain/class", "class/domain"] = "domain/class"
    test_env: tuple[str, ...] | None = Field(
        default=None,
        description="the environment, or several, whose items are split test; default: a share of all items",
    )
    val: Share = Field(default=0.2, description="share of validation items, test environments left aside")
    test: Share = Field(default=0.2, description="share of test items; not used with test_env")
    split_seed: Annotated[int, Field(ge=0)] = Field(default=0, description="another number, other splits")
    envs: tuple[str, ...] | None = Field(default=None, description="environments to use; default: all")
    classes: tuple[str, ...] | None = Field(default=None, description="classes to use; default: all")
    subject: str | None = Field(
        default=None,
        description="regular expression for paths below the class folder: its first group, or all that it "
        "finds, is the subject; the items of one subject are in one split",
    )
    extensions: tuple[str, ...] = Field(default=IMAGE_EXTENSIONS, description="endings of image files")
    masks: str | None = Field(
        default=None,
        description="folder of masks in the same tree, relative to the root; default: masks, if it is there",
    )
    links_out: bool = Field(default=False, description="whether links may lead out of the root")

    @field_validator("test_env", "envs", "classes", "extensions", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("test_env", "envs", "classes", "extensions")
    @classmethod
    def _not_empty(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and not value:
            raise ValueError("names nothing")
        return value

    @field_validator("extensions")
    @classmethod
    def _dotted(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted({"." + ending.lower().lstrip(".") for ending in value}))

    @field_validator("subject")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value

    @model_validator(mode="after")
    def _leaves_training_items(self) -> FoldersOptions:
        if self.test_env is None and self.val + self.test >= 1:
            raise ValueError("val and test together leave nothing to train on")
        return self


@dataclass(frozen=True, slots=True)
class Found:
    """One image and where it belongs.

    Attributes
    ----------
    relative : str
        Its path from the root.
    env, label : str
        Names of its environment and its class.
    subject : str or None
        Its class and what the option ``subject`` finds in its name.
    """

    relative: str
    env: str
    label: str
    subject: str | None = None


def find_images(root: Path, listing: Listing, options: FoldersOptions) -> tuple[list[Found], list[str]]:
    """The images of the environments and classes that are wanted, and lines about what is odd.

    Raises
    ------
    DataError
        If no image lies two folders deep, or fewer than two environments or classes are left.
    ConfigError
        If the options name an environment or a class that is not there.
    """
    everything = []
    for file in listing.files:
        parts = file.relative.split("/", 2)
        if len(parts) == 3:
            env, label = parts[:2] if options.layout == "domain/class" else parts[1::-1]
            everything.append(Found(file.relative, env, label, _subject(options, label, parts[2])))
    if not everything:
        raise _not_laid_out(root, listing, options)
    envs = _chosen("envs", options.envs, {f.env for f in everything})
    labels = _chosen("classes", options.classes, {f.label for f in everything})
    found = [f for f in everything if f.env in envs and f.label in labels]
    _check(root, found, options)
    return found, _odd_notes(listing, len(everything))


def split_of(item: Found, options: FoldersOptions) -> str:
    """The split of an image; it depends on no other image."""
    if options.test_env is not None and item.env in options.test_env:
        return "test"
    key = ("path", item.relative) if item.subject is None else ("subject", item.subject)
    place = int(fingerprint(options.split_seed, *key), 16) / 16**16
    test = 0.0 if options.test_env is not None else options.test
    return "test" if place < test else "val" if place < test + options.val else "train"


def _subject(options: FoldersOptions, label: str, name: str) -> str | None:
    match = re.search(options.subject, name) if options.subject is not None else None
    if match is None:
        return None
    text = match.group(1) if match.re.groups else match.group()
    return f"{label}/{text}" if text else None


def _check(root: Path, found: Sequence[Found], options: FoldersOptions) -> None:
    envs = {f.env for f in found}
    for names, what in ((envs, "environment"), ({f.label for f in found}, "class")):
        if len(names) < 2:
            raise DataError(
                f"folders needs two {'classes' if what == 'class' else 'environments'} or more",
                got=f"one, {next(iter(names))!r}" if names else "no image of the envs and classes wanted",
                expected=f"{root}/{options.layout}/image",
                remedy=f"if the domains lie in {root / min(envs)}, pass that as --root"
                if len(envs) == 1
                else "check data.root and data.options",
            )
    if options.test_env is not None:
        left = envs - _chosen("test_env", options.test_env, envs)
        if len(left) < 2:
            raise DataError(
                "test_env leaves fewer than two environments to train on",
                got=", ".join(left) or "none",
                expected="two or more, for pairs across environments",
                remedy="hold out fewer",
            )


def _chosen(option: str, wanted: Sequence[str] | None, known: set[str]) -> set[str]:
    if wanted is None:
        return known
    for name in wanted:
        if name not in known:
            raise ConfigError(
                f"data.options.{option} names a folder that is not there",
                got=repr(name),
                expected=suggest(name, tuple(known)),
            )
    return set(wanted)


def _not_laid_out(root: Path, listing: Listing, options: FoldersOptions) -> DataError:
    remedy = SOURCE
    if not listing.files:
        got = f"no image below {root} (endings {', '.join(options.extensions)})"
    elif all("/" not in file.relative for file in listing.files):
        got = f"{len(listing.files)} images directly in {root}"
    else:
        got = f"images one folder deep, such as {listing.files[0].relative!r}"
        remedy = "if these folders are the classes of one domain, pass the folder above as --root"
    return DataError(
        "the images are not laid out by domain and class",
        got=got,
        expected=f"{options.layout}/image",
        remedy=remedy,
    )


def _odd_notes(listing: Listing, used: int) -> list[str]:
    """Lines about folders without images, images outside the layout and names that no table can hold."""
    notes = []
    holding = {"/".join(f.relative.split("/")[:depth]) for f in listing.files for depth in (1, 2)}
    empty = sorted({f for f in listing.folders if f.count("/") < 2} - holding, key=natural_key)
    if empty:
        shown = ", ".join(map(repr, empty[:SHOWN])) + (" and others" if len(empty) > SHOWN else "")
        notes.append(f"folders without an image: {len(empty)}, {shown}")
    outside = len(listing.files) - used
    if outside:
        notes.append(f"images outside the class folders, left out: {outside}")
    if listing.unnameable:
        notes.append(f"images left out because their names are no valid Unicode: {listing.unnameable}")
    return notes
