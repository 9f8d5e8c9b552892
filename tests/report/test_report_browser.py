"""The page in a real browser, where one is installed."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cfpairs.report.assess import assess
from cfpairs.report.html import render_html

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDTHS = (400, 700, 1280, 1600)

# each frame is a window of its own width: media queries see it, and its content cannot widen it
WRAPPER = """<!DOCTYPE html><body>{frames}<pre id="found"></pre><script>
addEventListener("load", () => {{
  const found = [...document.querySelectorAll("iframe")].map((frame) => {{
    const root = frame.contentDocument.documentElement;
    const past = [...root.querySelectorAll("body *")].filter((el) =>
      !el.closest(".scroll, .hidden, svg") && el.getBoundingClientRect().right > root.clientWidth + 0.5);
    return {{
      scroll: root.scrollWidth, width: root.clientWidth, past: past.map((el) => el.outerHTML.slice(0, 80)),
      drawn: [...root.querySelectorAll("svg")].filter((el) => el.getBoundingClientRect().width > 0).length,
      broken: [...root.querySelectorAll("img")].filter((el) => !el.complete || !el.naturalWidth).length,
    }};
  }});
  document.getElementById("found").textContent = JSON.stringify(found);
}});
</script></body>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_the_page_never_scrolls_sideways(given: dict[str, Any], tmp_path: Path) -> None:
    page = render_html(assess(**(given | {"gallery": 3})))
    opened = page.replace("<details>", "<details open>")
    wide = page.replace("<h1>", '<div style="width:3000px">too wide</div><h1>', 1)
    frames = [(400, page), *((w, opened) for w in WIDTHS), (400, wide)]
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        WRAPPER.format(
            frames="".join(
                f'<iframe style="border:0;width:{w}px;height:900px" srcdoc="{html.escape(text)}"></iframe>'
                for w, text in frames
            )
        ),
        encoding="utf-8",
    )
    done = subprocess.run(
        [BROWSER or "", *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", wrapper.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    match = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    assert match is not None
    *pages, control = json.loads(html.unescape(match[1]))
    assert control["scroll"] > control["width"]  # the measurement can see a page that is too wide
    for (width, _text), found in zip(frames, pages, strict=False):
        assert found["width"] == width
        assert found["scroll"] <= width and found["past"] == []
        assert found["broken"] == 0
        assert found["drawn"] == 1 + 3 + 3  # the wide or the narrow form of the first figure, never both
