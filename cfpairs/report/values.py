"""Numbers that may be absent: read them safely, write them alike everywhere."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

__all__ = [
    "as_float",
    "as_floats",
    "as_int",
    "as_mapping",
    "as_rows",
    "count",
    "distance",
    "jsonable",
    "number",
    "params_of",
    "per_cent",
    "range_text",
    "share",
]

ABSENT = "n/a"
"""What stands where a number is not available."""


def as_float(value: object) -> float | None:
    """`value` as a finite float; None for anything else (None, nan, infinity, text, a truth value).

    Examples
    --------
    >>> as_float(1), as_float(float("nan")), as_float("x")
    (1.0, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def as_int(value: object) -> int | None:
    """`value` as a whole number; None where `as_float` gives None."""
    number = as_float(value)
    return None if number is None else round(number)


def as_floats(values: object) -> tuple[float, ...]:
    """The finite numbers of a sequence, in order; empty for anything that is no sequence."""
    if values is None or isinstance(values, (str, bytes, Mapping)) or not isinstance(values, Iterable):
        return ()
    return tuple(v for v in map(as_float, values) if v is not None)


def as_mapping(value: object) -> Mapping[str, Any]:
    """`value` if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def as_rows(value: object) -> tuple[Mapping[str, Any], ...]:
    """The mappings of a sequence; empty for anything that is no sequence."""
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return ()
    return tuple(row for row in value if isinstance(row, Mapping))


def params_of(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """The hyperparameters of a result or a fit, as a mapping or as JSON; empty where they cannot be read.

    Examples
    --------
    >>> params_of({"params": '{"lambda": 2}'}), params_of({"params": "?"}), params_of({})
    ({'lambda': 2}, {}, {})
    """
    params = row.get("params")
    if isinstance(params, str):
        try:
            params = json.loads(params)
        except ValueError:
            return {}
    return as_mapping(params)


def share(value: float | None) -> str:
    """A share of 1 in per cent with one decimal and no sign, for columns headed with "%".

    Examples
    --------
    >>> share(0.70312), share(None)
    ('70.3', 'n/a')
    """
    if value is None:
        return ABSENT
    text = f"{100 * value:.1f}"
    return "0.0" if text == "-0.0" else text


def per_cent(value: float | None) -> str:
    """A share of 1 in per cent, with the sign: accuracies are written like this everywhere.

    Examples
    --------
    >>> per_cent(0.092), per_cent(None)
    ('9.2 %', 'n/a')
    """
    return ABSENT if value is None else f"{share(value)} %"


def range_text(low: float | None, high: float | None) -> str:
    """Both ends of an interval of shares, in per cent without the sign; empty if one is absent.

    Examples
    --------
    >>> range_text(0.661, 0.742)
    '66.1 to 74.2'
    """
    return "" if low is None or high is None else f"{share(low)} to {share(high)}"


def distance(value: float | None) -> str:
    """A distance or cosine from 0 to 1, with two decimals."""
    return ABSENT if value is None else f"{value:.2f}"


def number(value: float | None, digits: int = 3) -> str:
    """A number of any size, to `digits` significant digits.

    Examples
    --------
    >>> number(1234.5), number(0.00012), number(4.0), number(240.0)
    ('1234', '0.00012', '4', '240')
    """
    if value is None:
        return ABSENT
    if abs(value) >= 10 ** (digits - 1) and abs(value) < 1e7:
        return f"{value:.0f}"
    return f"{value:.{digits}g}"


def count(value: int | None) -> str:
    """A whole number with thousands set apart.

    Examples
    --------
    >>> count(12345)
    '12,345'
    """
    return ABSENT if value is None else f"{value:,}"


def jsonable(value: Any) -> Any:
    """`value` with only what JSON can hold; nan and infinity become None, unknown objects their text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(inner) for key, inner in value.items()}
    if isinstance(value, (str, bool)) or value is None:
        return value
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return jsonable(value.tolist())
    if isinstance(value, int):
        return value
    if isinstance(value, Real):
        return as_float(value)
    if isinstance(value, (set, frozenset)):
        return [jsonable(inner) for inner in sorted(value, key=str)]
    if isinstance(value, Iterable) and not isinstance(value, (bytes, bytearray)):
        return [jsonable(inner) for inner in value]
    return str(value)
