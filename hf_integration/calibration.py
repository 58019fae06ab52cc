"""Picking exits and pruning on held-out data with a guarantee: Learn-then-Test (arXiv 2110.01052)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from hf_integration.batching import as_batches
from hf_integration.exit_selection import RecordedExits, record_exits
from hf_integration.fixed_sequence import NUISANCE_SHARE, passing_settings
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.risk_bounds import samples_needed
from mp_plugins import argument_error

__all__ = ["CalibrationReport", "calibrate"]


@dataclass(frozen=True)
class CalibrationReport:
    """A setting, the guarantee that it comes with, and what it gave on the calibration data.

    The guarantee: over the draw of the calibration texts, the chance that the accuracy with ``exit_threshold`` and
    ``keep_scale`` lies more than ``max_loss`` below that of the full model is at most ``1 - confidence``, on texts that
    are drawn like those. The full model is the same model without exits, and where ``keep_scales`` were tried also
    without pruning. Its own setting loses nothing.

    Attributes:
        exit_threshold: the largest one that passed.
        keep_scale: the strength of pruning that goes with it.
        max_loss: tolerated loss in accuracy.
        confidence: of the guarantee.
        p_value: of a larger loss at the setting, at most ``1 - confidence``; 0 for that of the full model.
        samples: calibration texts.
        samples_needed: fewest texts with which anything but 0 can pass, for ``max_loss`` and ``confidence``.
        samples_for_more: texts that it would take, about, for the next threshold to pass if its rates of harmed and
            gained texts stay; ``None`` if it loses too much or none is left.
        harmed: texts that only the full model answers rightly.
        gained: texts that only the model with the setting answers rightly.
        accuracy: with the setting.
        full_accuracy: of the full model.
        mean_exit_layer: layers run, mean over texts.
        mean_flops: floating-point operations, mean over texts.
        full_flops: the same of the full model.
    """

    exit_threshold: float
    keep_scale: float
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
    keep_scales: Sequence[float] | None = None,
    batch_size: int = 32,
    data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
) -> CalibrationReport:
    """Set the fastest setting that keeps the loss in accuracy under ``max_loss``, with a stated confidence.

    One pass without exits records what every exit says. The thresholds, fixed beforehand, are tested from the safest
    on until one fails (fixed-sequence testing, a form of Learn-then-Test: however many pass, the chance that one of
    them is wrong stays that of one test), each with an exact test of the paired loss
    (:mod:`hf_integration.risk_bounds`).
    Pruning stays as it is set, in the compared model too, unless ``keep_scales`` are given: then thresholds are walked
    through at each strength of pruning, every walk with its share of the allowed error, against the model without
    pruning, and of what passes the setting with the fewest operations is taken. A limit by ``max_layers`` is lifted.

    Args:
        model: a single-label classifier with trained internal classifiers; its settings change.
        dataset: held-out texts with labels that neither training nor selection has seen: tokenised rows as for
            :class:`transformers.Trainer`, or a :class:`torch.utils.data.DataLoader` of whole batches.
        max_loss: tolerated loss in accuracy, in (0, 1); 0.005 = half a point.
        confidence: in (0, 1).
        thresholds: to be tested, ascending, in (0, 1]; they must not depend on ``dataset``. 96 by default, close
            together where uncertainties are small.
        keep_scales: strengths of pruning to be tried, ascending, in [0, 1]; 0 always is one of them. Few are best: each
            takes a pass over the data and a share of the allowed error. ``None`` leaves pruning as it is.
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
    records = _records(model, batches, keep_scales)
    report = _report(model, records, tried, max_loss, confidence)
    if report.is_too_small:
        warnings.warn(too_small_message(report), UserWarning, stacklevel=2)
    model.set_speed(exit_threshold=report.exit_threshold, max_layers=model.config.num_hidden_layers)
    model.config.keep_scale = report.keep_scale
    return report


