"""The hooks of a Magic Pyramid plug-in.

Every hook is called once, when a registry is read (:func:`mp_plugins.load_registry`), never in a forward pass or a
search loop. An implementation registers its objects and returns nothing:

    import mp_plugins

    @mp_plugins.hookimpl
    def mp_register_exit_criteria(registry):
        from my_package import PrototypeDistance
        registry.register("prototype-distance", PrototypeDistance)

A plug-in module must be cheap to import: import heavy libraries inside the hook, as above. It is found through the
entry point group ``magic_pyramid``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pluggy

from mp_plugins.demo_parts import DemoPart
from mp_plugins.registry import Registry
from mp_plugins.subcommands import Subcommand

__all__ = ["ENTRY_POINT_GROUP", "REGISTRY_KINDS", "HookSpecs", "hookimpl", "hookspec"]

ENTRY_POINT_GROUP = "magic_pyramid"

REGISTRY_KINDS: Mapping[str, str] = MappingProxyType(
    {
        "token_pruners": "token pruner",
        "exit_criteria": "exit criterion",
        "model_families": "model family",
        "quantizers": "quantizer",
        "index_adapters": "index adapter",
        "subcommands": "subcommand",
        "benchmarks": "benchmark",
        "demo_parts": "demo part",
        "diagnostics": "diagnostic",
    }
)
"""Each hook is ``mp_register_<key>``; the value names one of its objects in messages."""

hookspec = pluggy.HookspecMarker(ENTRY_POINT_GROUP)
hookimpl = pluggy.HookimplMarker(ENTRY_POINT_GROUP)


class HookSpecs:
    """The signatures; ``pluggy`` reads them from this class."""

    @hookspec
    def mp_register_token_pruners(self, registry: Registry[type[Any]]) -> None:
        """Register subclasses of ``hf_integration.TokenPruner`` by the name used in ``config.token_pruner``."""

    @hookspec
    def mp_register_exit_criteria(self, registry: Registry[type[Any]]) -> None:
        """Register subclasses of ``hf_integration.ExitCriterion`` by the name used in ``config.exit_criterion``."""

    @hookspec
    def mp_register_model_families(self, registry: Registry[Any]) -> None:
        """Register ``hf_integration.ModelFamily`` objects by the ``model_type`` of their transformers configuration."""

    @hookspec
    def mp_register_quantizers(self, registry: Registry[type[Any]]) -> None:
        """Register quantizer classes (``train``, ``encode``, ``decode``) by name."""

    @hookspec
    def mp_register_index_adapters(self, registry: Registry[Any]) -> None:
        """Register ``knn_adapters.IndexAdapter`` objects by the name of the library that they stand under."""

    @hookspec
    def mp_register_subcommands(self, registry: Registry[Subcommand]) -> None:
        """Register subcommands of ``magic-pyramid`` by the word that the user types."""

    @hookspec
    def mp_register_benchmarks(self, registry: Registry[Subcommand]) -> None:
        """Register subcommands of ``magic-pyramid bench`` by the word that the user types."""

    @hookspec
    def mp_register_demo_parts(self, registry: Registry[DemoPart]) -> None:
        """Register parts of ``magic-pyramid demo``; they run in the order that their artifacts require."""

    @hookspec
    def mp_register_diagnostics(self, registry: Registry[Callable[[], Mapping[str, str]]]) -> None:
        """Register functions that give ``magic-pyramid doctor`` its rows: ``fact -> value``."""
