"""Picking the exit threshold on held-out data with a guarantee: Learn-then-Test (arXiv 2110.01052)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hf_integration.batching import as_batches
from hf_integration.exit_selection import RecordedExits, record_exits
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.risk_bounds import loss_p_value, samples_needed
from mp_plugins import argument_error

__all__ = ["CalibrationReport", "calibrate", "largest_passing"]

# Share of the allowed error that bounding the nuisance parameter may take; from 1/10 to 1/4 it hardly matters.
_NUISANCE_SHARE = 0.2


@dataclass(frozen=True)
class CalibrationReport:
    """A threshold, the guarantee that it comes with, and what it gave on the calibration data.

    The guarantee: over the draw of the calibration texts, the chance that the accuracy with ``exit_threshold`` lies
    more than ``max_loss`` below that of the same model without exits is at most ``1 - confidence``, on texts that
    are drawn like those. A threshold of 0 lets nobody leave, so it loses nothing.

    Attributes:
        exit_threshold: the largest one that passed.
        max_loss: tolerated loss in accuracy.
        confidence: of the guarantee.
        p_value: of a larger loss at the threshold, at most ``1 - confidence``; 0 for a threshold of 0.
        samples: calibration texts.
        samples_needed: fewest texts with which anything but 0 can pass, for ``max_loss`` and ``confidence``.
        samples_for_more: texts that it would take, about, for the next threshold to pass if its rates of harmed and
            gained texts stay; ``None`` if it loses too much or none is left.
        harmed: texts that only the model without exits answers rightly.
        gained: texts that only the model with exits answers rightly.
        accuracy: with the threshold.
        full_accuracy: without exits.
        mean_exit_layer: layers run, mean over texts.
        mean_flops: floating-point operations, mean over texts.
        full_flops: the same without exits.
    """

    exit_threshold: float
    max_loss: float
    confidence: float
    p_value: float
    samples: int
    samples_needed: int | None
    samples_for_more: int | None
    harmed: int
    gained: int
    accuracy: float
    full_accuracy: float
    mean_exit_layer: float
    mean_flops: float
    full_flops: float

    @property
    def loss(self) -> float:
        """Loss in accuracy on the calibration texts; negative if the exits answer better."""
        return (self.harmed - self.gained) / self.samples

    @property
    def is_too_small(self) -> bool:
        """Tell whether the texts are too few for any threshold but 0, whatever the model answers."""
        return self.samples_needed is None or self.samples < self.samples_needed


def calibrate(
    model: MagicPyramidForSequenceClassification,
    dataset: Any,
    max_loss: float = 0.005,
    confidence: float = 0.95,
    *,
    thresholds: Sequence[float] | None = None,
    batch_size: int = 32,
    data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
) -> CalibrationReport:
    """Set the largest exit threshold that keeps the loss in accuracy under ``max_loss``, with a stated confidence.

    One pass without exits records what every exit says. The thresholds, fixed beforehand, are tested from the safest
    on until one fails (fixed-sequence testing, a form of Learn-then-Test: however many pass, the chance that one of
    them is wrong stays that of one test), each with an exact test of the paired loss
    (:mod:`hf_integration.risk_bounds`).
    Pruning stays as it is set, in the compared model too. A limit by ``max_layers`` is lifted.

    Args:
        model: a single-label classifier with trained internal classifiers; its settings change.
        dataset: held-out texts with labels that neither training nor selection has seen: tokenised rows as for
            :class:`transformers.Trainer`, or a :class:`torch.utils.data.DataLoader` of whole batches.
        max_loss: tolerated loss in accuracy, in (0, 1); 0.005 = half a point.
        confidence: in (0, 1).
        thresholds: to be tested, ascending, in (0, 1]; they must not depend on ``dataset``. 96 by default, close
            together where uncertainties are small.
        batch_size: for rows.
        data_collator: makes a batch of a list of rows; pads ``input_ids`` and what goes with them by default.

    Returns:
        What was chosen, and what it gives.

    Raises:
        mp_plugins.ArgumentError: an argument is out of range, or the data have no labels. The model is left as it was.
        mp_plugins.UnsupportedError: the model is not a single-label classifier.

    Warns:
        UserWarning: the data are too few for any threshold but 0.

    Example:
        >>> report = calibrate(model, held_out, max_loss=0.005, confidence=0.95)  # doctest: +SKIP
        >>> model.config.exit_threshold == report.exit_threshold  # doctest: +SKIP
        True
    """
    for argument, value in (("max_loss", max_loss), ("confidence", confidence)):
        if not 0 < value < 1:
            raise argument_error(argument, "must be between 0 and 1", value, "see hf_integration.calibrate")
    tried = _default_thresholds() if thresholds is None else list(thresholds)
    if not tried or sorted(set(tried)) != tried or not 0 < tried[0] <= tried[-1] <= 1:
        raise argument_error("thresholds", "must ascend within (0, 1]", tried, "leave it out for the default")
    if not any(map(model.internal_classifiers.is_trained, model.internal_classifiers.depths)):
        raise argument_error("model", "must have trained internal classifiers", "none", "run the `exits` stage first")
    batches = as_batches(
        dataset,
        argument="dataset",
        pad_token_id=model.config.pad_token_id,
        batch_size=batch_size,
        data_collator=data_collator,
    )
    recorded = record_exits(model, batches, argument="dataset")
    report = _report(model, recorded, tried, max_loss, confidence)
    if report.is_too_small:
        warnings.warn(too_small_message(report), UserWarning, stacklevel=2)
    model.set_speed(exit_threshold=report.exit_threshold, max_layers=model.config.num_hidden_layers)
    return report


def largest_passing(
    recorded: RecordedExits, thresholds: Iterable[float], max_loss: float, level: float
) -> tuple[float, float, float | None]:
    """Test thresholds in the given order until one fails.

    Args:
        recorded: what every exit says.
        thresholds: from the safest to the fastest.
        max_loss: tolerated loss.
        level: allowed chance of passing a threshold that loses more.

    Returns:
        The last one that passed (0 if none did), its p-value, and the one that failed (``None`` if none did).
    """
    passed, p_value = 0.0, 0.0
    counts, current = (-1, -1), 0.0
    for threshold in thresholds:
        found = _harmed_and_gained(recorded, threshold)
        # Neighbours often differ in nothing, and a test costs more than the count.
        if found != counts:
            counts = found
            current = loss_p_value(*counts, len(recorded.labels), max_loss, nuisance_level=level * _NUISANCE_SHARE)
        if current > level:
            return passed, p_value, threshold
        passed, p_value = threshold, current
    return passed, p_value, None


def too_small_message(report: CalibrationReport) -> str:
    """Return the sentence that tells how many texts are needed."""
    needed = "more than ten million" if report.samples_needed is None else f"at least {report.samples_needed}"
    return (
        f"{report.samples} calibration samples are too few: a loss of at most {report.max_loss:g} with confidence "
        f"{report.confidence:g} takes {needed}, so the exit threshold is 0 (no exits)"
    )


def _default_thresholds() -> list[float]:
    # Evenly spaced in the log-odds: entropies of trained classifiers crowd near 0.
    values: list[float] = torch.linspace(-9, 4.5, 96, dtype=torch.float64).sigmoid().tolist()
    return values


def _report(
    model: MagicPyramidForSequenceClassification,
    recorded: RecordedExits,
    thresholds: Sequence[float],
    max_loss: float,
    confidence: float,
) -> CalibrationReport:
    level, samples = 1 - confidence, len(recorded.labels)
    chosen, p_value, failed = largest_passing(recorded, thresholds, max_loss, level)
    harmed, gained = _harmed_and_gained(recorded, chosen)
    more = None
    if failed is not None:
        rates = [count / samples for count in _harmed_and_gained(recorded, failed)]
        more = _needed(max_loss, level, *rates)
    return CalibrationReport(
        exit_threshold=chosen,
        max_loss=max_loss,
        confidence=confidence,
        p_value=p_value,
        samples=samples,
        samples_needed=_needed(max_loss, level),
        samples_for_more=more,
        harmed=harmed,
        gained=gained,
        accuracy=recorded.accuracy(chosen),
        full_accuracy=recorded.full_accuracy,
        mean_exit_layer=float(recorded.depth(chosen).double().mean()),
        mean_flops=float(recorded.flops(chosen, model).double().mean()),
        full_flops=float(recorded.flops(0.0, model).double().mean()),
    )


def _needed(max_loss: float, level: float, harm_rate: float = 0.0, gain_rate: float = 0.0) -> int | None:
    return samples_needed(
        max_loss, level, nuisance_level=level * _NUISANCE_SHARE, harm_rate=harm_rate, gain_rate=gain_rate
    )


def _harmed_and_gained(recorded: RecordedExits, threshold: float) -> tuple[int, int]:
    right, fully_right = recorded.answers(threshold) == recorded.labels, recorded.full == recorded.labels
    return int((fully_right & ~right).sum()), int((right & ~fully_right).sum())
