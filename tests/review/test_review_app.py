"""What the page's server answers, and to whom."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from review_runs import LABELS, project, said
from starlette.testclient import TestClient

from cfpairs.report.thumbnails import picture
from cfpairs.review.app import make_app
from cfpairs.review.guard import HEADERS
from cfpairs.review.pictures import Pictures
from cfpairs.review.server import open_place
from cfpairs.workflow import Context
from cfpairs.workflow.review import open_review

TOKEN = "a-token_0"
HOST = "127.0.0.1:4711"
ORIGIN = {"origin": f"http://{HOST}"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Context:
    root = tmp_path_factory.mktemp("project")
    (root / "secret.txt").write_text("top secret")
    return project(root)


class Page:
    """The application as a browser on this machine meets it."""

    def __init__(self, context: Context) -> None:
        self.root = context.workspace.root.parent
        self.review = open_review(context)
        app = make_app(
            self.review.desk,
            self.review.meter,
            Pictures(picture),
            context.workspace.file,
            token=TOKEN,
            hosts=frozenset({HOST}),
            title="<work>",
        )
        self.client = TestClient(app, base_url=f"http://{HOST}")

    def get(self, path: str, **more: Any) -> Any:
        return self.client.get(f"/{TOKEN}/{path}", **more)

    def pairs(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.get("api/pairs").json()["pairs"]
        return found

    def decide(self, pair: dict[str, Any], decision: str | None, note: str | None = None, **more: Any) -> Any:
        body = {k: pair[k] for k in ("pair_set", "pair_id", "version")} | {"decision": decision, "note": note}
        return self.client.post(f"/{TOKEN}/api/decide", json=body | more, headers=ORIGIN)


@pytest.fixture
def page(made: Context) -> Page:
    return Page(made)


PATHS = ("", "page.js", "page.css", "api/pairs", "api/pair?set=random&pair=x", "api/summary?set=random")


@pytest.mark.parametrize("path", [*PATHS, "image?item=x", "difference?set=random&pair=x", "nothing"])
def test_without_the_token_everything_is_refused(page: Page, path: str) -> None:
    for wrong in ("", "/", f"/{TOKEN[:-1]}/", f"/{TOKEN}x/", f"/x/{TOKEN}/", "/é/", f"/%00{TOKEN}/"):
        found = page.client.get(f"{wrong}{path}" if wrong else f"/{path}")
        assert found.status_code == 403 and "random-" not in found.text
    assert page.get(path).status_code != 403  # the token is what was missing


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": f"{HOST}.evil.example"},
        {"host": "127.0.0.1:80"},
        {"host": ""},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_hosts_and_origins_are_refused(page: Page, headers: dict[str, str]) -> None:
    for path in PATHS:
        assert page.get(path, headers=headers).status_code == 403
    pair = page.pairs()[0]
    body = {**{k: pair[k] for k in ("pair_set", "pair_id", "version")}, "decision": "drop", "note": None}
    refused = page.client.post(f"/{TOKEN}/api/decide", json=body, headers=ORIGIN | headers)
    assert refused.status_code == 403 and page.pairs()[0]["decision"] is None


def test_two_hosts_in_one_request_are_refused(page: Page) -> None:
    found = page.client.get(f"/{TOKEN}/", headers=[("host", HOST), ("host", "evil.example")])
    assert found.status_code == 403


def test_what_changes_something_must_be_json_from_the_page(page: Page) -> None:
    pair = page.pairs()[0]
    body = json.dumps(
        {**{k: pair[k] for k in ("pair_set", "pair_id", "version")}, "decision": "drop", "note": ""}
    )
    url, kind = f"/{TOKEN}/api/decide", {"content-type": "application/json"}
    assert page.client.post(url, content=body, headers=kind).status_code == 403  # no origin
    assert (
        page.client.post(url, content=body, headers=ORIGIN | {"content-type": "text/plain"}).status_code
        == 415
    )
    assert page.client.post(url, content=b" " * 70_000, headers=ORIGIN | kind).status_code == 413
    assert page.client.post(url, content=iter([body.encode()]), headers=ORIGIN | kind).status_code == 413
    for bad in (b"", b"[]", b"{}", b"\xff", b"[" * 60_000, body.replace('"drop"', "1").encode()):
        assert page.client.post(url, content=bad, headers=ORIGIN | kind).status_code == 422
    assert page.get("api/decide").status_code == 405
    assert page.client.options(f"/{TOKEN}/api/decide").status_code in (403, 405)
    assert page.pairs()[0]["decision"] is None
    assert page.decide(pair, None).status_code == 200  # so would the right request have been taken


def test_every_answer_forbids_what_the_page_does_not_need(page: Page) -> None:
    for found in (page.get(""), page.get("nothing"), page.client.get("/"), page.get("image?item=x")):
        for name, value in HEADERS.items():
            assert found.headers[name] == value
    policy = HEADERS["Content-Security-Policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "http" not in policy
    html = page.get("").text
    assert "://" not in html and " on" + "click" not in html and "style=" not in html
    assert html.count("<script") == 1 and '<script src="page.js" defer></script>' in html
    script = page.get("page.js").text
    for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert risky not in script


@pytest.mark.parametrize(
    "item",
    [
        "../../secret.txt", "/etc/passwd", "..%2f..%2fsecret.txt", "secret.txt", "", "\x00",
        "data/cases.csv", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_images_are_named_by_item_alone(page: Page, item: str) -> None:
    found = page.get("image", params={"item": item})
    assert found.status_code == 404 and b"secret" not in found.content


@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt", "..%2f..%2fsecret.txt", "static/../app.py", "app.py", "%2e%2e/%2e%2e/secret.txt",
        "page.html",
    ],
)  # fmt: skip
def test_no_file_is_found_by_its_path(page: Page, path: str) -> None:
    found = page.client.get(f"/{TOKEN}/{path}")
    assert found.status_code in (403, 404) and "secret" not in found.text and "import" not in found.text


def test_an_item_that_is_no_image_is_not_sent(page: Page) -> None:
    row = page.pairs()[-1]
    detail = page.get("api/pair", params={"set": row["pair_set"], "pair": row["pair_id"]}).json()
    file = page.root / "work" / str(page.review.desk.path(detail["a"]["item_id"]))
    kept = file.read_bytes()
    try:
        file.write_text("top secret")
        refused = page.get("image", params={"item": detail["a"]["item_id"]})
        assert refused.status_code == 404 and b"secret" not in refused.content
        again = page.get("api/pair", params={"set": row["pair_set"], "pair": row["pair_id"]}).json()
        assert again["a"]["image"] == "missing" and again["b"]["image"] == "shown" and not again["difference"]
    finally:
        file.write_bytes(kept)


def test_a_pair_with_its_images(page: Page) -> None:
    row = page.pairs()[0]
    where = {"set": row["pair_set"], "pair": row["pair_id"]}
    pair = page.get("api/pair", params=where).json()
    a, b = (
        np.asarray(
            Image.open(io.BytesIO(page.get("image", params={"item": pair[s]["item_id"]}).content)), int
        )
        for s in "ab"
    )
    assert a.shape == (12, 12, 3) and not np.array_equal(a, b)
    answer = page.get("difference", params=where)
    assert answer.headers["content-type"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content)), int), np.abs(a - b))
    assert pair["a"]["label"] in LABELS and pair["difference"]
    for path in ("api/pair", "difference"):
        assert page.get(path, params=where | {"pair": "no"}).status_code == 404
        assert page.get(path, params=where | {"set": "../random"}).status_code == 404
    assert page.get("api/summary?set=no").status_code == 404


def test_the_second_tab_is_told_and_nothing_is_overwritten(page: Page) -> None:
    one, two = page.pairs()[:2]
    first = page.decide(one, "drop", "mine")
    assert first.status_code == 200 and first.json()["pair"]["status"] == "dropped"
    late = page.decide(one, "keep", "theirs")
    assert late.status_code == 409 and "another tab" in late.json()["error"]
    assert late.json()["pair"] == first.json()["pair"]
    assert said(page.root, one["pair_set"])[one["pair_id"]] == ("dropped", "drop", "mine")
    assert page.decide(two, "drop").status_code == 200  # another pair is not in conflict
    assert page.decide(late.json()["pair"], "keep", "both").json()["pair"]["note"] == "both"
    for pair in (one, two):
        now = next(
            p for p in page.pairs() if p["pair_id"] == pair["pair_id"] and p["pair_set"] == pair["pair_set"]
        )
        assert page.decide(now, None).status_code == 200
    assert page.decide(one, "burn").status_code == 422
    assert page.decide(one, "drop", pair_id="no").status_code == 404


def test_of_many_at_once_one_wins(page: Page) -> None:
    pair = page.pairs()[0]
    found: list[int] = []

    def press(number: int) -> None:
        found.append(page.decide(pair, "drop", f"n{number}").status_code)

    threads = [threading.Thread(target=press, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200] + 5 * [409]
    assert page.decide(page.pairs()[0], None).status_code == 200


def test_a_place_is_this_machine_alone_and_its_token_new() -> None:
    one, two = open_place(), open_place()
    try:
        assert one.socket.getsockname()[0] == "127.0.0.1" and one.port != two.port
        assert one.token != two.token and len(one.token) >= 32
        assert one.url == f"http://127.0.0.1:{one.port}/{one.token}/"
        with pytest.raises(Exception, match=f"port {one.port} is taken; name another with --port"):
            open_place(one.port)
    finally:
        one.socket.close()
        two.socket.close()


def test_the_worst_come_first_and_stay_where_they_are(made: Context) -> None:
    page = Page(made)
    rows = page.pairs()
    assert all(not row["flags"] for row in rows)
    known = [row["score"] is None for row in rows]
    assert known == sorted(known)
    ids = [row["pair_id"] for row in rows if row["pair_set"] == "random"]
    desk = page.review.desk
    desk.set_flags(
        "random",
        [
            {"pair_id": ids[3], "flag": "outlier", "score": 5.5, "reason": "x"},
            {"pair_id": ids[7], "flag": "dominates", "score": 99.0, "reason": "x"},
            {"pair_id": ids[7], "flag": "wrong match", "score": 0.6, "reason": "x"},
            {"pair_id": ids[5], "flag": "outlier", "score": 8.0, "reason": "x"},
            {"pair_id": ids[9], "flag": "dominates", "score": 4.0, "reason": "x"},
        ],
    )
    rows = page.pairs()
    assert [row["pair_id"] for row in rows[:4]] == [ids[5], ids[3], ids[7], ids[9]]
    assert [f["flag"] for f in rows[2]["flags"]] == ["wrong match", "dominates"]
    answer = page.decide(rows[2], "drop").json()["pair"]
    assert answer["reason"] == "dropped in review: wrong match, dominates"
    assert [row["pair_id"] for row in page.pairs()] == [row["pair_id"] for row in rows]
    assert page.decide(answer, None).status_code == 200


def test_data_without_images(tmp_path: Path) -> None:
    page = Page(project(tmp_path, images=False, n=36, pairs=6, embedded=False))
    row = page.pairs()[0]
    pair = page.get("api/pair", params={"set": row["pair_set"], "pair": row["pair_id"]}).json()
    assert (pair["a"]["image"], pair["b"]["image"], pair["difference"]) == ("none", "none", False)
    assert page.get("image", params={"item": pair["a"]["item_id"]}).status_code == 404
