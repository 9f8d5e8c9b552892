"""The page in a real browser, and the command as a process that is killed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import BROWSER, NO_AXE, NO_BROWSER, grave_faults, launched
from review_runs import Running, project, said

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)]
SLOW = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(sync_api) as found:
        yield found


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
        """Wait for words; plain ones are looked for at every frame, as ``expect`` takes its time."""
        if isinstance(words, str):
            self.watch(
                "([at, words]) => document.querySelector(at).textContent.includes(words)", selector, words
            )
        expect(self.page.locator(selector)).to_contain_text(words, timeout=SLOW)

    def watch(self, condition: str, *given: str) -> None:
        self.page.wait_for_function(condition, arg=list(given), timeout=SLOW)

    def see_counts(self, dropped: int, kept: int) -> None:
        self.see("#figures", re.compile(f"dropped by hand{dropped}kept by hand{kept}not"))

    def see_another(self, pair_id: str) -> None:
        """Wait until another pair is shown: the decision on this one is on disk then."""
        self.watch("([id]) => !document.getElementById('facts').textContent.includes(id)", pair_id)

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
    (made.workspace.root.parent / "data" / "img 32 & '<i>'.png").unlink()
    with Running(root) as server:
        yield root, server.url


@pytest.fixture(scope="module")
def context(browser: Any) -> Iterator[Any]:
    found = browser.new_context(viewport={"width": 1280, "height": 900}, bypass_csp=True)
    yield found
    found.close()


@pytest.fixture
def tab(context: Any, shared: tuple[Path, str]) -> Iterator[Tab]:
    made = Tab(context, shared[1])
    made.see("#pair-title", "Pair ")
    expect(made.page.locator("#by-flag")).to_be_visible(timeout=SLOW)  # the reasons are there
    yield made
    made.page.close()
    assert made.faults == []


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


def choices(page: Any, select: str) -> dict[str, str]:
    """Words of every choice of a filter but ``all``, and its value."""
    pairs = page.eval_on_selector_all(f"{select} option", "all => all.map(o => [o.textContent, o.value])")
    return {words: value for words, value in pairs if value}


def test_the_worst_pairs_come_first_with_their_reasons(tab: Tab) -> None:
    tab.see("#facts", "again · ")
    tab.see("#reasons", re.compile("failed edit.*hardly|failed edit.*far less than two items"))
    tab.press("s")
    tab.see("#reasons", "duplicate same difference as import-")
    tab.press("s")
    tab.see("#no-reasons", "Nothing is wrong with it as far as was measured.")


def test_filters(tab: Tab) -> None:
    page = tab.page
    flags = choices(page, "#by-flag")
    assert {"duplicate (1)", "failed edit (1)"} < set(flags)
    for words, value in flags.items():
        page.select_option("#by-flag", value)
        name = value[1:]
        if name == "no flag":
            expect(page.locator("#reasons li")).to_have_count(0)
        else:
            tab.see("#reasons", name)
        tab.press("s")  # the next pair is of this kind too, or there is no other
        if words.endswith("(1)"):
            tab.see("#announce", "the only pair")
        elif name != "no flag":
            tab.see("#reasons", name)
    page.select_option("#by-flag", "")
    cells = choices(page, "#by-cell")
    assert len(cells) > 2 and sum(int(w.rpartition("(")[2].rstrip(")")) for w in cells) == 36
    for value in cells.values():
        page.select_option("#by-cell", value)
        label, _, change = value[1:].partition(": ")
        tab.see("#facts", f"label {label} · {change}")
    page.select_option("#by-cell", "")
    assert set(choices(page, "#by-method")) == {"import (6)", "random (30)"}
    for select, value, facts in (
        ("#by-method", "=random", "random · "),
        ("#by-method", "=import", "again · "),
        ("#by-set", "=random", None),
    ):
        page.select_option(select, value)
        if facts is None:  # no pair of one set was made by the method of the other
            tab.see("#none", "No pair is left")
        else:
            tab.see("#facts", facts)
    page.select_option("#by-method", "")
    tab.see("#facts", "random · ")
    tab.see("#figures", "pair setrandom")
    page.select_option("#show", "keep")
    tab.see("#none", "No pair is left")
    expect(page.locator("#one")).to_be_hidden()
    tab.press("d", "k", "b")  # nothing is shown, so nothing is decided; back shows the pair before
    page.select_option("#show", "to-do")
    tab.see("#pair-title", "of 36")


def test_names_are_text(tab: Tab) -> None:
    assert tab.page.locator("aside script, main script, main b, main i").count() == 0
    seen = ""
    for _ in range(4):
        seen += tab.page.inner_text("main")
        before = tab.pair_id
        tab.press("s")
        tab.see_another(before)
    assert "<script>alert(1)</script>" in seen or 'be"nign' in seen
    assert "<b>site</b>" in seen and "north & south" in seen
    options = tab.page.inner_text("#by-cell")
    assert "<script>alert(1)</script>" in options


def test_a_missing_image_is_told_in_words(tab: Tab) -> None:
    tab.page.select_option("#by-flag", "=duplicate")
    shown = tab.page.locator(".placeholder:visible")
    expect(shown).to_have_count(2, timeout=SLOW)
    assert set(shown.all_inner_texts()) == {
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


LOOKS = """() => {
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


def test_the_page_fits_and_can_be_heard(tab: Tab) -> None:
    page = tab.page
    page.wait_for_function("[...document.images].every((i) => i.hidden || i.naturalWidth)", timeout=SLOW)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        for width in (400, 1280, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            found = page.evaluate(LOOKS)
            assert found["wide"] <= 0 and found["past"] == [] and found["nameless"] == 0
            assert found["lang"] == "en"
            assert len(found["images"]) == 3 and all(alt and drawn for alt, drawn in found["images"])
            light = [sum(map(int, re.findall(r"\d+", found[c])[:3])) for c in ("paper", "ink")]
            assert (light[0] > light[1]) == (scheme == "light")


def test_axe_finds_no_grave_fault(tab: Tab) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=NO_AXE)
    page = tab.page
    for scheme, width in (("light", 1600), ("dark", 400), ("light", 400)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        assert grave_faults(page, axe) == []
    page.evaluate(
        "document.getElementById('note').closest('label').replaceWith(document.getElementById('note'))"
    )
    assert [kind for _, kind, _ in grave_faults(page, axe)] == ["label"]  # axe sees what is wrong


def test_the_keyboard_alone_will_do(tab: Tab, shared: tuple[Path, str]) -> None:
    page = tab.page
    first, stops = tab.pair_id, []
    for _ in range(20):
        page.keyboard.press("Tab")
        stop, ring = page.evaluate(
            "() => { const at = document.activeElement;"
            " return [at.id || at.className || at.tagName, getComputedStyle(at).outlineStyle]; }"
        )
        if stop == "BODY":
            break
        assert ring != "none", stop
        stops.append(stop)
    assert stops[:6] == ["skip-link", "show", "by-set", "by-flag", "by-cell", "by-method"]
    assert stops[6:] == ["keep", "drop", "skip", "note", "SUMMARY", "keys"]  # nothing to undo or go back to
    page.focus("#drop")
    page.keyboard.press("Space")
    tab.see_another(first)
    assert decided(shared[0]) == {first: "drop"}
    page.focus("#undo")
    page.keyboard.press("Enter")
    tab.see("#announce", "Taken back")
    assert decided(shared[0]) == {}
    page.focus("#by-flag")
    page.keyboard.type("dup")
    tab.see("#reasons", "duplicate")
    page.focus(".skip-link")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "pair"
