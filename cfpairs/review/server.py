"""Serving the page on this machine, until Ctrl-C."""

from __future__ import annotations

import errno
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.types import ASGIApp

from cfpairs.errors import ConfigError

__all__ = ["HOST", "Place", "open_place", "serve"]

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where the page is: a socket that listens to this machine alone, and a token that nobody can guess."""

    socket: socket.socket
    token: str

    @property
    def port(self) -> int:
        """The port that was asked for, or a free one."""
        return int(self.socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Address of the page, token included."""
        return f"http://{HOST}:{self.port}/{self.token}/"

    @property
    def hosts(self) -> frozenset[str]:
        """``Host`` headers of a browser that was given that address."""
        return frozenset({f"{HOST}:{self.port}", f"localhost:{self.port}"})


def open_place(port: int = 0) -> Place:
    """Take a port of this machine; 0 for any that is free.

    Raises
    ------
    ConfigError
        If it is taken or not allowed.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as error:
        listener.close()
        taken = error.errno == errno.EADDRINUSE
        raise ConfigError(
            f"port {port} is taken" if taken else f"port {port} cannot be used",
            got=None if taken else error.strerror,
            remedy="name another with --port, or none to have a free one",
        ) from error
    return Place(listener, secrets.token_urlsafe(24))


def serve(app: ASGIApp, place: Place, ready: Callable[[], None] = lambda: None) -> None:
    """Answer requests until the process is told to end; `ready` is called when the page can be opened."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=2,
    )
    ready()
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[place.socket])
