"""What the package imports is what installing it brings."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
CALLED = {
    "PIL": "pillow", "cv2": "opencv-python-headless", "faiss": "faiss-cpu", "markdown_it": "markdown-it-py",
    "open_clip": "open-clip-torch", "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Distributions that are not called as what they bring."""


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported() -> set[str]:
    found: set[str] = set()
    for path in (ROOT / "cfpairs").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module or "")
    return {name.partition(".")[0] for name in found} - {"cfpairs", *sys.stdlib_module_names}


def test_every_library_that_is_imported_is_asked_for_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    more = project["optional-dependencies"]
    asked = [*project["dependencies"], *(line for extra in set(more) - {"dev"} for line in more[extra])]
    names = {plain(re.split(r"[\[<>=;\s]", line)[0]) for line in asked}
    wanted = {plain(CALLED.get(name, name)) for name in imported()}
    assert "numpy" in wanted and wanted <= names
    pins = {plain(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {plain(re.split(r"[\[<>=;\s]", line)[0]) for line in project["dependencies"]} <= pins
