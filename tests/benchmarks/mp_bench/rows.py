"""Promises and what became of them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mp_bench.curves import ratio, speed_at
from mp_bench.measuring import Subject
from mp_bench.plan import TARGETS, Target

__all__ = ["Row", "target_rows"]


@dataclass(frozen=True)
class Row:
    """One promise: ``compared`` must be ``limit`` at least, or at most.

    ``compared`` is ours over the peer's for speeds, sizes and times, and what the row's name says for the others.
    """

    peer: str
    ours: str
    what: str
    peer_value: float | None
    our_value: float | None
    compared: float
    limit: float
    at_least: bool
    digits: int = 2

    @property
    def met(self) -> bool:
        """Whether the promise is kept; what has an upper limit in the digits that it is promised in."""
        return self.compared >= self.limit if self.at_least else round(self.compared, self.digits) <= self.limit

    @property
    def compared_text(self) -> str:
        """``compared`` for a table."""
        return "peer never" if math.isinf(self.compared) else f"{self.compared:.{self.digits}f}"


def target_rows(subjects: dict[str, Subject]) -> list[Row]:
    """Return the rows of the targets whose engines were both measured."""
    made: list[Row] = []
    for target in TARGETS:
        if target.peer in subjects and target.ours in subjects:
            made += _rows_of(target, subjects[target.peer], subjects[target.ours])
    return made


def _rows_of(target: Target, peer: Subject, ours: Subject) -> list[Row]:
    def row(what: str, peers: float | None, our: float | None, limit: float, at_least: bool) -> Row:
        return Row(target.peer, target.ours, what, peers, our, ratio(our, peers), limit, at_least)

    made: list[Row] = []
    mode = "one by one" if target.mode == "one" else "in a batch"
    pair = [subject.points.get(target.mode, []) for subject in (peer, ours)]
    if all(pair):
        for level in target.levels:
            speeds = [speed_at(points, level) for points in pair]
            made.append(row(f"queries/s {mode} at {level}", *speeds, target.speed, at_least=True))
        if not target.levels:
            made.append(row(f"queries/s {mode}", pair[0][0].speed, pair[1][0].speed, target.speed, at_least=True))
    if target.size is not None:
        made.append(row("bytes a vector", peer.bytes_a_vector, ours.bytes_a_vector, target.size, at_least=False))
    if target.build is not None:
        earlier = f" (peer's of {peer.built_at})" if peer.built_at else ""
        what = f"build seconds{earlier}"
        made.append(row(what, peer.build_seconds, ours.build_seconds, target.build, at_least=False))
    return made
