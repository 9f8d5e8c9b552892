import pytest

from cfpairs.errors import CfpairsError, ConfigError, DataError, MissingDependencyError, UnknownNameError


def test_message_is_one_line_with_got_expected_and_remedy():
    error = CfpairsError("r is\ntoo large", got=40, expected="at most 12", remedy="lower --r")
    assert str(error) == "r is too large: got 40, expected at most 12; lower --r"


@pytest.mark.parametrize(
    ("kind", "status"), [(CfpairsError, 1), (DataError, 1), (ConfigError, 2), (UnknownNameError, 2)]
)
def test_exit_status(kind, status):
    assert kind("x").exit_code == status


def test_data_errors_are_value_errors_for_scikit_learn():
    assert issubclass(DataError, ValueError)
    assert issubclass(MissingDependencyError, ImportError)
