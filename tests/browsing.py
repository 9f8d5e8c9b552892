"""Debian's Chromium for the tests of pages, and axe's check of what a page asks of people."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BROWSER = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
NO_BROWSER = "no Chromium is installed (Debian: apt install chromium)"
NO_AXE = "axe is not installed (pip install axe-playwright-python)"


@contextmanager
def launched(sync_api: Any) -> Iterator[Any]:
    """The browser, ended in the end."""
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()


def grave_faults(page: Any, axe: Any, **rules: bool) -> list[tuple[str, str, list[str]]]:
    """Every fault that axe calls critical or serious: its kind, what it is, and the elements.

    Parameters
    ----------
    page : playwright.sync_api.Page
        Of a context with ``bypass_csp``, as axe is a script that the page does not know.
    axe : module
        ``axe_playwright_python.sync_playwright``.
    rules : bool
        Rules of axe to leave out (False), ``_`` for ``-``.
    """
    chosen = {name.replace("_", "-"): {"enabled": on} for name, on in rules.items()}
    options = {"resultTypes": ["violations"], "rules": chosen}
    found = axe.Axe().run(page, options=options).response["violations"]
    return [
        (fault["impact"], fault["id"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("critical", "serious")
    ]
