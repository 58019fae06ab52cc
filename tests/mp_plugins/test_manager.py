from importlib.metadata import EntryPoint

import pluggy
import pytest

import mp_plugins
from mp_plugins import ArgumentError, HookSpecs, PluginError, create_plugin_manager, load_registry
from mp_plugins.hookspecs import REGISTRY_KINDS


class StrangersPlugin:
    @mp_plugins.hookimpl
    def mp_register_exit_criteria(self, registry):
        registry.register("coin", int)


def test_our_own_packages_come_in_as_entry_points():
    names = {name for name, _ in create_plugin_manager().list_name_plugin()}
    assert {"mp_plugins", "hf_integration", "knn_adapters"} <= names


def test_a_plugin_registered_by_hand_fills_the_registry():
    manager = create_plugin_manager(load_entry_points=False)
    manager.register(StrangersPlugin())
    assert dict(load_registry("exit_criteria", manager)) == {"coin": int}


def test_every_manager_is_fresh():
    create_plugin_manager(load_entry_points=False).register(StrangersPlugin())
    assert not load_registry("exit_criteria", create_plugin_manager(load_entry_points=False))


def test_an_unknown_kind_lists_the_kinds():
    with pytest.raises(
        ArgumentError, match="`kind` must name a registry, got 'pruners': use one of benchmarks, demo_parts"
    ):
        load_registry("pruners")


def test_a_misspelt_hook_fails_at_start_up(monkeypatch):
    class Misspelt:
        @mp_plugins.hookimpl
        def mp_register_exit_criterions(self, registry):
            pass

    entry_point = EntryPoint("misspelt", "misspelt_module", mp_plugins.ENTRY_POINT_GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Misspelt())
    monkeypatch.setattr("mp_plugins.manager.entry_points", lambda group: [entry_point])
    with pytest.raises(PluginError, match="mp_register_exit_criterions"):
        create_plugin_manager()


def test_a_plugin_that_cannot_be_imported_is_named(monkeypatch):
    entry_point = EntryPoint("broken", "a_module_that_is_not_there", mp_plugins.ENTRY_POINT_GROUP)
    monkeypatch.setattr("mp_plugins.manager.entry_points", lambda group: [entry_point])
    with pytest.raises(PluginError, match=r"plug-in `broken` .*cannot be imported: No module named"):
        create_plugin_manager()


def test_hook_arguments_are_checked():
    class WrongArgument:
        @mp_plugins.hookimpl
        def mp_register_subcommands(self, table):
            pass

    manager = create_plugin_manager(load_entry_points=False)
    with pytest.raises(pluggy.PluginValidationError, match="table"):
        manager.register(WrongArgument())


def test_every_hook_has_a_registry_and_every_registry_a_hook():
    hooks = {name.removeprefix("mp_register_") for name in vars(HookSpecs) if name.startswith("mp_register_")}
    assert hooks == set(REGISTRY_KINDS)
