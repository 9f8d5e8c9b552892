"""Which column of a table says what, and what its values stand for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from cfpairs.config import Strict
from cfpairs.errors import ConfigError, DataError
from cfpairs.registry import suggest

__all__ = [
    "COMMON_NAMES",
    "Columns",
    "Fractions",
    "Split",
    "codes",
    "find_columns",
    "hashed_splits",
    "splits_of",
]

Role = Literal["path", "label", "env", "split", "item_id", "mask", "subject"]
Split = Literal["train", "val", "test"]

COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "path": (
        *("path", "image_path", "img_path", "file_path", "filepath", "filename", "file_name", "file"),
        *("img_filename", "image_filename", "image_file", "image", "img"),
    ),
    "label": (
        *("label_name", "label", "labels", "y", "target", "class", "class_name", "category", "diagnosis"),
    ),
    "env": (
        *("env_name", "env", "environment", "place", "domain", "background", "scanner", "hospital", "site"),
        *("center", "centre", "location", "context", "confounder", "group"),
    ),
    "split": ("split", "set", "fold", "partition", "subset"),
    "item_id": ("item_id", "id", "image_id", "img_id", "sample_id", "uid", "key"),
    "mask": ("mask", "mask_path", "mask_file", "mask_filename", "segmentation"),
    "subject": ("subject", "subject_id", "patient", "patient_id", "individual", "individual_id"),
}
"""Names by which a column is found where the configuration does not name it, the likeliest first."""

SPLIT_WORDS: dict[str, Split] = {
    **dict.fromkeys(("train", "training", "tr", "0"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "1"), "val"),
    **dict.fromkeys(("test", "testing", "te", "2"), "test"),
}


class Columns(Strict):
    """The table's columns; unset: found by a common name, empty text: there is none."""

    path: str | None = None
    label: str | None = None
    env: str | None = None
    split: str | None = None
    item_id: str | None = None
    mask: str | None = None
    subject: str | None = None


class Fractions(Strict):
    """Shares of the splits of a table that has none."""

    train: Annotated[float, Field(gt=0, lt=1)] = 0.6
    val: Annotated[float, Field(ge=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3

    @model_validator(mode="after")
    def _sum_to_one(self) -> Fractions:
        if abs(self.train + self.val + self.test - 1) > 1e-6:
            raise ValueError(f"fractions sum to {self.train + self.val + self.test:g}, not 1")
        return self


def find_columns(names: Sequence[str], chosen: Columns, shown: str) -> dict[str, str]:
    """The column of every role that the table has.

    Parameters
    ----------
    names : sequence of str
        Columns of the table.
    chosen : Columns
    shown : str
        The table's name in messages.

    Raises
    ------
    ConfigError
        If a column that is named is not there, there is none for the label or the environment, or one
        column would be both.
    """
    by_name: dict[str, str] = {}
    for name in names:
        by_name.setdefault(_plain(name), name)
    found: dict[str, str] = {}
    for role, common in COMMON_NAMES.items():
        name = getattr(chosen, role)
        if name:
            if name not in names:
                raise ConfigError(
                    f"the table {shown} has no column {name!r} for the {_WORDS[role]}",
                    got=_listed(names),
                    expected=suggest(name, tuple(names)),
                    remedy=_set(role),
                )
            found[role] = name
        elif name is None:
            match = next((by_name[c] for c in common if c in by_name), None)
            if match is not None and match not in (chosen.label, chosen.env):
                found[role] = match
    for role in ("label", "env"):
        if role not in found:
            raise ConfigError(
                f"the table {shown} has no column that looks like the {_WORDS[role]}",
                got=f"{_listed(names)} ({_found(found)})",
                expected="a column named " + ", ".join(COMMON_NAMES[role]),
                remedy=_set(role),
            )
    if found["label"] == found["env"]:
        raise ConfigError(
            "label and environment are one column", got=repr(found["label"]), remedy=_set("env")
        )
    return found


_WORDS = {
    "path": "image's path",
    "label": "label",
    "env": "environment",
    "split": "split",
    "item_id": "item id",
    "mask": "mask",
    "subject": "subject",
}


def _plain(name: str) -> str:
    return re.sub(r"[\s.-]+", "_", name.strip().casefold())


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:20]))
    return f"columns {shown}" + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _found(found: Mapping[str, str]) -> str:
    return (
        "found " + ", ".join(f"{role}: {name!r}" for role, name in found.items()) if found else "found none"
    )


def _set(role: str) -> str:
    return f"name it with --set columns.{role}=COLUMN (data.options.columns.{role} in the configuration)"


def codes(values: Sequence[str]) -> tuple[list[int], list[str]]:
    """Numbers for names: by order of the name, or of the number where all names are whole numbers.

    Returns
    -------
    list of int
        The number of each value, from 0.
    list of str
        Names in order of their numbers.

    Examples
    --------
    >>> codes(["10", "9", "10"])
    ([1, 0, 1], ['9', '10'])
    """
    names = sorted(set(values))
    if all(re.fullmatch(r"[+-]?\d{1,18}", name) for name in names):
        names.sort(key=lambda name: (int(name), name))
    number = {name: i for i, name in enumerate(names)}
    return [number[value] for value in values], names


def splits_of(values: Sequence[str], words: Mapping[str, Split]) -> list[Split]:
    """Splits that a table names.

    Parameters
    ----------
    values : sequence of str
    words : mapping of str to str
        What a value means; other values are known words: train, val, valid, validation, dev, test, 0-2.

    Raises
    ------
    DataError
        If a value is none of them; all such values are listed.
    """
    known: dict[str, Split] = {
        value: words.get(value) or SPLIT_WORDS.get(value.casefold(), "train")
        for value in set(values)
        if value in words or value.casefold() in SPLIT_WORDS
    }
    unknown = sorted(set(values) - known.keys())
    if unknown:
        raise DataError(
            "the split column has values that are no split",
            got=", ".join(map(repr, unknown[:8])) + (" and others" if len(unknown) > 8 else ""),
            expected="train, val or test",
            remedy=f"say what they mean: --set splits.{unknown[0]}=test, or --set columns.split= for none",
        )
    return [known[value] for value in values]


def hashed_splits(keys: Sequence[str], fractions: Fractions) -> list[Split]:
    """A split for each key by a hash of it: the same key is always in the same split, whatever the others.

    Examples
    --------
    >>> hashed_splits(["c", "d", "c"], Fractions())
    ['train', 'test', 'train']
    """
    return [_hashed_split(key, fractions) for key in keys]


def _hashed_split(key: str, fractions: Fractions) -> Split:
    digest = hashlib.blake2b(key.encode(errors="surrogatepass"), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    if share < fractions.train:
        return "train"
    return "val" if share < fractions.train + fractions.val else "test"
