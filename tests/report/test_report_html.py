"""The page: self-contained, escaped, deterministic, and built of semantic HTML."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cfpairs.report.as_json import render_json
from cfpairs.report.assess import PairSetInput, assess
from cfpairs.report.figures import curve_figure
from cfpairs.report.html import render_html
from cfpairs.report.model import ReportData
from tests.report.sample import advised

VOID = {"meta", "img", "br", "hr", "link", "input", "wbr"}


class Page(HTMLParser):
    """Tags, attributes, headings and text of a page; complains about tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.text.append(data)
        if self.open and re.fullmatch("h[1-6]", self.open[-1]):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def html(data: ReportData) -> str:
    return render_html(data)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def without_figures(data: ReportData) -> ReportData:
    """The same findings without what is slow to draw."""
    return replace(
        data,
        curves=(),
        pair_sets=tuple(replace(p, quality={}, gallery=(), set_apart=()) for p in data.pair_sets),
    )


def test_nothing_is_fetched_and_only_its_own_script_runs(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on"), f"{tag} {name}"
            if name in {"src", "href", "xlink:href", "srcset", "action", "data", "poster"}:
                assert value is not None and value.startswith(("#", "data:image/")), (
                    f"{tag} {name}={value[:60]}"
                )
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style and "url(" not in style
    policy = next(m["content"] for m in page.all("meta") if "http-equiv" in m)
    assert policy is not None and policy.startswith("default-src 'none'")
    (script,) = re.findall(r"<script[^>]*>(.*?)</script>", html, flags=re.DOTALL)
    assert "fetch" not in script and "http" not in script
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{own}'" in policy  # no other script may run


def test_headings_are_in_order_and_there_is_one_h1(page: Page) -> None:
    levels = [level for level, _text in page.headings]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels)), page.headings
    assert all(text.strip() for _level, text in page.headings)


def test_the_verdict_comes_first_and_sections_follow_in_order(page: Page) -> None:
    assert [text for level, text in page.headings if level == 2] == [
        "Verdict", "How many directions to remove", "Signal and noise in the pairs",
        "How reliable the directions are, and whether more pairs would help", "What the pairs cover",
        "Ways of making pairs, on equal numbers", "All probes", "Groups", "Pairs worth a look", "Data cards",
        "How this page was made",
    ]  # fmt: skip
    assert page.words.index("Use the edit pairs and remove") < page.words.index("70.0\u00a0%".split()[0])


def test_it_is_accessible(html: str, page: Page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert all(image.get("alt") for image in page.all("img"))
    assert all(svg.get("aria-label") for svg in page.all("svg"))
    assert all(cell.get("scope") in {"row", "col"} for cell in page.all("th"))
    tables = re.findall(r"<table.*?</table>", html, flags=re.DOTALL)
    in_cards = [t for t in tables if "<td>the stroke of the digit</td>" in t]
    assert len(in_cards) == 1 and all("<caption" in t for t in tables if t not in in_cards)
    assert len(page.all("figcaption")) >= len(page.all("figure")) > 0
    targets = {a["href"] for a in page.all("a")}
    assert targets <= {f"#{attributes['id']}" for _tag, attributes in page.tags if "id" in attributes}


def test_ids_are_unique_and_every_reference_inside_a_figure_is_met(html: str, page: Page) -> None:
    ids = Counter(attributes["id"] for _tag, attributes in page.tags if attributes.get("id"))
    assert [name for name, n in ids.items() if n > 1] == []
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    assert {a or b for a, b in used} <= set(ids)


def test_figures_take_colours_and_fonts_from_the_page(html: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL)
    assert len(drawings) == 2 + 3 + 3 + 1
    style = html[html.index("<style>") : html.index("</style>")]
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(href|id|clip-path)="[^"]*"', "", drawing))
        assert "font-family" not in drawing and "<text" in drawing
        for name in re.findall(r"var\((--[\w]+)\)", drawing):
            assert f"{name}:" in style


def rows_of_probes(html: str) -> list[str]:
    table = re.search(r'<table class="results sortable">.*?</table>', html, flags=re.DOTALL)
    assert table is not None
    return re.findall(r"<tr.*?</tr>", table[0], flags=re.DOTALL)[1:]


def test_all_probes_stand_in_one_table_with_the_rule_of_the_verdict_first(html: str, page: Page) -> None:
    rows = rows_of_probes(html)
    assert len(rows) == 3 * 2 * 3
    assert ["held-out pairs" in row for row in rows] == [True] * 6 + [False] * 12
    assert [' more"' in row for row in rows] == [False] * 6 + [True] * 12
    assert sum("test labels" in row for row in rows) == 6
    worst = [float(re.findall(r'data-v="([^"]*)"', row)[0]) for row in rows[:6]]
    assert worst == sorted(worst, reverse=True)
    assert 'class="chosen"' in rows[0] and "(12 more rows)" in page.words


