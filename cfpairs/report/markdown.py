"""Data cards (Markdown) as HTML that is safe to put into the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

__all__ = ["render_markdown"]


def render_markdown(text: str, top: int = 4) -> Markup:
    r"""Headings, paragraphs, lists, tables, quotations and code of a Markdown text.

    Raw HTML is shown as text. Images and links are shown as text too, links with their address behind
    them, so that the page never fetches anything.

    Parameters
    ----------
    text : str
    top : int
        Level of the text's highest headings in the page; deeper ones follow without gaps.

    Examples
    --------
    >>> render_markdown("# Pairs <b>")
    Markup('<h4>Pairs &lt;b&gt;</h4>\n')
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["image", "html_inline"])
    for name, rule in {
        "link_open": _nothing,
        "link_close": _address,
        "table_open": _table_open,
        "table_close": _table_close,
        "th_open": _header_cell,
    }.items():
        parser.renderer.rules[name] = rule  # type: ignore[attr-defined]
    tokens = parser.parse(text)
    _renumber_headings(tokens, top)
    _remember_addresses(tokens)
    return Markup(parser.renderer.render(tokens, parser.options, {}))  # noqa: S704 - html is switched off


def _renumber_headings(tokens: Sequence[Token], top: int) -> None:
    """Give headings the levels `top` and below, one step at a time, whatever the text skips."""
    outer: list[int] = []
    level = top
    for token in tokens:
        if token.type == "heading_open":
            own = int(token.tag[1])
            while outer and outer[-1] >= own:
                outer.pop()
            level = min(top + len(outer), 6)
            outer.append(own)
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{level}"


def _remember_addresses(tokens: Sequence[Token]) -> None:
    for block in tokens:
        open_links: list[Token] = []
        for token in block.children or []:
            if token.type == "link_open":
                open_links.append(token)
            elif token.type == "link_close" and open_links:
                link = open_links.pop()
                plain = link.markup == "autolink" or link.info == "auto"
                token.meta["address"] = "" if plain else str(link.attrs.get("href", ""))


def _nothing(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return ""


def _address(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    address = tokens[index].meta.get("address", "")
    return str(Markup(" ({})").format(address)) if address else ""


def _table_open(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return '<div class="scroll" tabindex="0" role="group" aria-label="Table of the data card">\n<table>\n'


def _table_close(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return "</table>\n</div>\n"


def _header_cell(tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    return '<th scope="col">'
