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
_by_thread: Any = None


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS with one thread until the last of all that ask for it at a time has left.

    The limit is the process's: if everyone restored what he found, two threads that overlap would leave BLAS
    at one thread for ever, or take the limit from each other. An OpenBLAS that uses OpenMP has a limit for
    each thread, which is set and restored there. Libraries that are loaded meanwhile keep their threads.
    """
    global _inside, _limit, _by_thread
    with _lock:
        if _inside == 0:
            blas = threadpoolctl.ThreadpoolController().select(user_api="blas")
            _by_thread = blas.select(internal_api="openblas").select(threading_layer="openmp")
            apart = {library.filepath for library in _by_thread.lib_controllers}
            shared = [one.filepath for one in blas.lib_controllers if one.filepath not in apart]
            _let_any_thread_set()
            _limit = blas.select(filepath=shared).limit(limits=1)
        _inside += 1
        own = _by_thread.limit(limits=1)
    try:
        yield
    finally:
        own.restore_original_limits()
        with _lock:
            _inside -= 1
            if _inside == 0:
                _let_any_thread_set()
                _limit.restore_original_limits()
                _limit = _by_thread = None
                _let_any_thread_set()


def _let_any_thread_set() -> None:
    """Since version 3.8 threadpoolctl obeys only the thread that set a limit; here any may be the last."""
    clear = getattr(threadpoolctl.OpenBLASController, "clear_controlling_thread", None)
    if clear is not None:
        clear(force=True)
