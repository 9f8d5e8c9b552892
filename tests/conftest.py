"""Fixtures that every room's tests may use."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes import fake_workspace
from hypothesis import settings

from cfpairs.workspace import Workspace

settings.register_profile("cfpairs", deadline=None)  # a busy machine is no failure
settings.load_profile("cfpairs")


@pytest.fixture
def tiny_workspace(tmp_path: Path) -> Workspace:
    """A workspace of 40 tiny images in four groups, with masks and a manifest on disk."""
    return fake_workspace(tmp_path / "work")
