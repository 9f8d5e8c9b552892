"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
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


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster of processes on this machine, for all tests of a file: it takes seconds to start."""
    if find_spec("ray") is None:  # importing Ray here would come before its settings
        pytest.skip("Ray is not installed")
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))
        from cfpairs.embedding.ray_cluster import on_cluster

        with on_cluster(None):
            yield
