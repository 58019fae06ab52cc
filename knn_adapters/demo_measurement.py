"""Measuring an index beside its wrapped form: time in interleaved rounds, recall against exact search."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.demo_subjects import Subject
from knn_adapters.evaluation import IndexStats, stats
from knn_adapters.recall import exact_neighbours, recall_at_k
from knn_adapters.wrapping import wrap

__all__ = ["Comparison", "K", "Point", "compare", "steps"]

K = 10
_ROUNDS = 5
_SECONDS = 0.5  # measuring goes on for so long, as a round of fast searches is over in milliseconds
_KINDS = ("original", "wrapped")

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Point:
    """One setting of the knob: recall@10 against exact ``float32`` search, queries a second one at a time."""

    effort: int
    recall: float
    queries_per_second: float


@dataclass(frozen=True)
class Comparison:
    """What was measured of one subject; ``curves`` and ``batch`` are keyed ``"original"`` and ``"wrapped"``."""

    subject: Subject
    figures: IndexStats
    build_seconds: float
    wrap_seconds: float
    curves: dict[str, list[Point]]
    batch: dict[str, float]

    def at_effort(self, kind: str) -> Point:
        """Return the point of the tables."""
        return next(point for point in self.curves[kind] if point.effort == self.subject.effort)

    def as_data(self) -> dict[str, Any]:
        """Return everything, in full precision, for the JSON file."""
        return {
            "effort_name": self.subject.effort_name,
            "stats": asdict(self.figures) | {"total_bytes": self.figures.total_bytes, "ratio": self.figures.ratio},
            "build_seconds": self.build_seconds,
            "wrap_seconds": self.wrap_seconds,
            "curves": {kind: [asdict(point) for point in points] for kind, points in self.curves.items()},
            "batch_queries_per_second": self.batch,
        }


def steps(subject: Subject) -> int:
    """Return how often :func:`compare` reports progress."""
    return 2 + len(subject.efforts) + 1


def compare(
    subject: Subject, vectors: _Floats, queries: _Floats, *, seed: int, num_threads: int, advance: Callable[[], object]
) -> Comparison:
    """Build, wrap and measure one subject, calling ``advance`` after each step."""
    started = time.perf_counter()
    original = subject.build(vectors, seed=seed, num_threads=num_threads)
    build_seconds = time.perf_counter() - started
    advance()
    started = time.perf_counter()
    indexes = {"original": original, "wrapped": wrap(original)}
    wrap_seconds = time.perf_counter() - started
    advance()
    true_ids = exact_neighbours(vectors, queries, K, "ip")
    curves: dict[str, list[Point]] = {kind: [] for kind in _KINDS}
    for effort in subject.efforts:
        for kind, point in _points(subject, indexes, queries, effort, true_ids).items():
            curves[kind].append(point)
        advance()
    batch = _batch_speed(subject, indexes, queries)
    advance()
    return Comparison(subject, stats(indexes["wrapped"]), build_seconds, wrap_seconds, curves, batch)


def _points(
    subject: Subject, indexes: dict[str, Any], queries: _Floats, effort: int, true_ids: npt.NDArray[np.int64]
) -> dict[str, Point]:
    found: dict[str, npt.NDArray[np.int64]] = {}
    for kind, index in indexes.items():
        subject.set_effort(index, effort)
        found[kind] = np.full((len(queries), K), -1, np.int64)

    def search_all(kind: str) -> None:
        for row, query in enumerate(queries):
            ids = subject.search_one(indexes[kind], query, K, effort)
            found[kind][row, : len(ids)] = ids

    speeds = _interleaved(search_all, len(queries))
    return {kind: Point(effort, recall_at_k(found[kind], true_ids, K), speeds[kind]) for kind in indexes}


def _batch_speed(subject: Subject, indexes: dict[str, Any], queries: _Floats) -> dict[str, float]:
    if subject.search_batch(indexes["original"], queries[:1], K) is None:
        return {}
    for index in indexes.values():
        subject.set_effort(index, subject.effort)
    return _interleaved(lambda kind: subject.search_batch(indexes[kind], queries, K), len(queries))


def _interleaved(run: Callable[[str], object], n_queries: int) -> dict[str, float]:
    """Return the median queries a second of both kinds.

    The kinds take turns, so that what else the machine does meets both alike; the first round only warms up.
    """
    seconds: dict[str, list[float]] = {kind: [] for kind in _KINDS}
    begun = time.perf_counter()
    while len(seconds["wrapped"]) <= _ROUNDS or time.perf_counter() - begun < _SECONDS:
        for kind in _KINDS:
            started = time.perf_counter()
            run(kind)
            seconds[kind].append(time.perf_counter() - started)
    return {kind: n_queries / statistics.median(times[1:]) for kind, times in seconds.items()}
