"""A canvas in the report's style that becomes an inline ``<svg>`` element.

Text stays text in the page's font, and every colour is a CSS variable of the page, so that one drawing
serves light and dark, screen and paper. The same drawing gives the same bytes.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FONT", "MAX_SERIES", "TOKENS", "Canvas"]

MAX_SERIES = 6
"""Curves that one figure can hold with colours and markers that are told apart."""

TOKENS = {
    "ink": "#0a0b01",
    "muted": "#0a0b02",
    "line": "#0a0b03",
    **{f"s{i + 1}": f"#0a0c{i:02d}" for i in range(MAX_SERIES)},
}
"""Stand-in colours to draw with; each becomes the CSS variable of its name."""

FONT = 11.5
"""Size of text in CSS pixels."""

LETTER, LEGEND_HANDLE = 6.8, 62.0
"""Width in CSS pixels of a letter, and of a legend's line with the space around it; both on the safe side."""


class Canvas:
    """A figure that is independent of the user's matplotlib settings.

    Parameters
    ----------
    name : str
        Unique in the page; prefixes the ids inside the drawing.
    width, height : int
        Natural size in CSS pixels.
    """

    def __init__(self, name: str, width: int, height: int) -> None:
        self.name = name
        self.width, self.height = width, height
        with _style(name):
            from matplotlib.figure import Figure

            # one point of the drawing is one CSS pixel of the page
            self.figure: Figure = Figure(figsize=(width / 72, height / 72), layout="constrained")

    def axes(self, x: str, y: str) -> Axes:
        """Axes named `x` and `y`, with a light frame and horizontal guides."""
        with _style(self.name):
            axes = self.figure.add_subplot()
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(TOKENS["line"])
        axes.tick_params(length=0, labelsize=FONT, labelcolor=TOKENS["muted"], pad=5)
        axes.grid(axis="y", color=TOKENS["line"], lw=0.8)
        axes.set_axisbelow(True)
        axes.set_xlabel(x, color=TOKENS["muted"], fontsize=FONT)
        axes.set_ylabel(y, color=TOKENS["muted"], fontsize=FONT)
        self.figure.patch.set_visible(False)
        axes.patch.set_visible(False)
        return axes

    def legend(self, axes: Axes) -> None:
        """Names above the drawing, where they hide nothing, in as many columns as fit."""
        handles, labels = axes.get_legend_handles_labels()
        names = [_shortened(label, int((self.width - LEGEND_HANDLE) / LETTER)) for label in labels]
        column = LEGEND_HANDLE + LETTER * max(map(len, names))
        with _style(self.name):
            self.figure.legend(
                handles,
                names,
                loc="outside upper left",
                ncols=max(1, min(len(handles), int(self.width / column))),
                frameon=False,
                fontsize=FONT,
                labelcolor=TOKENS["ink"],
                handlelength=2.6,
                columnspacing=1.8,
                borderaxespad=0.2,
            )

    def svg(self, description: str) -> Markup:
        """The drawing as an element, with `description` for those who cannot see it."""
        from matplotlib.text import Text

        for text in self.figure.findobj(Text):
            text.set_parse_math(False)  # a "$" in a name is a "$"
        buffer = io.StringIO()
        with _style(self.name), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the browser has its own
            self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        root = ET.fromstring(buffer.getvalue())  # noqa: S314 - written by matplotlib one line above
        return Markup(_inline(root, self.name, self.width, self.height, description))  # noqa: S704


def _shortened(name: str, most: int) -> str:
    """`name` with its middle left out if it has more than `most` letters."""
    if len(name) <= most:
        return name
    return f"{name[: most // 2]}\u2026{name[len(name) - (most - most // 2 - 1) :]}"


@contextmanager
def _style(name: str) -> Iterator[None]:
    """Matplotlib's own defaults, text kept as text, and ids that depend on `name` only."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": name})
        yield


def _inline(root: ET.Element, name: str, width: int, height: int, description: str) -> str:
    svg = ET.Element(
        "svg",
        {
            "viewBox": f"0 0 {width} {height}",
            "width": str(width),
            "height": str(height),
            "role": "img",
            "aria-label": description,
        },
    )
    for child in root:
        svg.extend(_cleaned(child, name))
    used = {m for el in svg.iter() for v in el.attrib.values() for m in re.findall(r"#([\w.-]+)", v)}
    for element in svg.iter():
        if element.get("id") not in used:
            element.attrib.pop("id", None)
    return ET.tostring(svg, encoding="unicode")


def _cleaned(element: ET.Element, name: str) -> list[ET.Element]:
    """`element` without what the page does not need; a group that says nothing gives way to its children."""
    tag = element.tag.rpartition("}")[2]
    if tag in ("metadata", "style"):
        return []
    children = [clean for child in element for clean in _cleaned(child, name)]
    attributes: dict[str, str] = {}
    for key, value in element.attrib.items():
        key = key.rpartition("}")[2]
        if key == "id":
            attributes["id"] = f"{name}-{value}"
        elif key == "href":
            attributes["href"] = f"#{name}-{value.removeprefix('#')}"
        elif not (key == "transform" and value.startswith("rotate(-0 ")):
            attributes[key] = _rounded(_style_of(value) if key == "style" else value)
        if key == "clip-path":
            attributes[key] = value.replace("url(#", f"url(#{name}-")
    if tag in ("g", "defs") and not set(attributes) - {"id"}:
        return children if tag == "g" else [_element(tag, {}, children)] if children else []
    return [_element(tag, attributes, children, (element.text or "").strip())]


def _element(tag: str, attributes: dict[str, str], children: list[ET.Element], text: str = "") -> ET.Element:
    made = ET.Element(tag, attributes)
    made.text = text or None
    made.extend(children)
    return made


def _style_of(value: str) -> str:
    """A style attribute with the page's colours and font."""
    kept = []
    for declaration in value.split(";"):
        key, _, setting = (part.strip() for part in declaration.partition(":"))
        if key == "font":
            size = re.search(r"[\d.]+px", setting)
            key, setting = "font-size", size[0] if size else f"{FONT}px"
        if not key or key == "font-family" or (key == "stroke-dashoffset" and setting == "0"):
            continue
        kept.append(f"{key}:{setting}")
    text = ";".join(kept)
    for token, colour in TOKENS.items():
        text = text.replace(colour, f"var(--{token})")
    return text


def _rounded(value: str) -> str:
    """Coordinates to a hundredth of a pixel."""
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", " ".join(value.split()))
