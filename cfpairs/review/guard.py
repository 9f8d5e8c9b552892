"""Who may talk to the page: only itself, by its own address, with its token."""

from __future__ import annotations

import secrets
from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["HEADERS", "Guard"]

HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Sent with every answer."""

BODY_LIMIT = 64 * 1024


class Guard:
    """Refuse whatever did not come from the page itself, and forbid the page all that it does not need.

    Every path begins with the token; without it, from another origin or under another host name (a name that
    was made to point to this machine) the answer is 403. What changes something must come from the page's
    own script: with its ``Origin``, as JSON and of bounded size.

    Parameters
    ----------
    app : ASGI application
    token : str
    hosts : frozenset of str
        ``127.0.0.1:PORT`` and the like.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts
        self._prefix = f"/{token}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(scope["method"], scope["path"], Headers(scope=scope))

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if refusal is not None:
            status, words = refusal
            await PlainTextResponse(words, status)(scope, receive, guarded)
            return
        await self._app(scope, receive, guarded)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[int, str] | None:
        if headers.getlist("host") not in [[host] for host in self._hosts]:
            return 403, "This page answers to its own address only."
        if not secrets.compare_digest(path[: len(self._prefix)].encode(), self._prefix.encode()):
            return 403, "The token is missing or wrong. Open the address that 'cfpairs review' printed."
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and origin not in {f"http://{host}" for host in self._hosts}:
            return 403, "Requests of other pages are refused."
        if site not in (None, "same-origin", "none"):
            return 403, "Requests of other pages are refused."
        if method in ("GET", "HEAD"):
            return None
        if origin is None:
            return 403, "Requests of other pages are refused."
        if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "JSON is expected."
        length = headers.get("content-length", "")
        if not length.isdigit() or int(length) > BODY_LIMIT:
            return 413, "The request is too large."
        return None
