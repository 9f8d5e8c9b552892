"""Files of a model hub: from its cache, or fetched, or one line at once where the hub cannot be reached."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cfpairs.errors import CfpairsError

__all__ = ["fetch", "hub_client", "hub_file", "reachable"]

PATIENCE = 3.0
"""Seconds that a hub gets to take a connection; its client would try for most of a minute."""


def fetch(what: str, remedy: str, download: Callable[[], str | Path]) -> Path:
    """What `download` returns; where the hub cannot be reached it may only look into the cache.

    Parameters
    ----------
    what : str
        Named in the message, such as ``the weights of open_clip:ViT-B-32/openai``.
    remedy : str
        What to pass instead.
    download : callable
        Uses the hub's client.

    Raises
    ------
    CfpairsError
        If it fails, in one line.
    """
    with hub_client() as offline:
        try:
            return Path(download())
        except Exception as error:  # every hub client raises its own kinds
            reason = f"{type(error).__name__}: {str(error).split('. ')[0][:160]}"
            if offline:
                reason = f"the hub cannot be reached, its cache does not hold them ({reason[:80]})"
            raise CfpairsError(f"{what} cannot be fetched", got=reason, remedy=remedy) from error


def hub_file(repo: str, names: tuple[str, ...]) -> Path:
    """The first of `names` that the repository has; to be called inside `fetch`."""
    from huggingface_hub import hf_hub_download

    for name in names[:-1]:
        try:
            return Path(hf_hub_download(repo, name))
        except Exception as error:  # absent there, or not in the cache: the next name may be
            logging.getLogger(__name__).debug("%s: %s", name, error)
    return Path(hf_hub_download(repo, names[-1]))


def reachable() -> bool:
    """Whether the hub, or the proxy on the way to it, takes a connection within a few seconds."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    target = urlsplit(constants.ENDPOINT)
    host = target.hostname or ""
    proxy = {k.lower(): v for k, v in getproxies().items()}.get(target.scheme)
    if proxy and not proxy_bypass(host):
        target = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        host = target.hostname or ""
    port = target.port or (80 if target.scheme == "http" else 443)
    try:
        with socket.create_connection((host, port), timeout=PATIENCE):
            return True
    except OSError:
        return False


@contextmanager
def hub_client() -> Iterator[bool]:
    """The hub's client without its lines about retries, and without requests if the hub cannot be reached.

    Yields
    ------
    bool
        Whether only the cache may be used.
    """
    try:
        from huggingface_hub import constants
    except ModuleNotFoundError:
        yield False  # its absence is told by whoever needs it
        return
    offline = not reachable()
    log = logging.getLogger("huggingface_hub")
    level, before = log.level, constants.HF_HUB_OFFLINE
    log.setLevel(logging.CRITICAL)
    constants.HF_HUB_OFFLINE = offline
    try:
        yield offline
    finally:
        log.setLevel(level)
        constants.HF_HUB_OFFLINE = before
