"""The targets that the project set itself, and what became of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["AVERAGE", "TARGETS", "Outcome", "Target", "outcomes"]

AVERAGE = "average"


@dataclass(frozen=True)
class Target:
    """What a task, or the average over the tasks of ``AVERAGED``, must reach.

    Attributes:
        task: as given to ``--data``, or :data:`AVERAGE`.
        what: ``"loss"`` in points of accuracy against BERT, or how many times less work (``"gflops"``) or more speed
            (``"batch"``, ``"one"``) than BERT's.
        limit: at most for a loss, at least for the others.
    """

    task: str
    what: str
    limit: float


@dataclass(frozen=True)
class Outcome:
    """A target and what was measured."""

    target: Target
    value: float

    @property
    def met(self) -> bool:
        """Whether the target is reached."""
        if self.target.what == "loss":
            # A loss in the digits that it is promised in, which also hides the rounding of a difference.
            return round(self.value, 2) <= self.target.limit
        return self.value >= self.target.limit

    @property
    def verdict(self) -> str:
        """For the table."""
        return "met" if self.met else "MISSED"


AVERAGED = ("r8", "20ng")
TARGETS = tuple(
    Target(task, what, limit)
    for task, limits in (
        ("r8", (0.5, 12.0, 9.0, 7.0)),
        ("20ng", (0.5, 5.0, 4.0, 3.5)),
        (AVERAGE, (0.5, 8.06, 6.5, 5.0)),
    )
    for what, limit in zip(("loss", "gflops", "batch", "one"), limits, strict=True)
)


def outcomes(measured: Mapping[str, Mapping[str, float]]) -> list[Outcome]:
    """Return what became of the targets of the tasks that were measured; the average only if all of its tasks were.

    Args:
        measured: by task, each of ``"loss"``, ``"gflops"``, ``"batch"`` and ``"one"``.
    """
    values = dict(measured)
    if all(task in measured for task in AVERAGED):
        values[AVERAGE] = {
            what: statistics.fmean(measured[task][what] for task in AVERAGED) for what in measured[AVERAGED[0]]
        }
    return [Outcome(target, values[target.task][target.what]) for target in TARGETS if target.task in values]
