"""Settings picked on held-out documents, and curves of accuracy against work."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_integration.batching import pad_rows
from hf_integration.exit_selection import RecordedExits, record_exits, steps_that_hold
from mp_models.tasks import Rows

__all__ = ["Point", "best_within", "choose", "frontier", "points_of", "records_of"]

_BATCH = 32
_CANDIDATES = 256


@dataclass(frozen=True)
class Point:
    """One setting of a model and what it gives.

    ``gflops`` is the mean over the documents, ``noise`` the standard error of what the exits change about the accuracy.
    """

    keep_scale: float
    exit_threshold: float
    accuracy: float
    gflops: float
    noise: float = 0.0


def records_of(model: Any, rows: Rows, keep_scales: Sequence[float]) -> dict[float, RecordedExits]:
    """Return what every exit says about ``rows`` at each strength of pruning; the model's settings are put back."""
    before = model.config.keep_scale
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    batches = [pad_rows(ordered[start : start + _BATCH], pad_token_id=0) for start in range(0, len(ordered), _BATCH)]
    records = {}
    try:
        for keep_scale in keep_scales:
            model.config.keep_scale = keep_scale
            records[keep_scale] = record_exits(model, batches, argument="rows")
    finally:
        model.config.keep_scale = before
    return records


def points_of(model: Any, records: Mapping[float, RecordedExits], thresholds: Sequence[float] | None) -> list[Point]:
    """Return the points of all strengths of pruning and thresholds; None = quantiles of what occurs, and 0."""
    made = []
    for keep_scale, recorded in records.items():
        for threshold in _thresholds(recorded) if thresholds is None else thresholds:
            gflops = float(recorded.flops(threshold, model).double().mean()) / 1e9
            noise = recorded.noise(threshold)
            made.append(Point(keep_scale, threshold, recorded.accuracy(threshold), gflops, noise))
    return made


def choose(points: Iterable[Point], least_accuracy: float) -> Point:
    """Return the point of least work of those that hold (:func:`~hf_integration.exit_selection.steps_that_hold`).

    A walk goes up the thresholds at one strength of pruning. Where nothing holds, the start of the highest accuracy is
    taken.
    """
    walks: dict[float, list[Point]] = {}
    for point in points:
        walks.setdefault(point.keep_scale, []).append(point)
    held, starts = [], []
    for walk in walks.values():
        ordered = sorted(walk, key=lambda point: point.exit_threshold)
        starts.append(ordered[0])
        accuracies, noise = [point.accuracy for point in ordered], [point.noise for point in ordered]
        held += [ordered[step] for step in steps_that_hold(accuracies, noise, least_accuracy)]
    if not held:
        return max(starts, key=lambda point: point.accuracy)
    return min(held, key=lambda point: point.gflops)


def frontier(points: Iterable[Point]) -> list[Point]:
    """Return the points that no other beats in both accuracy and work, by ascending work."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point.gflops, -point.accuracy)):
        if not kept or point.accuracy > kept[-1].accuracy:
            kept.append(point)
    return kept


def best_within(points: Iterable[Point], least_accuracy: float) -> Point | None:
    """Return the point of least work of at least this accuracy, or None."""
    good = [point for point in points if point.accuracy >= least_accuracy]
    return min(good, key=lambda point: point.gflops) if good else None


def _thresholds(recorded: RecordedExits) -> list[float]:
    finite = recorded.uncertainty[recorded.uncertainty.isfinite()]
    quantiles = torch.quantile(finite, torch.linspace(0, 1, _CANDIDATES)) if len(finite) else finite
    return sorted({0.0, *quantiles.tolist()})
