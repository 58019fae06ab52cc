"""Contracts of the Magic Pyramid plug-ins: hooks, registries, errors and the command line."""

from mp_plugins.demo_parts import Check, DemoContext, DemoPart, Figure, Section, Table
from mp_plugins.diagnostics import installed_version
from mp_plugins.errors import (
    ArgumentError,
    ArgumentTypeError,
    MagicPyramidError,
    MissingDependencyError,
    PluginError,
    UnsupportedError,
    UsageError,
    argument_error,
    missing_dependency,
)
from mp_plugins.hookspecs import ENTRY_POINT_GROUP, HookSpecs, hookimpl
from mp_plugins.manager import create_plugin_manager, load_registry
from mp_plugins.registry import Registry
from mp_plugins.subcommands import Subcommand, check_counts

__all__ = [
    "ENTRY_POINT_GROUP",
    "ArgumentError",
    "ArgumentTypeError",
    "Check",
    "DemoContext",
    "DemoPart",
    "Figure",
    "HookSpecs",
    "MagicPyramidError",
    "MissingDependencyError",
    "PluginError",
    "Registry",
    "Section",
    "Subcommand",
    "Table",
    "UnsupportedError",
    "UsageError",
    "argument_error",
    "check_counts",
    "create_plugin_manager",
    "hookimpl",
    "installed_version",
    "load_registry",
    "missing_dependency",
]
