"""Data cards and thumbnails."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfpairs.report.markdown import render_markdown
from cfpairs.report.thumbnails import Thumbnail, thumbnail


def test_headings_of_a_card_follow_without_gaps() -> None:
    text = "### deep first\n# top\n### skips one\n#### deeper\n## back\n# top again\n"
    assert re.findall(r"<h(\d)>", render_markdown(text)) == ["4", "4", "5", "6", "5", "4"]


def test_a_card_cannot_bring_html_links_or_pictures() -> None:
    html = render_markdown(
        "<b onclick='x()'>raw</b> ![pic](http://e.org/p.png) [text](http://e.org/?a=1&b=2) <http://e.org>\n\n"
        "<div>block</div>\n\n[bad](javascript:alert(1))"
    )
    assert not re.search(r"<(a|img|b|div)\b", html)
    assert "&lt;b onclick" in html and "text (http://e.org/?a=1&amp;b=2)" in html


def test_links_inside_headings_and_tables_keep_their_own_address() -> None:
    html = render_markdown(
        "# [a](http://a.org)\n\n| [b](http://b.org) | c |\n|--|--|\n| [d](http://d.org) | e |\n"
    )
    for name in "abd":
        assert f"{name} (http://{name}.org)" in html
    assert html.count('<th scope="col">') == 2 and '<div class="scroll"' in html


def test_lists_code_and_emphasis_are_rendered() -> None:
    html = render_markdown("- one\n- *two*\n\n`x < 1`\n")
    assert "<li>one</li>" in html and "<em>two</em>" in html and "<code>x &lt; 1</code>" in html
    assert render_markdown("") == ""


def decoded(small: Thumbnail | None) -> Image.Image:
    assert small is not None
    head, _, body = small.uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(body)))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16", "F"])
def test_every_kind_of_image_becomes_a_small_jpeg(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("image.tiff" if mode in {"CMYK", "F"} else "image.png")
    if mode in {"I;16", "F"}:
        values = np.linspace(1000, 1200, 300 * 200).reshape(200, 300)
        Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.float32)).save(path)
    else:
        Image.linear_gradient("L").resize((300, 200)).convert(mode).save(path)
    small = decoded(thumbnail(path))
    assert (small.size, small.mode) == ((112, 75), "RGB")
    pixels = np.asarray(small)
    assert pixels.max() > 200 and pixels.min() < 60  # 16 bits are stretched, not cut


def test_transparent_parts_are_white_and_small_images_keep_their_size(tmp_path: Path) -> None:
    Image.new("RGBA", (28, 20), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    small = decoded(thumbnail(tmp_path / "clear.png"))
    assert small.size == (28, 20) and np.asarray(small).min() > 250


def test_orientation_is_respected(tmp_path: Path) -> None:
    image = Image.new("RGB", (300, 100))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert decoded(thumbnail(tmp_path / "turned.jpg")).size == (37, 112)


def test_what_is_no_image_gives_none(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.effect_noise((200, 200), 60).save(whole)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(whole.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    for path in (None, tmp_path, tmp_path / "absent.png", tmp_path / "text.png", cut):
        assert thumbnail(path) is None
    assert thumbnail(whole) is not None


def test_the_same_file_gives_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    Image.effect_noise((200, 200), 60).save(path)
    assert thumbnail(path) == thumbnail(path)
