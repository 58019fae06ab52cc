"""The conditions of a run: machine, versions, load."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import knn_adapters

__all__ = ["describe", "load_average", "processor"]

_PACKAGES = (
    "magic-pyramid", "numpy", "hnswlib", "faiss-cpu", "annoy", "usearch", "voyager", "scalable-vs"
)  # fmt: skip


def describe(packages: Sequence[str] = _PACKAGES) -> dict[str, Any]:
    """Return what a reader needs to judge the figures; ``packages`` are those whose versions matter."""
    return {
        "processor": f"{processor()} {_cpu_facts('cpu MHz')}".strip(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "simd_level": knn_adapters.simd_level(),
        "packages": {name: version for name in packages if (version := _version(name))},
    }


def load_average() -> float | None:
    """Return how many processes wanted a core in the last minute; None where the system doesn't say."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def processor() -> str:
    """Return the name of the processor with what else identifies it; equal in every run on it."""
    return _cpu_facts("cpu family", "model", "model name", "cache size") or platform.processor()


def _cpu_facts(*names: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    facts = {key.strip(): value.strip() for key, value in (line.split(":", 1) for line in lines if ":" in line)}
    return " ".join(f"{name} {facts[name]}" for name in names if name in facts)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
