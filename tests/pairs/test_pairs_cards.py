"""The data card of a pair set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from fakes import fake_manifest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from cfpairs.pairs.base import BuildInputs
from cfpairs.pairs.cards import pair_card, plain
from cfpairs.pairs.cells import TrainItems
from cfpairs.workspace import Workspace

EVIL = "<script>alert(1)</script>|*x* [y](z) `c` # &lt; _e_"


@pytest.fixture
def inputs(tmp_path: Path) -> BuildInputs:
    workspace = Workspace(tmp_path)
    counts = {("train", y, e): 1 for y in (0, 1) for e in (0, 1)}
    return BuildInputs(workspace, "mine", fake_manifest(workspace, counts, size=8), 9, 4, licence="CC0")


def row(
    status: str = "ok", reason: str | None = None, cell: tuple[Any, Any, Any] = (0, 0, 1)
) -> dict[str, Any]:
    return dict(zip(("label", "env_a", "env_b"), cell, strict=True)) | {"status": status, "reason": reason}


def card(inputs: BuildInputs, rows: list[dict[str, Any]], **changes: Any) -> str:
    given: dict[str, Any] = {
        "method": "By hand.",
        "settings": {"reuse": True},
        "limits": ["none"],
        "notes": [],
    }
    return pair_card(inputs, TrainItems.of(inputs.manifest), rows, **(given | changes))


def html(text: str) -> str:
    return str(MarkdownIt("commonmark", {"html": True}).enable("table").render(text))


def test_a_card_says_all_that_was_done(inputs: BuildInputs) -> None:
    rows = [
        row(),
        row(),
        row("rejected", "blurred: a"),
        row("rejected", "blurred: b"),
        row("dropped", "late"),
    ]
    text = card(inputs, rows, notes=["one note"])
    for words in (
        "# Pair set mine",
        "By hand.",
        "4 training items: lying on green: 1",
        "Licence: CC0",
        "| pairs asked for | 9 |",
        "| seed | 4 |",
        "| reuse | True |",
        "2 ok, 2 rejected, 1 dropped. Yield: 2 of 4 tried, 50.0 %.",
        "| label | from | to | ok | rejected | dropped |",
        "| lying | green | brown | 2 | 2 | 1 |",
        "| blurred | 2 | a |",
        "- one note",
        "- none",
    ):
        assert words in text, words
    assert "## Rejected" not in card(inputs, [row()]) and "## Notes" not in card(inputs, [row()])
    assert "dropped" not in card(inputs, [row()])


def test_a_builder_may_say_itself_how_many_were_asked_for(inputs: BuildInputs) -> None:
    text = card(inputs, [row()], settings={"pairs asked for": "all"})
    assert "| pairs asked for | all |" in text and "| 9 |" not in text


def test_no_pair_and_cells_that_are_not_known(inputs: BuildInputs) -> None:
    assert "none." in card(inputs, [])
    assert "| not known | green | not known | 1 | 0 |" in card(inputs, [row(cell=(None, 0, None))])
    assert "Licence: not known" in card(replace(inputs, licence=""), [])


def test_names_make_nothing_of_the_page(inputs: BuildInputs) -> None:
    names = pa.array([EVIL if n == "green" else n for n in inputs.manifest["env_name"].to_pylist()])
    place = inputs.manifest.column_names.index("env_name")
    table = inputs.manifest.set_column(place, "env_name", names)
    rows = [row(), row("rejected", f"bad: {EVIL}")]
    text = card(replace(inputs, manifest=table, licence=EVIL), rows, notes=[EVIL], settings={EVIL: EVIL})
    page = html(text)
    assert page.count("alert(1)") >= 6
    for made in ("<script", "<a ", "<em>", "<code>"):
        assert made not in page
    # The same names unescaped would have made all of these.
    assert all(made in html(f"x {EVIL}") for made in ("<script", "<a ", "<em>", "<code>"))


@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1, max_size=30))
def test_plain_text_is_shown_as_it_is(text: str) -> None:
    shown = " ".join(text.split())
    if shown:
        escaped = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
        assert html(plain(text)).strip() == f"<p>{escaped}</p>"
