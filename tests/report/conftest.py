"""The sample report, made once."""

from __future__ import annotations

from typing import Any

import pytest

from cfpairs.report.assess import assess
from cfpairs.report.model import ReportData
from tests.report.sample import sample


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments of ``assess``."""
    return sample(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="session")
def data(given: dict[str, Any]) -> ReportData:
    """The findings of the sample."""
    return assess(**given)
