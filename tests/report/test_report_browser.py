"""The page in a real browser, where one is installed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from browsing import BROWSER, NO_AXE, NO_BROWSER, grave_faults, launched

from cfpairs.report.assess import assess
from cfpairs.report.compare import compare_runs, render_comparison
from cfpairs.report.html import render_html
from cfpairs.report.model import ReportData
from tests.report.test_report_compare import run

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [pytest.mark.e2e, pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)]
SLOW = 60_000
WIDTHS = (400, 1100, 1600)

# What leaves the page to the right, and text that stands out too little from what is behind it.
CHECK = """() => {
  const root = document.documentElement, all = [...document.querySelectorAll("body *")];
  const past = all.filter((el) => !el.closest(".scroll, .hidden, .skip, svg") &&
    el.getBoundingClientRect().right > root.clientWidth + 0.5).map((el) => el.outerHTML.slice(0, 90));
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour, on) => {
    probe.fillStyle = `rgb(${on.join(",")})`; probe.fillRect(0, 0, 1, 1);
    probe.fillStyle = colour; probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (c) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = c.map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (el) => {
    const over = [];
    for (let at = el; at; at = at.parentElement) over.unshift(getComputedStyle(at).backgroundColor);
    return over.reduce((below, colour) => rgb(colour, below), [255, 255, 255]);
  };
  const dim = all.filter((el) => !el.closest("svg, script, style") && el.offsetParent &&
    [...el.childNodes].some((n) => n.nodeType === 3 && n.data.trim())).filter((el) => {
      const back = behind(el), ink = rgb(getComputedStyle(el).color, back);
      const [low, high] = [light(ink), light(back)].sort((a, b) => a - b);
      return (high + 0.05) / (low + 0.05) < 4.5;
    }).map((el) => el.outerHTML.slice(0, 90));
  return {
    scroll: root.scrollWidth, width: root.clientWidth, past, dim,
    drawn: [...document.querySelectorAll("svg")].filter((el) => el.getBoundingClientRect().width > 0).length,
    broken: [...document.images].filter((el) => el.complete && !el.naturalWidth).length,
    table: document.querySelector("table.sortable")?.closest(".scroll").clientWidth,
    unnamed: [...document.querySelectorAll("button, a, input, summary, [tabindex]")].filter((el) =>
      !(el.getAttribute("aria-label") || el.textContent.trim() || el.labels?.[0]?.textContent.trim())).length,
  };
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched(sync_api) as found:
        yield found


@pytest.fixture(scope="module")
def file(data: ReportData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_html(data), encoding="utf-8")
    return path


class Opened:
    """A page from disk, and everything that went wrong in it."""

    def __init__(self, browser: Any, path: Path, width: int = 1100, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(SLOW)
        self.faults: list[str] = []
        self.page.on("console", lambda m: self.faults.append(m.text))
        self.page.on("pageerror", lambda e: self.faults.append(str(e)))
        self.page.on(
            "request", lambda r: None if r.url.startswith(("file:", "data:")) else self.faults.append(r.url)
        )
        self.page.goto(path.as_uri())

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def open_folds(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_reads_at_every_width_in_light_and_dark(
    browser: Any, file: Path, scheme: str, tmp_path: Path
) -> None:
    with Opened(browser, file, color_scheme=scheme) as tab:
        for width in WIDTHS:
            tab.page.set_viewport_size({"width": width, "height": 900})
            for folded in (True, False):
                if not folded:
                    open_folds(tab.page)
                found = tab.page.evaluate(CHECK)
                assert found["scroll"] <= width and found["past"] == []
                assert found["dim"] == [] and found["broken"] == found["unnamed"] == 0
                assert found["drawn"] == 2 + 3 + 3 + 1
                assert found["table"] >= min(0.8 * width, 1200)
        shot = tab.page.screenshot(path=tmp_path / f"{scheme}.png", timeout=SLOW)
        assert len(shot) > 10_000
        assert tab.faults == []
        tab.page.evaluate("document.querySelector('h1').style.cssText = 'width:3000px;color:#888'")
        control = tab.page.evaluate(CHECK)  # the check can see what it looks for
        assert control["scroll"] > WIDTHS[-1] and control["past"] and (scheme == "dark" or control["dim"])


def test_axe_finds_no_grave_fault(browser: Any, file: Path) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=NO_AXE)
    with Opened(browser, file, width=400, bypass_csp=True) as tab:
        open_folds(tab.page)
        # CHECK looks at the contrast in light and dark, and sees through the shades behind the tables.
        assert grave_faults(tab.page, axe, color_contrast=False) == []
        tab.page.evaluate("document.querySelector('img').removeAttribute('alt')")
        faults = grave_faults(tab.page, axe, color_contrast=False)
        assert [kind for _, kind, _ in faults] == ["image-alt"]  # axe sees what is wrong


def test_the_table_sorts_by_keyboard_and_says_so(browser: Any, file: Path) -> None:
    with Opened(browser, file) as tab:
        page = tab.page
        page.focus("#all-probes")
        page.keyboard.press("Space")
        rows = page.locator("table.sortable tbody tr")
        assert rows.count() == 18 and rows.last.is_visible()
        head = page.locator("table.sortable thead th", has_text="Worst group")
        page.focus("table.sortable thead th:nth-child(4) button")

        def worst() -> list[float]:
            return [float(v) for v in page.eval_on_selector_all(
                "table.sortable tbody tr td:nth-child(4)", "cells => cells.map(cell => cell.dataset.v)"
            )]  # fmt: skip

        page.keyboard.press("Enter")
        assert head.get_attribute("aria-sort") == "descending"
        assert worst() == sorted(worst(), reverse=True) and len(set(worst())) > 3
        page.keyboard.press("Space")
        assert head.get_attribute("aria-sort") == "ascending" and worst() == sorted(worst())
        page.keyboard.press("Shift+Tab")
        page.keyboard.press("Enter")
        assert page.locator("table.sortable [aria-sort]").count() == 1
        rules = page.locator("table.sortable tbody tr td:nth-child(3)").all_inner_texts()
        assert rules == sorted(rules, key=str.lower)
        assert tab.faults == []


def test_without_a_script_everything_is_there_but_sorting(browser: Any, file: Path) -> None:
    with Opened(browser, file, java_script_enabled=False) as tab:
        assert tab.page.locator("thead button").count() == 0
        assert not tab.page.locator("tr.more").first.is_visible()
        tab.page.check("#all-probes")
        assert tab.page.locator("tr.more").last.is_visible()
        fold = tab.page.locator("#tradeoff ~ details").first
        fold.locator("summary").focus()
        tab.page.keyboard.press("Enter")
        assert fold.locator("table").is_visible()


def test_it_prints_with_its_folds_open(browser: Any, file: Path) -> None:
    with Opened(browser, file) as tab:
        content = tab.page.pdf(format="A4")
        pages = len(re.findall(rb"/Type\s*/Page\b", content))
        assert content.startswith(b"%PDF") and 6 <= pages <= 40
        tab.page.emulate_media(media="print")
        assert not tab.page.locator("nav").is_visible()
        tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.page.locator("details:not([open], .data)").count() == 0
        tab.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert tab.page.locator("details[open]").count() == 0


def test_a_long_page_opens_quickly(browser: Any, given: dict[str, Any], tmp_path: Path) -> None:
    means = [row for row in given["results"] if row["seed"] is None and row["pair_set"] == "edit"]
    results = [
        row | {"method": f"{row['method']}-{i}" if i else row["method"]} for i in range(334) for row in means
    ]
    one = replace(given["pair_sets"][0], quality={})
    path = tmp_path / "long.html"
    changes = {"pair_sets": [one], "results": results, "gallery": 240, "curves": [], "grid": ()}
    path.write_text(render_html(assess(**(given | changes))), encoding="utf-8")
    with Opened(browser, path) as tab:
        spent = tab.page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
        assert spent < 10_000
        assert tab.page.locator("table.sortable tbody tr").count() == 2004
        took = tab.page.evaluate(
            "() => { const t = performance.now();"
            " document.querySelector('thead th:nth-child(4) button').click();"
            " document.body.offsetHeight; return performance.now() - t; }"
        )
        assert took < 3_000 and tab.faults == []


def test_the_comparison_reads_too(browser: Any, tmp_path: Path) -> None:
    path = tmp_path / "compare.html"
    path.write_text(render_comparison(compare_runs(run("one", 5), run("two", 8))), encoding="utf-8")
    with Opened(browser, path, width=400) as tab:
        found = tab.page.evaluate(CHECK)
        assert found["scroll"] <= 400 and found["past"] == found["dim"] == [] and tab.faults == []
