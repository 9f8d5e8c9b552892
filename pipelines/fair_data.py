"""A table of people as numbers: columns by the configuration, rows of training and test."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from cfpairs import CfpairsError
from cfpairs.config import Strict

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]
Ints = NDArray[np.int64]

FEWEST = 40
"""Rows, below which there is nothing to split."""


class Attribute(Strict):
    """A column to be told, and its cells' values, if several mean the same."""

    column: str
    values: Mapping[str, str] | None = None


class Study(Strict):
    """The table's columns, the encoder, and the networks that judge it."""

    names: tuple[str, ...] | None = None
    separator: str = Field(default=",", min_length=1)
    comment: str | None = Field(default=None, min_length=1, max_length=1)
    missing: str = "?"
    target: Attribute
    sensitive: Attribute
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    test_share: float = Field(gt=0, lt=1)
    runs: PositiveInt
    weights: tuple[NonNegativeFloat, ...] = Field(min_length=1)
    hidden: tuple[PositiveInt, ...]
    features: PositiveInt
    epochs: PositiveInt
    batch: int = Field(ge=4)
    rate: PositiveFloat
    decay: NonNegativeFloat
    judge_hidden: tuple[PositiveInt, ...]
    target_epochs: PositiveInt
    adversary_epochs: PositiveInt
    judge_rate: PositiveFloat
    judge_decay: NonNegativeFloat


@dataclass(frozen=True)
class Part:
    """Inputs (n, d), target (n,) of 0 and 1, and the sensitive attribute (n,) of 0, 1, ..."""

    X: Array
    y: Ints
    s: Ints


def read_table(path: Path, study: Study) -> pd.DataFrame:
    """The used columns as text, rows with a missing cell left out.

    Raises
    ------
    CfpairsError
        If the file cannot be read, is empty, or lacks a column.
    """
    import pandas as pd

    try:
        found = pd.read_csv(
            path, sep=study.separator, names=study.names, header=None if study.names else 0,
            comment=study.comment, dtype=str, keep_default_na=False, skipinitialspace=True, index_col=False,
            encoding="utf-8-sig",
        )  # fmt: skip
    except pd.errors.EmptyDataError as error:
        raise CfpairsError(f"{path} is empty", expected="a table of text") from error
    except (OSError, ValueError, csv.Error) as error:
        said = str(error).strip().splitlines()
        raise CfpairsError(
            f"{path} cannot be read as a table", got=said[0] if said else type(error).__name__
        ) from error
    used = list(
        dict.fromkeys([study.target.column, study.sensitive.column, *study.numeric, *study.categorical])
    )
    gone = [name for name in used if name not in found.columns]
    if gone:
        raise CfpairsError(
            f"{path} has no column {gone[0]!r}",
            got=", ".join(map(str, found.columns[:20])),
            remedy="set names, target, sensitive, numeric and categorical in the configuration",
        )
    # A row that is too short has nothing in its last columns.
    found = found[used].fillna("").apply(lambda column: column.str.strip())
    whole = ~found.isin(["", study.missing]).any(axis=1)
    table: pd.DataFrame = found[whole].reset_index(drop=True)
    return table


def classes_of(table: pd.DataFrame, attribute: Attribute) -> list[str]:
    """What each row's cell means."""
    cells: list[str] = table[attribute.column].tolist()
    values = attribute.values
    if values is None:
        return cells
    unknown = sorted(set(cells) - set(values))
    if unknown:
        raise CfpairsError(
            f"column {attribute.column!r} has a value that the configuration does not name",
            got=repr(unknown[0]), expected=", ".join(values),
        )  # fmt: skip
    return [values[cell] for cell in cells]


def numbers_of(table: pd.DataFrame, name: str) -> Array:
    """A numeric column."""
    import pandas as pd

    values = pd.to_numeric(table[name], errors="coerce").to_numpy(float)
    if not np.isfinite(values).all():
        wrong = table[name].iloc[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise CfpairsError(
            f"column {name!r} is not numeric", got=repr(wrong),
            remedy="list it under categorical, or set names to null if the first line names the columns",
        )  # fmt: skip
    return values


def split(table: pd.DataFrame, other: pd.DataFrame | None, study: Study, run: int) -> tuple[Part, Part]:
    """Training and test rows; `other` is the test file, without which the run draws `study.test_share`."""
    import pandas as pd

    if study.target.column in (*study.numeric, *study.categorical):
        raise CfpairsError("the target is among the inputs", got=study.target.column)
    every = table if other is None else pd.concat([table, other], ignore_index=True)
    if len(every) < FEWEST:
        raise CfpairsError("the table has too few whole rows", got=len(every), expected=f"{FEWEST} or more")
    codes = []
    for attribute, most in ((study.target, 2), (study.sensitive, len(every))):
        names, code = np.unique(classes_of(every, attribute), return_inverse=True)
        if not 2 <= len(names) <= most:
            wanted = "2 classes" if most == 2 else "2 classes or more"
            raise CfpairsError(
                f"column {attribute.column!r} cannot be told apart",
                got=f"{len(names)}: {', '.join(names[:5])}", expected=wanted,
                remedy="name what its values mean under values",
            )  # fmt: skip
        codes.append(code.astype(np.int64))
    if other is None:
        order = np.random.default_rng([run, 0]).permutation(len(every))
        n_test = max(1, round(study.test_share * len(every)))
        test, train = order[:n_test], order[n_test:]
    else:
        train, test = np.split(np.arange(len(every)), [len(table)])
    if min(len(train), len(test)) == 0 or any(len(set(code[train])) < code.max() + 1 for code in codes):
        raise CfpairsError(
            "a part has no rows, or training lacks a class", got=f"{len(train)} and {len(test)}"
        )
    X = _inputs(every, study, train)
    return Part(X[train], codes[0][train], codes[1][train]), Part(X[test], codes[0][test], codes[1][test])


def _inputs(every: pd.DataFrame, study: Study, train: Ints) -> Array:
    """Numbers in standard deviations of the training rows, and a column of 0 and 1 a category of theirs."""
    parts = []
    for name in study.numeric:
        values = numbers_of(every, name)
        spread = values[train].std()
        parts.append((values - values[train].mean())[:, None] / (spread if spread > 0 else 1.0))
    for name in study.categorical:
        cells = every[name].to_numpy()
        parts.append((cells[:, None] == np.unique(cells[train].astype(str))).astype(float))
    if not parts:
        raise CfpairsError("no column is an input", expected="names under numeric or categorical")
    return np.concatenate(parts, axis=1)
