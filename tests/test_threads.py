"""The limit on BLAS' threads where several ask for it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from cfpairs.threads import one_blas_thread

pytest.importorskip("faiss", reason="faiss is not installed")  # brings a BLAS with OpenMP's limits
assert np.dot(np.ones(2), np.ones(2)) == 2.0  # NumPy's own is loaded


def threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_the_limit_holds_until_the_last_has_left_and_no_longer() -> None:
    first_left, second_in = threading.Event(), threading.Event()
    seen: list[set[int]] = []

    def second() -> None:
        with one_blas_thread():
            second_in.set()
            assert first_left.wait(10)
            seen.append(threads())

    with threadpool_limits(limits=2, user_api="blas"):
        other = threading.Thread(target=second)
        with one_blas_thread():
            assert threads() == {1}
            other.start()
            assert second_in.wait(10)
        first_left.set()
        other.join()
        assert seen == [{1}]
        assert threads() == {2}
        with one_blas_thread(), one_blas_thread():
            pass
        assert threads() == {2}


def test_an_error_takes_the_limit_away() -> None:
    with threadpool_limits(limits=2, user_api="blas"):
        with pytest.raises(ValueError, match="no"), one_blas_thread():
            raise ValueError("no")
        assert threads() == {2}
