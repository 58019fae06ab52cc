"""Building engines and timing them in interleaved rounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mp_bench.curves import Point, Truth, median_speed
from mp_bench.engines import Engine

__all__ = ["Subject", "measure", "sweep"]

_LOW, _ENOUGH = 0.90, 0.985  # recalls between which the sweep is timed
_FLAT = 0.0005  # a curve that rises no more than this from one effort to the next has ended

_Floats = npt.NDArray[np.float32]


@dataclass
class Subject:
    """An engine that is built, and what was measured of it; ``points`` by mode, ``"one"`` or ``"batch"``."""

    engine: Engine
    build_seconds: float
    bytes_a_vector: float
    recalls: dict[int, float] = field(default_factory=dict)
    points: dict[str, list[Point]] = field(default_factory=dict)
    built_at: str = ""  # when, if an earlier run built it


def sweep(subject: Subject, queries: _Floats, truth: Truth) -> None:
    """Find the recall of each effort, from the lowest, until one is high enough or more brings no more; keep those
    worth timing.
    """
    k = truth.k
    found: dict[int, float] = {}
    before = 0.0
    subject.engine.set_threads(subject.engine.threads)
    for effort in subject.engine.efforts_for(k):
        subject.engine.set_effort(effort)
        found[effort] = truth.recall(subject.engine.batch(queries, k))
        if found[effort] > _ENOUGH or 0 < found[effort] < before + _FLAT:
            break
        before = found[effort]
    efforts = list(found)
    # The last setting below the interesting range stays: interpolation needs it.
    below = [effort for effort in efforts if found[effort] < _LOW]
    subject.recalls = {effort: found[effort] for effort in (*below[-1:], *efforts[len(below) :])}


def measure(
    subjects: list[Subject],
    queries: _Floats,
    k: int,
    mode: str,
    *,
    rounds: int,
    seconds: float,
    clock: Callable[[], float],
    advance: Callable[[], object],
) -> None:
    """Time every setting of every subject, which take turns: what else the machine does meets all alike."""
    turns = [(subject, effort) for subject in subjects for effort in subject.recalls]
    # Neighbours in time should be equals in effort, not settings of one engine.
    turns.sort(key=lambda turn: list(turn[0].recalls).index(turn[1]))
    speeds: dict[tuple[str, int], list[float]] = {}
    prepared = {subject.engine.name: [subject.engine.prepared(query) for query in queries] for subject in subjects}
    for number in range(rounds):
        for subject, effort in turns if number % 2 == 0 else turns[::-1]:
            subject.engine.set_effort(effort)
            # A second thread only waits while one query is searched, and FAISS pays for it.
            subject.engine.set_threads(1 if mode == "one" else subject.engine.threads)
            if mode == "one":
                speed = _one_by_one(subject.engine, prepared[subject.engine.name], k, seconds, clock)
            else:
                speed = _in_a_batch(subject.engine, queries, k, clock)
            speeds.setdefault((subject.engine.name, effort), []).append(speed)
            advance()
    for subject in subjects:
        subject.points[mode] = [
            Point(effort, recall, median_speed(speeds[subject.engine.name, effort]))
            for effort, recall in subject.recalls.items()
        ]


def _one_by_one(engine: Engine, prepared: list[object], k: int, seconds: float, clock: Callable[[], float]) -> float:
    one = engine.one
    for query in prepared[:3]:
        one(query, k)  # brings what the last engine pushed out of the caches back
    started = clock()
    done = 0
    elapsed = 0.0
    while elapsed < seconds:
        for query in prepared[done % len(prepared) :][:16]:
            one(query, k)
            done += 1
        elapsed = clock() - started
    return done / elapsed


def _in_a_batch(engine: Engine, queries: _Floats, k: int, clock: Callable[[], float]) -> float:
    started = clock()
    engine.batch(queries, k)
    return len(queries) / (clock() - started)
