"""Arithmetic of the comparison: recall, medians, and speed at equal recall."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Point", "Truth", "exact", "median_speed", "ratio", "speed_at"]

_VALUES_AT_ONCE = 20_000_000  # similarities that are held at once
_ROUNDING = 1e-6  # of float32, in which the exact search decides


@dataclass(frozen=True)
class Point:
    """One setting of an engine's knob; ``effort`` is 0 where there is none."""

    effort: int
    recall: float
    speed: float


def exact(
    base: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int, metric: str
) -> npt.NDArray[np.int64]:
    """Return the true neighbours ``(q, k)`` by exhaustive float32 search; ties may fall either way."""
    half_norms = np.einsum("ij,ij->i", base, base) / 2 if metric == "l2" else np.float32(0)
    found = np.empty((len(queries), k), np.int64)
    block = max(1, _VALUES_AT_ONCE // len(base))
    for start in range(0, len(queries), block):
        nearness = queries[start : start + block] @ base.T - half_norms
        best = np.argpartition(-nearness, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(nearness, best, axis=1), axis=1)
        found[start : start + block] = np.take_along_axis(best, order, axis=1)
    return found


@dataclass(frozen=True)
class Truth:
    """What is right to find: ids ``(q, k)`` of the exact neighbours, and whatever is just as near as the k-th of them.

    Real data holds duplicates, and which of two equal vectors an engine returns says nothing about it.
    """

    base: npt.NDArray[np.float32]
    queries: npt.NDArray[np.float32]
    metric: str
    ids: npt.NDArray[np.int64]

    @classmethod
    def of(cls, base: npt.NDArray[np.float32], queries: npt.NDArray[np.float32], k: int, metric: str) -> Truth:
        """Search ``base`` ``(n, d)`` for the k nearest of each of ``queries`` ``(q, d)``."""
        return cls(base, queries, metric, exact(base, queries, k, metric))

    @property
    def k(self) -> int:
        """Number of neighbours."""
        return self.ids.shape[1]

    def recall(self, found: npt.NDArray[np.int64]) -> float:
        """Return the share of ``found`` ``(q, k)`` that is right; ids below 0 are not."""
        reached = self._nearness(self.ids).min(axis=1, keepdims=True)
        right = self._nearness(found) >= reached - _ROUNDING * np.abs(reached)
        return float((right & (found >= 0)).mean())

    def _nearness(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return what grows as the items ``ids`` ``(q, k)`` come nearer, in double precision."""
        made = np.empty(ids.shape, np.float64)
        for row, places in enumerate(np.maximum(ids, 0)):
            items, query = self.base[places].astype(np.float64), self.queries[row].astype(np.float64)
            made[row] = items @ query if self.metric == "ip" else -((items - query) ** 2).sum(axis=1)
        return made


def median_speed(rounds: Sequence[float]) -> float:
    """Return the median of the speeds of several rounds."""
    return statistics.median(rounds)


def speed_at(points: Sequence[Point], recall: float) -> float | None:
    """Return the queries a second at ``recall``; None if no setting reaches it.

    The logarithm of the speed is interpolated linearly between the two nearest of the best settings (one that another
    beats in both recall and speed is left out). Below the lowest recall measured, the speed of the fastest
    setting counts: nobody is credited with a speed that was not measured.
    """
    best = _frontier(points)
    if not best or recall > best[-1].recall:
        return None
    if recall <= best[0].recall:
        return best[0].speed
    upper = next(place for place, point in enumerate(best) if point.recall >= recall)
    low, high = best[upper - 1], best[upper]
    share = (recall - low.recall) / (high.recall - low.recall)
    return math.exp((1 - share) * math.log(low.speed) + share * math.log(high.speed))


def ratio(ours: float | None, peers: float | None) -> float:
    """Return ours over the peer's: 0 if ours is missing, infinity if only the peer's is."""
    if ours is None:
        return 0.0
    return math.inf if peers is None else ours / peers


def _frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats, by ascending recall and so by descending speed."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.recall, -point.speed)):
        if not kept or point.speed > kept[-1].speed:
            kept.append(point)
    return kept[::-1]
