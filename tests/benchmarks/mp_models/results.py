"""What one task gave, and the arithmetic of its comparisons."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from hf_integration.flops import baseline_flops
from mp_models.choosing import Point, best_within, frontier
from mp_models.measuring import Timing

__all__ = ["LOSSES", "Baselines", "Measured", "TaskResult", "baselines", "measured_targets"]

LOSSES = (-1.5, -1.0, -0.5, 0.0, 0.25, 0.5, 1.0)
"""Points of accuracy at whose loss the work of the three ideas is compared; exits can be better than the last layer."""


@dataclass(frozen=True)
class Baselines:
    """Mean GFLOPs of plain BERT over a set of documents, by how they are padded."""

    unpadded: float
    longest: float
    maximum: float


@dataclass(frozen=True)
class Measured:
    """What was measured of one contender.

    Attributes:
        accuracy: on all test documents, 0 to 1.
        gflops: of what ran, mean over the test documents; None for plain models, see :class:`Baselines`.
        batch: seconds in batches of 32; None where it was not timed.
        one: seconds one by one, likewise.
    """

    accuracy: float
    gflops: float | None = None
    batch: Timing | None = None
    one: Timing | None = None


@dataclass
class TaskResult:
    """Everything about one task.

    ``reference`` and ``ours`` are the contenders that the targets compare, ``curve_reference`` is the former on the
    documents that the curves are of, which may be fewer.
    """

    title: str
    facts: dict[str, Any]
    work: Baselines
    reference: str
    ours: str
    curve_reference: Point
    measured: dict[str, Measured]
    chosen: dict[str, Point] = field(default_factory=dict)
    curves: dict[str, list[Point]] = field(default_factory=dict)
    depths: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def loss(self, name: str) -> float:
        """Return by how many points of accuracy a contender is below BERT."""
        return 100 * (self.measured[self.reference].accuracy - self.measured[name].accuracy)

    def less_work(self, name: str, against: str = "unpadded") -> float | None:
        """Return how many times less a contender computes than BERT; None for plain models."""
        gflops = self.measured[name].gflops
        return None if gflops is None else float(getattr(self.work, against)) / gflops

    def faster(self, name: str, mode: str, than: str | None = None) -> float | None:
        """Return the speed of a contender over another's, of BERT by default; ``mode`` is ``"batch"`` or ``"one"``."""
        own, other = (getattr(self.measured[which], mode) for which in (name, than or self.reference))
        return None if own is None or other is None else float(own.speed / other.speed)

    def targets(self) -> dict[str, float] | None:
        """Return the values that the targets are about; None if something was not timed."""
        values = {
            "loss": self.loss(self.ours),
            "gflops": self.less_work(self.ours),
            "batch": self.faster(self.ours, "batch"),
            "one": self.faster(self.ours, "one"),
        }
        return None if None in values.values() else {what: float(value or 0.0) for what, value in values.items()}

    def equal_accuracy(self) -> dict[str, list[Point | None]]:
        """Return, for each curve, its point of least work at each of :data:`LOSSES`."""
        full = self.curve_reference.accuracy
        # The margin is for sums that round: 0.971 - 0.005 may be above 0.966.
        return {
            name: [best_within(points, full - loss / 100 - 1e-9) for loss in LOSSES]
            for name, points in self.curves.items()
        }

    def data(self) -> dict[str, Any]:
        """Return it all for JSON, in full precision."""
        return {
            "title": self.title,
            "facts": self.facts,
            "bert_gflops": asdict(self.work),
            "contenders": {name: self._contender(name) for name in self.measured},
            "chosen_on_held_out": {name: asdict(point) for name, point in self.chosen.items()},
            "curve_reference": asdict(self.curve_reference),
            "curves": {name: [asdict(point) for point in frontier(points)] for name, points in self.curves.items()},
            "depths": self.depths,
            "skipped": self.skipped,
        }

    def _contender(self, name: str) -> dict[str, Any]:
        measured = self.measured[name]
        timed = {mode: getattr(measured, mode) for mode in ("batch", "one")}
        return {
            "accuracy": measured.accuracy,
            "loss_points": self.loss(name),
            "gflops": measured.gflops,
            "less_work": {against: self.less_work(name, against) for against in ("unpadded", "longest", "maximum")},
            "seconds": {
                mode: {"documents": timing.documents, "rounds": timing.rounds, "median": timing.seconds}
                for mode, timing in timed.items()
                if timing is not None
            },
            "faster": {mode: self.faster(name, mode) for mode in timed},
        }


def baselines(lengths: Sequence[int], config: Any, *, batch_size: int, max_tokens: int) -> Baselines:
    """Return the work of plain BERT on documents of these lengths, in batches of like length for ``longest``."""
    ordered = torch.tensor(sorted(lengths))
    longest = [
        float(flops)
        for batch in ordered.split(batch_size)
        for flops in baseline_flops(batch, config, padding="longest")
    ]
    maximum = baseline_flops(ordered, config, padding="max_length", max_length=max_tokens)
    return Baselines(
        unpadded=float(baseline_flops(ordered, config).mean()) / 1e9,
        longest=statistics.fmean(longest) / 1e9,
        maximum=float(maximum.mean()) / 1e9,
    )


def measured_targets(results: Mapping[str, TaskResult]) -> dict[str, dict[str, float]]:
    """Return the values of the targets by task, of those that were timed."""
    found = {name: result.targets() for name, result in results.items()}
    return {name: values for name, values in found.items() if values is not None}
