"""One thread for BLAS, for work that has its own threads or processes or must not depend on the cores."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import threadpoolctl

__all__ = ["one_blas_thread"]

_lock = threading.Lock()
_inside = 0
_limit: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS with one thread until the last of all that ask for it at a time has left.

    The limit is the process's: if everyone restored what he found, two threads that overlap would leave BLAS
    at one thread for ever, or take the limit from each other. Libraries that are loaded meanwhile keep
    their threads.
    """
    global _inside, _limit
    with _lock:
        if _inside == 0:
            _let_any_thread_set()
            _limit = threadpoolctl.threadpool_limits(limits=1, user_api="blas")
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _let_any_thread_set()
                _limit.restore_original_limits()
                _limit = None
                _let_any_thread_set()


def _let_any_thread_set() -> None:
    """Since version 3.8 threadpoolctl obeys only the thread that set a limit; here any may be the last."""
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
