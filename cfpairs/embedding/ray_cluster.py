"""A Ray cluster for one run: joined, or started here and stopped again."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cfpairs.errors import CfpairsError, ConfigError, MissingDependencyError
from cfpairs.progress import SILENT, Progress

__all__ = ["Machine", "Pool", "cores_here", "explained", "machines", "on_cluster", "plan_pool"]

OBJECT_STORE_BYTES = 128 * 2**20
"""Lists of items and short answers are all that goes through it; Ray asks for 75 MiB at least."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anyone
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # else a lost worker prints a page to stdout, into the JSON there
    "RAY_SCHEDULER_EVENTS": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
}
_LOGGERS = ("ray", "ray.data")


@dataclass(frozen=True)
class Machine:
    """What one machine of the cluster has to give."""

    cpus: int
    gpus: int


@dataclass(frozen=True)
class Pool:
    """How many actors there are, and what each of them gets."""

    actors: int
    cpus: int
    gpus: int


@contextmanager
def on_cluster(address: str | None, progress: Progress = SILENT) -> Iterator[Any]:
    """The module ``ray``, connected.

    Parameters
    ----------
    address : str or None
        ``auto`` or ``HOST:PORT`` of a cluster that runs. None: the connection that this process has
        already, else a cluster on this machine alone, which is stopped at the end.

    Raises
    ------
    MissingDependencyError
        If Ray is not installed.
    ConfigError
        If there is no cluster at the address.
    CfpairsError
        If none can be started here.
    """
    if address is not None and address != "auto":
        _check_address(address)
    ray = _import_ray()
    if ray.is_initialized():
        if address is not None:
            raise ConfigError(
                "this process is connected to a Ray cluster already",
                got=f"address {address}",
                remedy="leave the address out",
            )
        yield ray
        return
    progress.say("starting Ray on this machine" if address is None else f"joining the Ray cluster {address}")
    with _quiet_loggers():
        try:
            with _signals_kept(), _quiet_stderr():
                _connect(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Knock first: Ray itself would wait for minutes for a cluster that is not there."""
    if address.startswith("ray://"):
        raise ConfigError(
            "Ray Data cannot be driven through Ray's client",
            got=f"address {address}",
            expected="auto or HOST:PORT",
            remedy="run the command on a machine of the cluster",
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigError(
            "the address of the Ray cluster cannot be read", got=repr(address), expected="auto or HOST:PORT"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ConfigError(
            f"there is no Ray cluster at {address}",
            got=error.strerror or str(error),
            remedy="start one with 'ray start --head'",
        ) from error


def _import_ray() -> Any:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # Ray reads them on import and hands them on to its processes
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError("Ray is not installed", remedy="pip install 'cfpairs[ray]'") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        quiet |= {"include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        quiet["num_cpus"] = cores_here()
    try:
        ray.init(address=address or "local", **quiet)
    except Exception as error:  # whatever the network or Ray's processes answer
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        if address is None:
            raise CfpairsError(
                "Ray cannot be started on this machine", got=reason, remedy="use --engine local"
            ) from error
        raise ConfigError(
            f"there is no Ray cluster at {address}", got=reason, remedy="start one with 'ray start --head'"
        ) from error


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM, which ends this process without a word; ours is put back."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Ray's C++ side announces itself on the file descriptor, whatever it is told; errors are raised."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _quiet_loggers() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def machines(ray: Any) -> list[Machine]:
    """What the machines of the cluster that are alive have."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(int(has.get("CPU", 0)), int(has.get("GPU", 0))) for has in found]


def cores_here() -> int:
    """Cores that this process may use."""
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_pool(cluster: list[Machine], device: str, tasks: int, cpus: int | None = None) -> Pool:
    """How many actors for so many tasks, and what each gets.

    Parameters
    ----------
    cluster : list of Machine
    device : str
        With ``cuda`` an actor has one GPU.
    tasks : int
        No more actors than tasks.
    cpus : int, optional
        Cores of an actor. By default as many as this machine has, where the machines have so many: torch
        then sums in the same order there as here, to the last bit.

    Raises
    ------
    CfpairsError
        If the cluster has nothing to run on.

    Examples
    --------
    >>> plan_pool([Machine(8, 0), Machine(6, 0)], "cpu", 100, 2)
    Pool(actors=7, cpus=2, gpus=0)
    >>> plan_pool([Machine(16, 2), Machine(4, 0)], "cuda", 100)
    Pool(actors=2, cpus=8, gpus=1)
    """
    if device == "cuda":
        with_gpu = [m for m in cluster if m.gpus]
        if not with_gpu:
            raise CfpairsError("the Ray cluster has no GPU", remedy="set encoder.device: cpu")
        share = min(m.cpus // m.gpus for m in with_gpu)
        return Pool(min(tasks, sum(m.gpus for m in with_gpu)), max(1, share), 1)
    able = [m.cpus for m in cluster if m.cpus]
    if not able:
        raise CfpairsError("the Ray cluster has no CPU to give", remedy="start it with --num-cpus")
    each = min(cpus or cores_here(), max(able)) if cpus else min(cores_here(), *able)
    return Pool(max(1, min(tasks, sum(m // each for m in able))), each, 0)


def explained(error: Exception, what: str) -> CfpairsError:
    """One line for what Ray itself gives up on; `what` is what it should have had made."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return CfpairsError(
        f"Ray could not have every {what} made",
        got=f"{type(error).__name__}: {lines[-1][:200] if lines else ''}",
        remedy="is cfpairs on every machine, and memory enough? The same command goes on from here",
    )
