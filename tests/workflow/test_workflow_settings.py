"""Settings on the command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfpairs.errors import ConfigError
from cfpairs.workflow.settings import merged, parse_settings

VALUES = st.recursive(
    st.integers() | st.lists(st.integers(), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
SECTIONS = st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ("a=1", {"o": {"a": 1}}),
        ("x.y.z=[1, two]", {"x": {"y": {"z": [1, "two"]}}}),
        ("own.y=no", {"o": {"own": {"y": False}}}),
        ("a=x=y", {"o": {"a": "x=y"}}),
        ("a=", {"o": {"a": None}}),
        ("a={b: 1}", {"o": {"a": {"b": 1}}}),
    ],
)
def test_keys_are_dotted_and_values_are_yaml(setting: str, found: dict[str, object]) -> None:
    assert parse_settings([setting], ["own"], ["o"]) == found


def test_a_later_setting_goes_over_an_earlier_one() -> None:
    assert parse_settings(["a=1", "a=2", "b.c=1", "b.d=2"]) == {"a": 2, "b": {"c": 1, "d": 2}}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["a"], "got 'a', expected KEY=VALUE"),
        (["=1"], "expected KEY=VALUE"),
        (["a..b=1"], "expected KEY=VALUE"),
        (["a=["], "the value of setting 'a' cannot be read"),
        (["a.b=1", "a.b.c=2"], "contradicts another"),
    ],
)
def test_settings_that_cannot_be_read_are_one_line(settings: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_settings(settings)
    assert "\n" not in str(caught.value)


@given(under=SECTIONS, over=SECTIONS, last=SECTIONS)
def test_merging_keeps_what_is_over_and_changes_nothing_it_is_given(
    under: dict[str, object], over: dict[str, object], last: dict[str, object]
) -> None:
    before = repr((under, over))
    found = merged(under, over)
    assert repr((under, over)) == before
    assert set(found) == set(under) | set(over)
    for key, value in over.items():
        if not isinstance(value, dict):
            assert found[key] == value
    assert merged(found, over) == found and merged({}, over) == over == merged(over, {})
    assert under.keys() & over.keys() or found == {**over, **under}


def test_lists_are_replaced_whole() -> None:
    assert merged({"p": [1, 2, 3]}, {"p": [4]}) == {"p": [4]}
