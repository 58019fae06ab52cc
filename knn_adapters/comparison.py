"""Measuring an index beside its wrapped form: time in interleaved rounds, recall against exact search."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from knn_adapters.evaluation import IndexStats, stats
from knn_adapters.recall import recall_at_k
from knn_adapters.subjects import Subject
from knn_adapters.wrapping import wrap

__all__ = ["Comparison", "Point", "compare", "one_faiss_thread", "steps"]

_ROUNDS = 5
_SECONDS = 0.5  # measuring goes on for so long, as a round of fast searches is over in milliseconds
_KINDS = ("original", "wrapped")

_Floats = npt.NDArray[np.float32]
_Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Point:
    """One setting of the knob: recall@k against exact ``float32`` search, queries a second one at a time."""

    effort: int
    recall: float
    queries_per_second: float


@dataclass(frozen=True)
class Comparison:
    """What was measured of one subject; ``curves`` and ``batch`` are keyed ``"original"`` and ``"wrapped"``."""

    subject: Subject
    figures: IndexStats
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
            "wrap_seconds": self.wrap_seconds,
            "curves": {kind: [asdict(point) for point in points] for kind, points in self.curves.items()},
            "batch_queries_per_second": self.batch,
        }


def steps(subject: Subject) -> int:
    """Return how often :func:`compare` reports progress."""
    return 1 + len(subject.efforts) + 1


def compare(
    subject: Subject,
    original: Any,
    queries: _Floats,
    true_ids: _Ids,
    *,
    advance: Callable[[], object],
    **wrap_options: Any,
) -> Comparison:
    """Wrap and measure one index, calling ``advance`` after each step.

    Args:
        subject: how it is set and searched.
        original: the library's index.
        queries: ``(q, d)``.
        true_ids: of the exact neighbours, nearest first, ``(q, k)``; tells k.
        advance: shows progress.
        **wrap_options: of :func:`knn_adapters.wrap`.
    """
    started = time.perf_counter()
    indexes = {"original": original, "wrapped": wrap(original, **wrap_options)}
    wrap_seconds = time.perf_counter() - started
    advance()
    curves: dict[str, list[Point]] = {kind: [] for kind in _KINDS}
    for effort in subject.efforts:
        for kind, point in _points(subject, indexes, queries, effort, true_ids).items():
            curves[kind].append(point)
        advance()
    batch = _batch_speed(subject, indexes, queries, true_ids.shape[1])
    advance()
    return Comparison(subject, stats(indexes["wrapped"]), wrap_seconds, curves, batch)


@contextmanager
def one_faiss_thread() -> Iterator[None]:
    """Search in one thread, as the other libraries do for one query; without FAISS there is nothing to set."""
    try:
        import faiss
    except ImportError:
        yield
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _points(
    subject: Subject, indexes: dict[str, Any], queries: _Floats, effort: int, true_ids: _Ids
) -> dict[str, Point]:
    k = true_ids.shape[1]
    found: dict[str, _Ids] = {}
    for kind, index in indexes.items():
        subject.set_effort(index, effort)
        found[kind] = np.full((len(queries), k), -1, np.int64)

    def search_all(kind: str) -> None:
        for row, query in enumerate(queries):
            ids = subject.search_one(indexes[kind], query, k, effort)
            found[kind][row, : len(ids)] = ids

    speeds = _interleaved(search_all, len(queries))
    return {kind: Point(effort, recall_at_k(found[kind], true_ids, k), speeds[kind]) for kind in indexes}


def _batch_speed(subject: Subject, indexes: dict[str, Any], queries: _Floats, k: int) -> dict[str, float]:
    if subject.search_batch(indexes["original"], queries[:1], k) is None:
        return {}
    for index in indexes.values():
        subject.set_effort(index, subject.effort)
    return _interleaved(lambda kind: subject.search_batch(indexes[kind], queries, k), len(queries))


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