def too_small_message(report: CalibrationReport) -> str:
    """Return the sentence that tells how many texts are needed."""
    needed = "more than ten million" if report.samples_needed is None else f"at least {report.samples_needed}"
    return (
        f"{report.samples} calibration samples are too few: a loss of at most {report.max_loss:g} with confidence "
        f"{report.confidence:g} takes {needed}, so the model runs in full"
    )


def _default_thresholds() -> list[float]:
    # Evenly spaced in the log-odds: entropies of trained classifiers crowd near 0.
    values: list[float] = torch.linspace(-9, 4.5, 96, dtype=torch.float64).sigmoid().tolist()
    return values


def _records(
    model: MagicPyramidForSequenceClassification,
    batches: Iterable[Mapping[str, Any]],
    keep_scales: Sequence[float] | None,
) -> dict[float, RecordedExits]:
    """Return what every exit says at each strength of pruning, compared with the full model."""
    before = model.config.keep_scale
    if keep_scales is None:
        return {before: record_exits(model, batches, argument="dataset")}
    scales = list(keep_scales)
    if not scales or sorted(set(scales)) != scales or not 0 <= scales[0] <= scales[-1] <= 1:
        raise argument_error(
            "keep_scales", "must ascend within [0, 1]", scales, "leave it out to leave pruning as it is"
        )
    if model.token_pruner is None:
        raise argument_error("keep_scales", "must be None for a model without a pruner", scales, "leave it out")
    # Every pass has to see the texts in the same order, whatever the loader does.
    batches = list(batches)
    records: dict[float, RecordedExits] = {}
    try:
        for scale in (0.0, *(scale for scale in scales if scale > 0)):
            model.config.keep_scale = scale
            recorded = record_exits(model, batches, argument="dataset")
            records[scale] = replace(recorded, reference=records[0.0].full) if records else recorded
    finally:
        model.config.keep_scale = before
    return records


def _report(
    model: MagicPyramidForSequenceClassification,
    records: Mapping[float, RecordedExits],
    thresholds: Sequence[float],
    max_loss: float,
    confidence: float,
) -> CalibrationReport:
    passed = passing_settings(records, thresholds, max_loss, 1 - confidence)
    costs = [_mean_flops(model, records[setting.keep_scale], setting.exit_threshold) for setting in passed]
    flops, chosen = min(zip(costs, passed, strict=True), key=lambda pair: pair[0])
    recorded, full = records[chosen.keep_scale], next(iter(records.values()))
    level, samples = (1 - confidence) / len(records), len(full.labels)
    harmed, gained = recorded.harmed_and_gained(chosen.exit_threshold)
    more = None
    if chosen.failed is not None:
        rates = [count / samples for count in recorded.harmed_and_gained(chosen.failed)]
        more = _needed(max_loss, level, *rates)
    return CalibrationReport(
        exit_threshold=chosen.exit_threshold,
        keep_scale=chosen.keep_scale,
        max_loss=max_loss,
        confidence=confidence,
        p_value=chosen.p_value,
        samples=samples,
        samples_needed=_needed(max_loss, level),
        samples_for_more=more,
        harmed=harmed,
        gained=gained,
        accuracy=recorded.accuracy(chosen.exit_threshold),
        full_accuracy=full.full_accuracy,
        mean_exit_layer=float(recorded.depth(chosen.exit_threshold).double().mean()),
        mean_flops=flops,
        full_flops=_mean_flops(model, full, 0.0),
    )


def _mean_flops(model: MagicPyramidForSequenceClassification, recorded: RecordedExits, threshold: float) -> float:
    return float(recorded.flops(threshold, model).double().mean())


def _needed(max_loss: float, level: float, harm_rate: float = 0.0, gain_rate: float = 0.0) -> int | None:
    return samples_needed(
        max_loss, level, nuisance_level=level * NUISANCE_SHARE, harm_rate=harm_rate, gain_rate=gain_rate
    )
