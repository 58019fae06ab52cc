"""Our own subcommands, registered through the same door as everybody's."""

from __future__ import annotations

from mp_plugins.hookspecs import hookimpl
from mp_plugins.registry import Registry
from mp_plugins.subcommands import Subcommand

__all__: list[str] = []


@hookimpl
def mp_register_subcommands(registry: Registry[Subcommand]) -> None:
    """Register ``demo`` and ``doctor``."""
    from mp_plugins import demo, doctor

    registry.register("demo", demo.SUBCOMMAND)
    registry.register("doctor", doctor.SUBCOMMAND)
