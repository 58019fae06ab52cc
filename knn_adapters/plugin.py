"""The plug-in through which this package's own adapters, quantizer and demo come in, as a stranger's would."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import mp_plugins
from knn_adapters import _core, bench_command, wrap_command
from knn_adapters.adapters import AnnoyAdapter, FaissAdapter, HnswlibAdapter
from knn_adapters.demo import IndexesPart
from knn_adapters.quantizer import Quantizer
from mp_plugins import DemoPart, Registry, Subcommand

__all__: list[str] = []

_LIBRARIES = {"faiss": "faiss-cpu", "hnswlib": "hnswlib", "annoy": "annoy"}
"""Extra of this distribution -> distribution that it installs."""


@mp_plugins.hookimpl
def mp_register_quantizers(registry: Registry[type[Any]]) -> None:
    """Register the affine scalar quantizer."""
    registry.register("scalar", Quantizer)


@mp_plugins.hookimpl
def mp_register_index_adapters(registry: Registry[Any]) -> None:
    """Register the adapters of the three libraries, installed or not."""
    registry.register("annoy", AnnoyAdapter())
    registry.register("faiss", FaissAdapter())
    registry.register("hnswlib", HnswlibAdapter())


@mp_plugins.hookimpl
def mp_register_diagnostics(registry: Registry[Callable[[], Mapping[str, str]]]) -> None:
    """Register the rows of ``magic-pyramid doctor``."""
    registry.register("knn_adapters", _diagnostics)


@mp_plugins.hookimpl
def mp_register_subcommands(registry: Registry[Subcommand]) -> None:
    """Register ``wrap``."""
    registry.register("wrap", wrap_command.SUBCOMMAND)


@mp_plugins.hookimpl
def mp_register_benchmarks(registry: Registry[Subcommand]) -> None:
    """Register ``bench index``."""
    registry.register("index", bench_command.SUBCOMMAND)


@mp_plugins.hookimpl
def mp_register_demo_parts(registry: Registry[DemoPart]) -> None:
    """Register the part of the demo that wraps three indexes."""
    registry.register("indexes", IndexesPart())


def _diagnostics() -> dict[str, str]:
    rows = {
        "SIMD level": _core.simd_level(),
        "SIMD levels of this machine": ", ".join(_core.simd_levels()),
        "numpy": np.__version__,
    }
    return rows | {
        extra: mp_plugins.installed_version(
            distribution, otherwise=f"missing: pip install 'magic-pyramid[{extra}]' to wrap its indexes"
        )
        for extra, distribution in _LIBRARIES.items()
    }
