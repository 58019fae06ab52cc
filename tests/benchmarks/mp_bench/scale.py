"""How the time of a query grows with the number of vectors, at one recall."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from mp_bench.curves import Truth, speed_at
from mp_bench.data import Data, first, mixed
from mp_bench.engines import Engine, FaissIndex
from mp_bench.keeping import Shelf
from mp_bench.measuring import Subject
from mp_bench.plan import PAIRED, peers_of
from mp_bench.session import build_pairs, release, timed_sweep

__all__ = ["RECALL", "Growth", "Step", "grow"]

RECALL = 0.95  # of the engines with a knob
_GROUPS = ("graph", "ivf", "flat")


@dataclass
class Growth:
    """Microseconds a query, one by one, of an engine by number of vectors; sizes where it misses the recall lack."""

    engine: str
    microseconds: dict[int, float] = field(default_factory=dict)

    @property
    def exponent(self) -> float | None:
        """b of the fit ``time ~ n ** b``; None of fewer than two sizes."""
        if len(self.microseconds) < 2:
            return None
        sizes, times = np.log(list(self.microseconds)), np.log(list(self.microseconds.values()))
        return float(np.polyfit(sizes, times, 1)[0])


@dataclass(frozen=True)
class Step:
    """One group of one size that is finished: its engines, and the growth of all engines so far."""

    label: str
    size: int
    subjects: dict[str, Subject]
    growths: list[Growth]
    skipped: list[str]


def grow(data: Data, given: argparse.Namespace, shelf: Shelf) -> Iterator[Step]:
    """Yield a step after each group of each size of ``given.scale``, smallest first, from mixtures of ``data``."""
    sizes = sorted(given.scale)
    whole = mixed(data, sizes[-1])
    growths: dict[str, Growth] = {}
    skipped: list[str] = []
    for size in sizes:
        part = first(whole, size)
        truth = Truth.of(part.base, part.queries, given.k, part.metric)
        for group in _GROUPS:
            peers = [_scaled(peer, size) for peer in peers_of(group, given.peers, part.metric, given.threads)]
            names = {_general(peer): _general(ours) for ours, peer in PAIRED[group].items()}
            built = build_pairs(f"{group} of {size:,}", peers, names, part, shelf, skipped)
            timed_sweep(f"{group} of {size:,}", built, part.queries, truth, given, modes=("one",))
            for subject in built:
                growth = growths.setdefault(subject.engine.name, Growth(subject.engine.name))
                speed = _speed(subject)
                if speed is not None:
                    growth.microseconds[size] = 1e6 / speed
            release(built)
            subjects = {subject.engine.name: subject for subject in built}
            # A library that is missing is missing at every size.
            yield Step(whole.label, size, subjects, list(growths.values()), list(dict.fromkeys(skipped)))


def _speed(subject: Subject) -> float | None:
    points = subject.points["one"]
    return points[0].speed if list(subject.recalls) == [0] else speed_at(points, RECALL)


def _scaled(peer: Engine, size: int) -> Engine:
    """Return ``peer`` with the power of two nearest to three quarters of the root of ``size`` as number of lists.

    That is 256 for 116 000; a fixed number would make lists, and so time, grow with the size.
    """
    if not (isinstance(peer, FaissIndex) and peer.kind.startswith("IVF")):
        return peer
    scaled = copy.copy(peer)
    n_lists = 2 ** round(np.log2(0.75 * np.sqrt(size)))
    scaled.name, scaled.kind = _general(peer.name), peer.kind.replace("IVF256", f"IVF{n_lists}")
    return scaled


def _general(name: str) -> str:
    return name.replace("IVF256", "IVF")
