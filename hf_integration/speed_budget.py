"""Picking the setting that fits a budget of time or arithmetic, from a short measurement on the user's own texts."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from hf_integration.batching import as_batches
from hf_integration.configuration_checks import is_regression
from hf_integration.prepacking import is_prepacked
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.base_model import PyramidModel

__all__ = ["LEVELS", "OperatingPoint", "SpeedTable", "measure_speed", "one_budget"]

LEVELS = (0.0, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""What is tried of a knob, from slowest to fastest; closer where the uncertainties of trained classifiers crowd."""

# Every setting is timed so many times, in turns, so that a slow moment of the machine does not fall on one of them.
_REPEATS = 3
_TIMES_DEPEND_ON = {"device", "dtype", "prepacked", "threads"}
_SWEPT = {"exit_threshold", "keep_scale", "max_layers", "speed", "speed_table"}


@dataclass(frozen=True)
class OperatingPoint:
    """One setting and what it took on the measured texts.

    Attributes:
        exit_threshold: of the configuration.
        keep_scale: of the configuration.
        max_layers: of the configuration.
        speed: of the configuration.
        ms: milliseconds of one call with a batch, mean over the batches, median over repetitions.
        flops: floating-point operations of a text, mean over the texts.
        accuracy: share of right answers, where the texts came with class labels.
    """

    exit_threshold: float
    keep_scale: float
    max_layers: int | None
    speed: float | None
    ms: float
    flops: float
    accuracy: float | None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of the configuration."""
        return {name: getattr(self, name) for name in ("exit_threshold", "keep_scale", "max_layers", "speed")}


@dataclass(frozen=True)
class SpeedTable:
    """What was measured, from the slowest setting to the fastest, and under which conditions.

    Attributes:
        points: in ascending order of the swept setting.
        conditions: what the points depend on beside their settings: the head, the other settings of the model, and
            for times the device, the dtype, the order of the weights and the number of threads.
    """

    points: tuple[OperatingPoint, ...]
    conditions: dict[str, Any]

    @classmethod
    def read(cls, stored: Any) -> SpeedTable:
        """Return the table in a configuration.

        Raises:
            mp_plugins.ArgumentError: it is not what :meth:`stored` returned.
        """
        try:
            table = cls(tuple(OperatingPoint(**point) for point in stored["points"]), dict(stored["conditions"]))
        except (KeyError, TypeError, ValueError):
            table = cls((), {})
        if not table.points:
            raise argument_error(
                "speed_table", "must be what set_budget stored", type(stored).__name__, "measure again: pass `data`"
            )
        return table

    def stored(self) -> dict[str, Any]:
        """Return what a configuration keeps: plain numbers, strings and lists."""
        return {"points": [asdict(point) for point in self.points], "conditions": self.conditions}

    def require_valid(self, model: PyramidModel, *, timed: bool) -> None:
        """Check that the table still holds for ``model``, here and now.

        Raises:
            mp_plugins.ArgumentError: it was measured under other conditions; the message names them.
        """
        now = conditions_of(model)
        names = now.keys() if timed else now.keys() - _TIMES_DEPEND_ON
        if differing := sorted(name for name in names if self.conditions.get(name) != now[name]):
            was = {name: self.conditions.get(name) for name in differing}
            raise argument_error(
                "data",
                "must be given where the model is not as it was when its speed was measured",
                f"None, and other {', '.join(differing)} than {was}",
                "pass a batch or rows to measure again",
            )

    def best(self, argument: str, limit: float) -> OperatingPoint:
        """Return the most accurate point within ``limit``: by the measured accuracy, or else the slowest one.

        Args:
            argument: ``"ms"`` or ``"flops"``.
            limit: of that.

        Raises:
            mp_plugins.ArgumentError: no point is within the limit; the message tells the smallest that can be reached.
        """
        affordable = [point for point in self.points if getattr(point, argument) <= limit]
        if not affordable:
            least = min(getattr(point, argument) for point in self.points)
            raise argument_error(
                argument,
                f"must be at least {least:.4g}, the least that any setting takes",
                limit,
                "raise the budget, or train for more speed (pruning stages, exits)",
            )
        # max() takes the first of equals, which is the slowest.
        return max(affordable, key=lambda point: -1.0 if point.accuracy is None else point.accuracy)


def conditions_of(model: PyramidModel) -> dict[str, Any]:
    """Return what a measurement of ``model`` depends on beside the swept settings."""
    fixed = sorted(model.config.setting_names() - _SWEPT)
    return {
        "head": model.kind,
        "device": model.device.type,
        "dtype": str(model.dtype),
        "prepacked": is_prepacked(model),
        "threads": torch.get_num_threads(),
        **{name: getattr(model.config, name) for name in fixed},
    }


def one_budget(ms: float | None, flops: float | None) -> tuple[str, float]:
    """Return the name and the value of the one that is given.

    Raises:
        mp_plugins.ArgumentError: both or none are given, or it is not positive.
    """
    given = [(name, value) for name, value in (("ms", ms), ("flops", flops)) if value is not None]
    if len(given) != 1:
        raise argument_error("ms", "or `flops` must be given, and not both", dict(given), "pass one budget")
    name, value = given[0]
    if not value > 0:
        raise argument_error(name, "must be positive", value, "see set_budget")
    return name, value


@torch.no_grad()
def measure_speed(
    model: PyramidModel,
    data: Any,
    candidates: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    data_collator: Callable[[list[Any]], Mapping[str, Any]] | None,
) -> SpeedTable:
    """Run ``model`` over ``data`` with every candidate, and put its settings and mode back.

    Args:
        model: in any mode; it is measured in evaluation mode.
        data: see :func:`~hf_integration.batching.as_batches`; with or without ``labels``.
        candidates: changes to the configuration, from the slowest to the fastest.
        batch_size: for rows.
        data_collator: for rows.

    Raises:
        mp_plugins.ArgumentError: there is nothing in ``data``, or it is not tokenised.
    """
    batches = as_batches(
        data,
        argument="data",
        pad_token_id=model.config.pad_token_id,
        batch_size=batch_size,
        data_collator=data_collator,
    )
    inputs = [
        {name: value.to(model.device) if isinstance(value, Tensor) else value for name, value in batch.items()}
        for batch in batches
    ]
    if not inputs:
        raise argument_error("data", "must hold at least one batch", "none", "pass texts like those to come")
    labels = [batch.pop("labels", None) for batch in inputs]
    before = {name: getattr(model.config, name) for name in _SWEPT}
    training = model.training
    counted: list[tuple[float, float | None]] = []
    seconds: list[list[float]] = [[] for _ in candidates]
    model.eval()
    try:
        for turn in tqdm(range(_REPEATS + 1), desc="speed of every setting", leave=False, mininterval=0.5):
            for index, candidate in enumerate(candidates):
                _apply(model, candidate)
                # The first turn counts and warms up; the others are timed.
                if turn == 0:
                    counted.append(_count(model, inputs, labels))
                else:
                    seconds[index].append(_seconds(model, inputs))
        points = []
        for candidate, (flops, accuracy), times in zip(candidates, counted, seconds, strict=True):
            _apply(model, candidate)
            swept = {name: getattr(model.config, name) for name in _SWEPT - {"speed_table"}}
            ms = 1e3 * statistics.median(times) / len(inputs)
            points.append(OperatingPoint(**swept, ms=ms, flops=flops, accuracy=accuracy))
    finally:
        _apply(model, before)
        model.train(training)
    return SpeedTable(tuple(points), conditions_of(model))


def _apply(model: PyramidModel, settings: Mapping[str, Any]) -> None:
    for name, value in settings.items():
        setattr(model.config, name, value)


def _count(
    model: PyramidModel, inputs: Sequence[Mapping[str, Any]], labels: Sequence[Tensor | None]
) -> tuple[float, float | None]:
    """Return operations per text, and the accuracy if there are class labels."""
    flops: list[Tensor] = []
    right: list[Tensor] = []
    for batch, wanted in zip(inputs, labels, strict=True):
        output = model(**batch, return_dict=True)
        flops.append(output.flops.double())
        if wanted is not None and model.kind == "ForSequenceClassification" and not is_regression(model.config):
            right.append(_right(output.logits, wanted))
    accuracy = float(torch.cat(right).double().mean()) if right else None
    return float(torch.cat(flops).mean()), accuracy


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    if labels.is_floating_point():
        # Several labels may hold: each one is an answer.
        return ((logits > 0) == (labels.reshape(logits.shape) > 0.5)).flatten()
    return logits.argmax(-1) == labels.reshape(-1)


def _seconds(model: PyramidModel, inputs: Sequence[Mapping[str, Any]]) -> float:
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.synchronize(model.device)
    start = time.perf_counter()
    for batch in inputs:
        model(**batch)
    if cuda:
        torch.cuda.synchronize(model.device)
    return time.perf_counter() - start
