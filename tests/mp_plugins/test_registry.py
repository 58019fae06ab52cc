import pytest

from mp_plugins import ArgumentError, PluginError, Registry


def test_registered_objects_are_found_by_name():
    registry = Registry("token pruner")
    registry.register("attention", int)
    assert registry["attention"] is int
    assert "attention" in registry
    assert "other" not in registry
    assert list(registry) == ["attention"]
    assert len(registry) == 1


def test_an_unknown_name_lists_the_known_ones():
    registry = Registry("token pruner")
    registry.register("first", int)
    registry.register("second", str)
    with pytest.raises(PluginError, match="unknown token pruner `third`: known names are first, second"):
        registry["third"]


def test_an_empty_registry_says_that_it_knows_none():
    with pytest.raises(PluginError, match="known names are none"):
        Registry("quantizer")["affine"]


def test_a_duplicate_name_shows_both_objects_and_keeps_the_first():
    registry = Registry("exit criterion")
    registry.register("entropy", int)
    with pytest.raises(PluginError, match="`entropy` is registered twice, as <class 'int'> and as <class 'str'>"):
        registry.register("entropy", str)
    assert registry["entropy"] is int


@pytest.mark.parametrize("name", ["", "Entropy", "1st", "two words", "é"])
def test_a_bad_name_is_refused(name):
    with pytest.raises(ArgumentError, match="`name` must match"):
        Registry("exit criterion").register(name, int)
