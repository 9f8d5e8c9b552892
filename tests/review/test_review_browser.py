"""The page in a real browser, and the command as a process that is killed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from review_runs import Running, project, said

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt install chromium)"),
]
SLOW = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


class Tab:
    """A tab of the browser, and everything that went wrong in it."""

    def __init__(self, context: Any, url: str) -> None:
        self.page = context.new_page()
        self.page.set_default_timeout(SLOW)
        self.faults: list[str] = []
        self.page.on("console", lambda m: self.faults.append(m.text) if m.type != "info" else None)
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on("dialog", lambda d: self.faults.append(f"dialog {d.message}"))
        self.page.goto(url)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def see(self, selector: str, words: str | re.Pattern[str]) -> None:
        expect(self.page.locator(selector)).to_contain_text(words, timeout=SLOW)

    def see_counts(self, dropped: int, kept: int) -> None:
        self.see("#figures", re.compile(f"dropped by hand{dropped}kept by hand{kept}not"))

    def see_another(self, pair_id: str) -> None:
        """Wait until another pair is shown: the decision on this one is on disk then."""
        expect(self.page.locator("#facts")).not_to_contain_text(pair_id, timeout=SLOW)

    @property
    def pair_id(self) -> str:
        return str(self.page.inner_text("#facts")).rpartition(" · ")[2]


def decided(root: Path) -> dict[str, str]:
    """Decision of every pair of both sets that has one."""
    both = {**said(root, "random"), **said(root, "again")}
    return {pair: decision for pair, (_, decision, _) in both.items() if decision}


def test_keys_kill_and_again(browser: Any, tmp_path: Path) -> None:
    project(tmp_path)
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    expected: dict[str, str] = {}
    with Running(tmp_path, "--pair-set", "random") as server:
        tab = Tab(context, server.url)
        tab.see("#verdict-basis", "Measured on these 30 pairs")
        for number in range(20):
            tab.see("#pair-title", f"Pair {number + 1} of 30")
            choice = ("drop", "keep", "keep")[number % 3]
            expected[tab.pair_id] = choice
            tab.press(choice[0])
        tab.see("#pair-title", "Pair 21 of 30")
        server.end("kill")
        tab.press("d")
        tab.see("#trouble", "is 'cfpairs review' still running?")
        assert [f for f in tab.faults if "net::ERR_CONNECTION" not in f] == []
        tab.page.close()
    assert len(expected) == 20 and decided(tmp_path) == expected
    with Running(tmp_path, "--pair-set", "random") as server:
        tab = Tab(context, server.url)
        tab.see_counts(dropped=7, kept=13)
        assert tab.pair_id not in expected
        tab.page.select_option("#show", "drop")
        tab.see("#decided", "Dropped")
        expected[tab.pair_id] = "keep"
        tab.press("k")
        tab.see_counts(dropped=6, kept=14)
        assert tab.faults == []
        code, err = server.end("interrupt")
        assert code == 0 and "Traceback" not in err
        tab.page.close()
    assert decided(tmp_path) == expected
    context.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    root = tmp_path_factory.mktemp("shared")
    made = project(root)
    (made.workspace.root.parent / "data" / "img 0 & '<i>'.png").unlink()
    with Running(root) as server:
        yield root, server.url


@pytest.fixture
def tab(browser: Any, shared: tuple[Path, str]) -> Iterator[Tab]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    made = Tab(context, shared[1])
    made.see("#pair-title", "Pair ")
    made.see("#verdict-text", re.compile(r"\w+ \w+ \w+"))
    yield made
    faults = made.faults
    context.close()
    assert faults == []


def test_undo_note_and_reload(tab: Tab, shared: tuple[Path, str]) -> None:
    root = shared[0]
    first = tab.pair_id
    tab.press("n")
    tab.page.keyboard.type("dim & <b>dark</b>")
    tab.press("Escape", "d")
    tab.see_another(first)
    name = "random" if first in said(root) else "again"
    assert said(root, name)[first] == ("dropped", "drop", "dim & <b>dark</b>")
    tab.page.reload()
    tab.see("#figures", "dropped by hand")
    tab.press("u")
    tab.see("#facts", first)
    expect(tab.page.locator("#note")).to_have_value("")
    assert said(root, name)[first] == ("ok", None, None)
    tab.press("s")
    tab.see_another(first)
    tab.press("b")
    tab.see("#facts", first)
    tab.press("n")
    tab.page.keyboard.type("kd")  # keys are letters in a field
    tab.press("Enter")
    tab.see("#announce", "Note saved")
    assert said(root, name)[first] == ("ok", None, "kd")
    tab.press("u")
    tab.see("#announce", "Taken back")
    assert said(root, name)[first] == ("ok", None, None)
    tab.page.uncheck("#keys")
    tab.press("d")
    tab.page.check("#keys")
    tab.press("s")
    tab.see_another(first)
    assert decided(root) == {}


def test_filters(tab: Tab) -> None:
    page = tab.page
    expect(page.locator("#by-cell")).to_be_visible()
    for select, option in (("#by-set", "=again"), ("#by-cell", None), ("#by-flag", None)):
        if page.locator(select).is_hidden():  # a filter of one value
            continue
        values = page.eval_on_selector_all(f"{select} option", "o => o.map(e => e.value)")
        page.select_option(select, option or values[1])
        expect(page.locator("#pair-title")).to_be_visible()
        if select == "#by-set":
            tab.see("#facts", "again · ")
            tab.see("#figures", "pair setagain")
        if select == "#by-flag":
            flag = values[1][1:]
            if flag != "no flag":
                tab.see("#reasons", flag)
        page.select_option(select, "")
    page.select_option("#show", "keep")
    tab.see("#none", "No pair is left")
    expect(page.locator("#one")).to_be_hidden()
    tab.press("d", "k", "b")  # nothing is shown, so nothing is decided; back shows the pair before
    page.select_option("#show", "to-do")
    tab.see("#pair-title", "of 36")


def test_names_are_text(tab: Tab) -> None:
    assert tab.page.locator("aside script, main script, main b, main i").count() == 0
    seen = ""
    for _ in range(6):
        seen += tab.page.inner_text("main")
        tab.press("s")
        tab.page.wait_for_timeout(50)
    assert "<script>alert(1)</script>" in seen or 'be"nign' in seen
    assert "<b>site</b>" in seen and "north & south" in seen
    options = tab.page.inner_text("#by-cell")
    assert "<script>alert(1)</script>" in options


def test_a_missing_image_is_told_in_words(tab: Tab) -> None:
    for _ in range(40):
        if tab.page.locator(".placeholder:visible").count():
            break
        tab.press("s")
        tab.page.wait_for_timeout(60)
    words = tab.page.locator(".placeholder:visible").all_inner_texts()
    assert words and set(words) <= {
        "The image file is missing or cannot be read.",
        "No difference without both images.",
    }


def test_two_tabs(tab: Tab, shared: tuple[Path, str]) -> None:
    other = Tab(tab.page.context, shared[1])
    other.see("#pair-title", "Pair ")
    first = tab.pair_id
    assert other.pair_id == first
    tab.press("d")
    tab.see_another(first)
    other.press("n")
    other.page.keyboard.type("my words")
    other.press("Escape", "k")
    other.see("#trouble", "changed in another tab and is dropped there")
    assert other.pair_id == first and decided(shared[0]) == {first: "drop"}
    expect(other.page.locator("#note")).to_have_value("my words")
    other.press("k")
    other.see_another(first)
    expect(other.page.locator("#trouble")).to_be_hidden()
    assert decided(shared[0]) == {first: "keep"}
    other.press("u")
    other.see("#announce", "Taken back")
    assert decided(shared[0]) == {first: "drop"}  # as the first tab had said
    assert [f for f in other.faults if "409" not in f] == []
    other.page.close()
    tab.page.reload()
    tab.see("#figures", "dropped by hand")
    tab.press("u")
    tab.see("#announce", "Taken back")
    assert decided(shared[0]) == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
def test_the_page_fits_and_can_be_heard(tab: Tab, width: int, scheme: Any) -> None:
    page = tab.page
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    found = page.evaluate(
        """() => {
          const root = document.documentElement, all = (s) => [...document.querySelectorAll(s)];
          const named = (el) => el.getAttribute("aria-label") || el.labels?.length || el.textContent.trim();
          const colour = getComputedStyle(document.body);
          return {
            wide: root.scrollWidth - root.clientWidth,
            past: all("body *").filter((el) => !el.closest(".hidden, .skip-link, svg") &&
              el.getBoundingClientRect().right > root.clientWidth + 0.5).map((el) => el.outerHTML),
            nameless: all("button, input, select, svg").filter((el) => !named(el)).length,
            images: all("img:not([hidden])").map((i) => [i.alt.length > 3, i.naturalWidth > 0]),
            paper: colour.backgroundColor, ink: colour.color, lang: root.lang,
          };
        }"""
    )
    assert found["wide"] <= 0 and found["past"] == [] and found["nameless"] == 0 and found["lang"] == "en"
    assert len(found["images"]) == 3 and all(alt and drawn for alt, drawn in found["images"])
    light = [sum(map(int, re.findall(r"\d+", found[c])[:3])) for c in ("paper", "ink")]
    assert (light[0] > light[1]) == (scheme == "light")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement !== document.body")
