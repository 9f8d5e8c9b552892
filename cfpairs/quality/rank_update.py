"""Sums of outer products that grow in place, on many threads at once.

NumPy's product of a matrix with its transpose makes a new matrix, fills its lower half and leaves it to be
added, which costs a tenth of the product for blocks of a thousand rows. SciPy's wrapper of BLAS' rank-k
update does neither, but holds every other thread. So the update is called by the pointer that SciPy keeps
for compiled code, where it has the expected arguments, and NumPy does the work elsewhere.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cython_blas

__all__ = ["add_products", "fill_lower"]

Floats = NDArray[np.float64]

_ARGUMENTS = ("char", "char", "int", "int", "_d", "_d", "int", "_d", "_d", "int")
_STRIP = 96  # columns whose mirror image stays in the cache


@cache
def _dsyrk() -> Callable[..., None] | None:
    """BLAS' dsyrk, which runs without the interpreter's lock; None where SciPy offers another function."""
    capsule = getattr(cython_blas, "__pyx_capi__", {}).get("dsyrk")
    if capsule is None:
        return None
    name_of, pointer_of = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    name_of.restype, name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
    pointer_of.restype, pointer_of.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    name = name_of(capsule) or b""
    if not _is_expected(name.decode()):
        return None
    return ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(_ARGUMENTS))(pointer_of(capsule, name))


def _is_expected(signature: str) -> bool:
    """Whether a C signature is that of dsyrk with 32-bit integers."""
    head, _, inside = signature.partition(" (")
    given = [argument.removesuffix(" *") for argument in inside.removesuffix(")").split(", ")]
    return (
        head == "void"
        and len(given) == len(_ARGUMENTS)
        and all(
            got.endswith(wanted) if wanted == "_d" else got == wanted
            for got, wanted in zip(given, _ARGUMENTS, strict=True)
        )
    )


def add_products(total: Floats, rows: Floats) -> None:
    """Add ``rows^T rows`` to the diagonal of `total` and what is above it.

    Parameters
    ----------
    total : ndarray of shape (d, d)
        In C order. What is below the diagonal is worth nothing afterwards; see `fill_lower`.
    rows : ndarray of shape (k, d)
        Finite.

    Examples
    --------
    >>> total = np.zeros((2, 2))
    >>> add_products(total, np.array([[1.0, 2.0], [0.0, 3.0]]))
    >>> fill_lower(total)
    >>> total.tolist()
    [[1.0, 2.0], [2.0, 13.0]]
    """
    update, rows = _dsyrk(), np.ascontiguousarray(rows, dtype=np.float64)
    plain = total.flags.c_contiguous and total.dtype == np.float64 and total.shape == 2 * rows.shape[1:]
    if update is None or not plain:  # BLAS would write over what it was not given
        total += rows.T @ rows
        return
    k, d = rows.shape
    if k == 0:
        return
    # Rows in C order are the columns of BLAS' matrix, and its lower half is our upper one.
    arguments: list[Any] = [
        ctypes.c_char(b"L"),
        ctypes.c_char(b"N"),
        ctypes.c_int(d),
        ctypes.c_int(k),
        ctypes.c_double(1.0),
        rows,
        ctypes.c_int(d),
        ctypes.c_double(1.0),
        total,
        ctypes.c_int(d),
    ]
    update(*(a.ctypes.data if isinstance(a, np.ndarray) else ctypes.addressof(a) for a in arguments))


def fill_lower(total: Floats) -> None:
    """Make a (d, d) matrix symmetric by what stands above its diagonal."""
    d = len(total)
    for start in range(0, d, _STRIP):
        stop = min(d, start + _STRIP)
        square = total[start:stop, start:stop]
        square[:] = np.triu(square) + np.triu(square, 1).T
        total[stop:, start:stop] = total[start:stop, stop:].T
