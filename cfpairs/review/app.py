"""The page's answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from cfpairs.errors import CfpairsError, DataError, UnknownNameError
from cfpairs.review.desk import ConflictError, Desk
from cfpairs.review.guard import Guard
from cfpairs.review.meter import Meter
from cfpairs.review.pictures import Pictures

__all__ = ["make_app"]

ASSETS = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
    "icon.svg": ("icon.svg", "image/svg+xml"),
}
"""What is sent for each name; nothing else is looked for on disk."""


def make_app(
    desk: Desk,
    meter: Meter,
    pictures: Pictures,
    file_of: Callable[[str], Path],
    *,
    token: str,
    hosts: frozenset[str],
    title: str,
) -> Guard:
    """The application, with the guard in front.

    Parameters
    ----------
    desk, meter, pictures
        What it shows and changes.
    file_of : callable
        The file that a path of the manifest stands for. Requests name items; no path comes from them.
    token : str
        First part of every address.
    hosts : frozenset of str
        ``Host`` headers that it answers to.
    title : str
        Says which workspace this is.
    """
    answers = _Answers(desk, meter, pictures, file_of, title)
    routes = [
        *(Route(f"/{name}", _asset(*asset)) for name, asset in ASSETS.items()),
        Route("/api/pairs", answers.pairs),
        Route("/api/pair", answers.pair),
        Route("/api/summary", answers.summary),
        Route("/api/decide", answers.decide, methods=["POST"]),
        Route("/image", answers.image),
        Route("/difference", answers.difference),
    ]
    return Guard(Starlette(routes=[Mount(f"/{token}", routes=routes)]), token, hosts)


def _asset(name: str, kind: str) -> Callable[[Request], Any]:
    content = files("cfpairs.review").joinpath("static", name).read_bytes()

    async def send(_request: Request) -> Response:
        return Response(content, headers={"Content-Type": kind})

    return send


def _fault(status: int, words: str, **more: Any) -> JSONResponse:
    return JSONResponse({"error": words, **more}, status)


def _picture(content: bytes | None) -> Response:
    if content is None:
        return _fault(404, "The image is missing or cannot be read.")
    return Response(content, media_type="image/png")


class _Answers:
    def __init__(
        self, desk: Desk, meter: Meter, pictures: Pictures, file_of: Callable[[str], Path], title: str
    ) -> None:
        self._desk, self._meter, self._pictures = desk, meter, pictures
        self._file_of, self._title = file_of, title

    def pairs(self, _request: Request) -> Response:
        return JSONResponse({"title": self._title, "epoch": self._meter.epoch, "pairs": self._desk.rows()})

    def pair(self, request: Request) -> Response:
        name, pair_id = self._named(request, "set", "pair")
        try:
            found = self._desk.pair(name, pair_id)
        except UnknownNameError as error:
            return _fault(404, str(error))
        found["numbers"] = [*self._meter.lengths(name, pair_id), *found["numbers"]]
        shown = [self._with_image(found[side]) for side in "ab"]
        found["difference"] = all(item["image"] == "shown" for item in shown)
        return JSONResponse(found)

    def _with_image(self, item: dict[str, Any]) -> dict[str, Any]:
        """Say whether the item's image can be shown."""
        file = self._file(item["item_id"])
        size = None if file is None else self._pictures.size(file)
        item["image"] = "shown" if size else "none" if file is None else "missing"
        item["size"] = size
        return item

    def _file(self, item_id: str) -> Path | None:
        path = self._desk.path(item_id)
        return self._file_of(path) if path else None

    def summary(self, request: Request) -> Response:
        (name,) = self._named(request, "set")
        if name not in self._desk.sheets:
            return _fault(404, "There is no such pair set.")
        return JSONResponse(self._meter.summary(name))

    def image(self, request: Request) -> Response:
        file = self._file(request.query_params.get("item", ""))
        return _picture(None if file is None else self._pictures.png(file))

    def difference(self, request: Request) -> Response:
        try:
            pair = self._desk.pair(*self._named(request, "set", "pair"))
        except UnknownNameError as error:
            return _fault(404, str(error))
        one, other = (self._file(pair[side]["item_id"]) for side in "ab")
        return _picture(None if one is None or other is None else self._pictures.difference(one, other))

    async def decide(self, request: Request) -> Response:
        try:
            body = json.loads(await request.body())
            given = {key: body[key] for key in ("pair_set", "pair_id", "decision", "note", "version")}
        except (ValueError, KeyError, TypeError, RecursionError):
            return _fault(422, "The request cannot be read.")
        may_be_absent = ("decision", "note")
        if any(not isinstance(v, str) and not (v is None and k in may_be_absent) for k, v in given.items()):
            return _fault(422, "The request cannot be read.")
        return await run_in_threadpool(self._decide, given)

    def _decide(self, given: dict[str, Any]) -> Response:
        try:
            pair = self._desk.decide(
                given["pair_set"], given["pair_id"], given["decision"], given["note"], given["version"]
            )
        except ConflictError as conflict:
            return _fault(409, "This pair was changed in another tab.", pair=conflict.pair)
        except UnknownNameError as error:
            return _fault(404, str(error))
        except DataError as error:
            return _fault(422, str(error))
        except CfpairsError as error:
            return _fault(507, str(error))
        self._meter.changed()
        return JSONResponse({"pair": pair})

    def _named(self, request: Request, *names: str) -> tuple[str, ...]:
        return tuple(request.query_params.get(name, "") for name in names)
