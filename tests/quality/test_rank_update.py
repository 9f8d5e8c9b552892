"""The rank-k update by BLAS against NumPy's product."""

from __future__ import annotations

import numpy as np
import pytest

from cfpairs.quality import rank_update
from cfpairs.quality.rank_update import add_products, fill_lower


@pytest.mark.parametrize("d", [1, 7, 96, 97, 250])
def test_sums_of_blocks_are_the_product_of_all_rows(d: int) -> None:
    rows = np.random.default_rng(d).normal(size=(300, d))
    total = np.zeros((d, d))
    for start in (0, 40, 41, 41):
        stop = {0: 40, 40: 41, 41: 300}[start]
        add_products(total, rows[start:stop])
    again = rows[41:]
    fill_lower(total)
    assert total == pytest.approx(rows.T @ rows + again.T @ again, rel=1e-12, abs=1e-12)
    assert np.array_equal(total, total.T)


def test_rows_may_lie_anywhere_in_memory() -> None:
    rows = np.random.default_rng(0).normal(size=(60, 30))
    for given in (rows[::2, ::3], np.asfortranarray(rows[::2, ::3]), rows[:0, ::3]):
        total = np.zeros((10, 10))
        add_products(total, given)
        fill_lower(total)
        assert total == pytest.approx(given.T @ given, abs=1e-12)


def test_without_the_pointer_numpy_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rank_update._dsyrk() is not None
    rows, total = np.random.default_rng(1).normal(size=(50, 8)), np.eye(8)
    monkeypatch.setattr(rank_update, "_dsyrk", lambda: None)
    add_products(total, rows)
    assert total == pytest.approx(np.eye(8) + rows.T @ rows)


@pytest.mark.parametrize(
    ("signature", "fits"),
    [
        ("void (char *, char *, int *, int *, x_d *, x_d *, int *, x_d *, x_d *, int *)", True),
        (
            "void (char *, char *, int64_t *, int64_t *, x_d *, x_d *, int64_t *, x_d *, x_d *, int64_t *)",
            False,
        ),
        ("void (char *, char *, int *, int *, x_s *, x_s *, int *, x_s *, x_s *, int *)", False),
        ("int (char *, char *, int *, int *, x_d *, x_d *, int *, x_d *, x_d *, int *)", False),
        ("", False),
    ],
)
def test_only_the_function_with_these_arguments_is_called(signature: str, fits: bool) -> None:
    assert rank_update._is_expected(signature) is fits