def test_the_same_findings_give_the_same_bytes_whatever_the_settings_of_the_machine(
    given: dict[str, Any], data: ReportData, html: str, tmp_path: Path
) -> None:
    assert render_html(without_figures(data)) == render_html(without_figures(assess(**given)))
    (tmp_path / "matplotlibrc").write_text("axes.grid: True\nfont.size: 30\nsvg.fonttype: path\n")
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); from sample import sample;"
        "from cfpairs.report.assess import assess; from cfpairs.report.html import render_html;"
        "sys.stdout.buffer.write(render_html(assess(**sample(Path(sys.argv[2])))).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path / "images")],
        env=os.environ | {"PYTHONHASHSEED": "7", "MATPLOTLIBRC": str(tmp_path), "TZ": "Asia/Tokyo"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == html
    assert render_html(replace(without_figures(data), title="another")) != render_html(without_figures(data))


def test_drawing_leaves_the_users_matplotlib_settings_alone(data: ReportData) -> None:
    import matplotlib as mpl

    from cfpairs.report.figures import scree_figure

    with mpl.rc_context({"font.size": 23.0, "axes.grid": True}):
        before = dict(mpl.rcParams)
        scree_figure(data.pair_sets[0], width=300, height=200, name="x")
        assert dict(mpl.rcParams) == before


EVIL = "<script>alert(1)</script>"


def test_everything_from_the_data_is_escaped(given: dict[str, Any]) -> None:
    quality = {
        "singular_values": [3.0, 2.0, 1.0], "noise_edge": 1.5, "recommended_r": 1,
        "verdict": {"level": "good", "text": EVIL}, "advice": [advised("review", EVIL)], "rank": 1,
        "remarks": [{"about": "missing", "text": EVIL}], "more_pairs": {"cannot_help": [EVIL]},
        "flags": [{"pair_id": "p1", "flag": EVIL, "score": 1.0, "reason": EVIL}],
        "tradeoff": [{"r": r, "environment_removed": r / 2, "label_removed": 0.0} for r in (0, 1, 2)],
        "forecast": [{"n_pairs": 9, "misalignment": 0.1}],
        "cells": [{"label": 0, "env_a": 0, "env_b": 7, "n_pairs": 1}], "metric": EVIL, "sigma": 1.0,
    }  # fmt: skip
    pair = {
        "pair_id": "p1", "a_id": EVIL, "b_id": EVIL, "label": 0, "env_a": 0, "env_b": 1, "score": None,
        "status": EVIL, "reason": EVIL,
    }  # fmt: skip
    pairs = [pair, pair | {"pair_id": EVIL, "status": "ok"}]
    changed = given | {
        "title": EVIL,
        "groups": [{"split": EVIL, "label": 0, "label_name": EVIL, "env": 0, "env_name": EVIL, "n": 1}],
        "pair_sets": [
            PairSetInput(EVIL, EVIL, {EVIL: 1}, quality, pairs, f"# {EVIL}\n\n{EVIL}\n\n[x]({EVIL})")
        ],
        "results": [
            r | {"pair_set": EVIL} | ({"method": EVIL} if r["seed"] == 0 else {}) for r in given["results"]
        ],
        "curves": [row | {"pair_set": EVIL, "method": m} for row in given["curves"] for m in ("ncm", EVIL)],
        "image_of": lambda _item: None,
        "item_of": lambda _item: {"label_name": EVIL, "env_name": EVIL},
        "data": {EVIL: EVIL},
        "provenance": {"encoder": EVIL, EVIL: {EVIL: [EVIL]}},
    }
    html = render_html(assess(**changed))
    assert html.lower().count("<script") == 1
    shown = Page(html)
    assert shown.all("script") == [{}]
    assert shown.words.count(EVIL) > 20  # shown as text


def test_names_that_matplotlib_or_a_link_would_interpret_are_shown_as_they_are(given: dict[str, Any]) -> None:
    names = {"edit": "_hidden", "nearest": "$\\frac{x$", "random": "\u6570\u5b57"}
    curves = [row | {"pair_set": names[row["pair_set"]]} for row in given["curves"]]
    html = render_html(without_figures(assess(**given)))
    drawn = render_html(
        replace(without_figures(assess(**given)), curves=assess(**(given | {"curves": curves})).curves)
    )
    for name in names.values():
        assert f">{name}</text>" in drawn or f"> {name}</text>" in drawn
        assert name not in html


def test_markers_do_not_run_together(given: dict[str, Any]) -> None:
    def markers(ranks: range) -> int:
        rows = [row | {"r": r} for r in ranks for row in given["curves"][:1]]
        return str(curve_figure(assess(**(given | {"curves": rows})), width=380, height=360, name="x")).count(
            "<use "
        )

    few, many = markers(range(16)), markers(range(65))
    assert few - many == 16 - 8  # at r = 0, 1, 2, 4 ... 64


def test_long_names_stay_inside_the_drawing(given: dict[str, Any]) -> None:
    name = "a-pair-set-with-a-name-that-is-as-long-as-a-name-may-be-" + 8 * "x"
    curves = [row | {"pair_set": name + row["pair_set"][:1]} for row in given["curves"]]
    data = assess(**(given | {"curves": curves}))
    for width in (380, 880):
        drawing = str(curve_figure(data, width=width, height=360, name="x"))
        words = re.findall(r'<text [^>]*\bx="([\d.]+)"[^>]*>([^<]*)</text>', drawing)
        legend = [(float(x), text) for x, text in words if text.startswith("a-pair-set")]
        assert len(legend) == 3
        assert all(x + 6.5 * len(text) <= width for x, text in legend)


def test_missing_and_broken_images_show_a_placeholder(given: dict[str, Any], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing else")
    for path in (tmp_path / "none.png", tmp_path, broken):
        data = assess(**(given | {"image_of": lambda _item, path=path: path, "gallery": 2}))
        pictured = replace(without_figures(data), pair_sets=(replace(data.pair_sets[0], quality={}),))
        page = Page(render_html(pictured))
        assert page.all("img") == []
        assert page.words.count("no image") == 2 * (2 + 2)


def test_items_without_an_image_are_named(given: dict[str, Any]) -> None:
    """No frame where there is nothing to show; an image of one side only stands beside the other's name."""

    def first_set(image_of: Any) -> tuple[Any, Page]:
        data = assess(**(given | {"image_of": image_of, "gallery": 2}))
        shown = replace(data.pair_sets[0], quality={})
        return shown.gallery[0], Page(render_html(replace(without_figures(data), pair_sets=(shown,))))

    pair, page = first_set(lambda _item: None)
    assert page.all("img") == []
    assert "no image" not in page.words
    assert pair.a.item_id in page.words and pair.b.item_id in page.words
    _, half = first_set({pair.a.item_id: given["image_of"](pair.a.item_id)}.get)
    assert len(half.all("img")) >= 1
    assert "no image" not in half.words and pair.b.item_id in half.words


def test_the_gallery_shows_small_pictures_with_text(page: Page) -> None:
    images = page.all("img")
    assert len(images) == 2 * (12 + 12 + 12) + 6
    assert all(int(i["width"] or 0) <= 112 and int(i["height"] or 0) <= 112 for i in images)
    assert {i["alt"] for i in images} >= {"Image a, grass", "Image b, gravel"}


@pytest.mark.parametrize(
    "changes",
    [
        {"results": [], "curves": []},
        {"pair_sets": []},
        {"pair_sets": [], "results": [], "curves": [], "groups": [], "data": {}, "provenance": {}},
        {"pair_sets": [PairSetInput("edit", "edit", {}, None, [], "")]},
        {
            "pair_sets": [
                PairSetInput("edit", "edit", {"ok": 1}, {"singular_values": None, "flags": None}, [], "")
            ]
        },
        {"gallery": 0},
    ],
)
def test_a_page_can_be_made_of_little(given: dict[str, Any], changes: dict[str, Any]) -> None:
    data = assess(**(given | changes))
    bare = replace(
        data,
        curves=data.curves[:1],
        pair_sets=tuple(
            replace(p, quality={k: v for k, v in p.quality.items() if k == "verdict"}) for p in data.pair_sets
        ),
    )
    page = Page(render_html(bare))
    assert page.headings[1][1] == "Verdict"
    assert not re.search(r"\b(None|nan|inf)\b", page.words)


def test_nan_never_reaches_the_reader(given: dict[str, Any]) -> None:
    nan = float("nan")
    numbers = ("worst_group", "worst_group_low", "worst_group_high", "average", "adjusted", "flip_rate")
    rows = [row | dict.fromkeys(numbers, nan) for row in given["results"]]
    quality = {
        "singular_values": [nan, 2.0, 1.0], "noise_edge": nan, "sigma": nan, "rank": None,
        "rank_interval": [nan, 1],
        "tradeoff": [{"r": r, "environment_removed": nan, "label_removed": nan} for r in range(3)],
        "forecast": [{"n_pairs": 10, "misalignment": nan, "low": None, "high": None}],
        "split_half": None, "misalignment": nan, "alignment": [nan], "recommended_r": None, "verdict": None,
    }  # fmt: skip
    sets = [PairSetInput("edit", "edit", {"ok": 1}, quality, [], "")]
    page = Page(render_html(assess(**(given | {"results": rows, "pair_sets": sets, "curves": []}))))
    assert not re.search(r"\b(None|nan|inf)\b", page.words)


def test_many_groups_are_folded(given: dict[str, Any]) -> None:
    rows = [
        {"split": "train", "label": y, "label_name": f"l{y}", "env": e, "env_name": f"e{e}", "n": 50}
        for y in range(6)
        for e in range(6)
    ]
    assert "All 36 groups" in render_html(without_figures(assess(**(given | {"groups": rows}))))
    assert "All 4 groups" not in render_html(without_figures(assess(**given)))


def test_every_probe_says_its_budget_and_its_significance(given: dict[str, Any]) -> None:
    gains = {"gain": 0.61, "gain_low": 0.55, "gain_high": 0.66, "gain_p": 0.0005, "seconds": 1.5}
    rows = [row | (gains if row["method"] == "ncm" else {}) for row in given["results"]]
    extra = {"setting": {"class_weight": 3.0}, "settings_tried": 7, "fits": 154}
    for row in rows:
        row["params"] = json.dumps(json.loads(row["params"]) | extra)
    first = rows_of_probes(render_html(without_figures(assess(**(given | {"results": rows})))))[0]
    for words in ("class weight 3", 'data-v="7">7</td>', ">154</td>", ">61.0<", "55.0 to 66.0", "better"):
        assert words in first


def test_every_figure_of_the_page_is_in_the_json_with_its_caption_and_its_numbers(
    data: ReportData, html: str, page: Page
) -> None:
    found = render_json(data)
    notes = {note["id"]: note for note in found["figures"]}
    drawn = [str(f["id"]) for f in page.all("figure") if "id" in f and f["id"] != "forecasts"]
    assert set(drawn) <= set(notes) and len(drawn) == 2 + 3 + 3 + 3
    for note in notes.values():
        place: Any = found
        for key in note["numbers"]:
            place = place[key]
        assert place, note
        assert note["caption"] and note["caption"].replace(" %", "\u00a0%")[:40].replace(
            "r = ", "r\u00a0=\u00a0"
        )[:30] in unescape(html)


def test_pictures_of_240_pairs_stay_under_eight_megabytes(given: dict[str, Any], tmp_path: Path) -> None:
    noise = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(noise)
    sound = [pair for pair in given["pair_sets"][0].pairs if pair["status"] == "ok"]
    many = [sound[0] | {"pair_id": f"p{i}", "a_id": f"a{i}", "b_id": f"b{i}"} for i in range(240)]
    one = replace(given["pair_sets"][0], pairs=many)
    data = assess(
        **(given | {"pair_sets": [one], "gallery": 240, "image_of": lambda _item: noise, "curves": []})
    )
    page = render_html(data)
    assert page.count("<img ") == 480
    assert 1e6 < len(page.encode()) < 8e6


def test_a_long_page_is_made_within_ten_seconds_and_folds_the_rest(given: dict[str, Any]) -> None:
    pairs = [given["pair_sets"][0].pairs[i % 30] | {"pair_id": f"p{i}"} for i in range(5000)]
    quality = given["pair_sets"][0].quality | {
        "flags": [
            {"pair_id": f"p{i}", "flag": "outlier", "score": 1.0 + i, "severity": 2.0, "reason": "far out"}
            for i in range(0, 5000, 5)
        ]
    }
    one = replace(given["pair_sets"][0], pairs=pairs, quality=quality)
    means = [row for row in given["results"] if row["seed"] is None and row["pair_set"] == "edit"]
    results = [
        row | {"method": f"{row['method']}-{i}" if i else row["method"]} for i in range(334) for row in means
    ]
    assert len(results) >= 2000
    changes = {"pair_sets": [one], "results": results, "gallery": 100}
    begun = time.process_time()
    page = render_html(assess(**(given | changes)))
    assert time.process_time() - begun < 10
    assert len(page.encode()) < 8e6
    rows = rows_of_probes(page)
    assert len(rows) == len(results) and sum(' more"' in row for row in rows) == len(rows) - 60
    assert page.count("<img ") == page.count('loading="lazy" decoding="async"') == 400
