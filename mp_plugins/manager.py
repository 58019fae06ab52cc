"""Finding plug-ins and reading what they register."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from mp_plugins.errors import PluginError, argument_error
from mp_plugins.hookspecs import ENTRY_POINT_GROUP, REGISTRY_KINDS, HookSpecs
from mp_plugins.registry import Registry

__all__ = ["create_plugin_manager", "load_registry"]


def create_plugin_manager(*, load_entry_points: bool = True) -> pluggy.PluginManager:
    """Return a fresh manager that knows our hooks and, by default, every installed plug-in.

    Raises:
        PluginError: a plug-in cannot be imported, or implements a hook that does not exist; both messages name it.
    """
    manager = pluggy.PluginManager(ENTRY_POINT_GROUP)
    manager.add_hookspecs(HookSpecs)
    if load_entry_points:
        for entry_point in sorted(entry_points(group=ENTRY_POINT_GROUP), key=lambda found: found.name):
            manager.register(_import_plugin(entry_point), name=entry_point.name)
    try:
        manager.check_pending()
    except pluggy.PluginValidationError as error:
        raise PluginError(f"a plug-in implements a hook that does not exist: {error}") from error
    return manager


def load_registry(kind: str, manager: pluggy.PluginManager | None = None) -> Registry[Any]:
    """Return a new registry filled by the hook ``mp_register_<kind>`` of all plug-ins.

    Args:
        kind: ``"token_pruners"``, ``"index_adapters"``, ...: the rest of a hook's name.
        manager: the manager to ask; a fresh one by default.
    """
    if kind not in REGISTRY_KINDS:
        raise argument_error(
            "kind", "must name a registry", repr(kind), f"use one of {', '.join(sorted(REGISTRY_KINDS))}"
        )
    registry: Registry[Any] = Registry(REGISTRY_KINDS[kind])
    manager = manager or create_plugin_manager()
    getattr(manager.hook, f"mp_register_{kind}")(registry=registry)
    return registry


def _import_plugin(entry_point: EntryPoint) -> object:
    try:
        return entry_point.load()
    except Exception as error:
        origin = entry_point.dist.name if entry_point.dist else "an unknown distribution"
        raise PluginError(
            f"plug-in `{entry_point.name}` ({entry_point.value}, from {origin}) cannot be imported: {error}. "
            f"Repair it or uninstall {origin}"
        ) from error
