import pytest

from cfpairs import registry
from cfpairs.errors import UnknownNameError


def test_every_built_in_name_can_be_imported():
    for kind in registry.KINDS:
        for name in registry.entries(kind):
            assert registry.resolve(kind, name) is not None


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="perhaps 'nearest'"):
        registry.resolve("pairs", "neerest")


def test_unknown_name_far_from_all_lists_all():
    with pytest.raises(UnknownNameError, match="one of edit, import, nearest, prompt, random, transfer"):
        registry.resolve("pairs", "zzz")


def test_unknown_kind():
    with pytest.raises(UnknownNameError, match="perhaps 'probes'"):
        registry.available("probe")


def test_entry_points_add_names(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("mine", "tests.test_registry:MINE", "cfpairs.probes")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "cfpairs.probes" else [])
    registry.entries.cache_clear()
    try:
        assert "mine" in registry.available("probes")
        assert registry.resolve("probes", "mine") == MINE
    finally:
        registry.entries.cache_clear()


MINE = "a probe from elsewhere"
