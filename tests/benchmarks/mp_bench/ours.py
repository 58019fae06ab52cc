"""This library's side: the same calls on the index that :func:`knn_adapters.wrap` returns, or that it builds itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

import knn_adapters
from mp_bench.engines import Engine, Hnswlib
from mp_plugins import MagicPyramidError

__all__ = ["BuiltHnswlib", "wrapped"]


class _Weighed:
    """Our indexes know what they take, arrays of the library that they stand on included."""

    index: Any

    def bytes_a_vector(self, n: int) -> float:
        """Return the bytes of codes, graph and the rest a vector."""
        del n  # stats() counts them itself
        return knn_adapters.stats(self.index).total_bytes


def wrapped(name: str, peer: Engine, build_seconds: float, clock: Callable[[], float]) -> tuple[Engine, float]:
    """Return an engine over ``wrap(peer.index)`` with the peer's calls, and the seconds of both builds together."""
    kind = type(f"Wrapped{type(peer).__name__}", (_Weighed, type(peer)), {"package": "knn_adapters"})
    ours: Engine = copy.copy(peer)
    ours.__class__ = kind
    ours.name = name
    started = clock()
    ours.index = knn_adapters.wrap(peer.index)
    return ours, build_seconds + clock() - started


class BuiltHnswlib(_Weighed, Hnswlib):
    """Our stand-in for hnswlib, filled by its own engine."""

    package = "knn_adapters"

    def build(self, base: npt.NDArray[np.float32]) -> None:
        """Build, or raise ``MagicPyramidError`` where this release can only wrap."""
        from knn_adapters import hnswlib

        self.fill(hnswlib.Index(space=self.metric, dim=base.shape[1]), base)


def built_or_wrapped(
    name: str, peer: Engine, base: npt.NDArray[np.float32], peer_seconds: float, clock: Callable[[], float]
) -> tuple[Engine, float]:
    """Return our engine, built by itself where it can be, else wrapped around ``peer``, and the seconds it took."""
    ours = BuiltHnswlib(name, peer.metric, peer.threads)
    started = clock()
    try:
        ours.build(base)
    except MagicPyramidError:
        return wrapped(name, peer, peer_seconds, clock)
    return ours, clock() - started
