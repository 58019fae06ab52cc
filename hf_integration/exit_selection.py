"""Picking an exit threshold on held-out data, by plain counting: an estimate, without a guarantee."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_integration.exit_training import CachedExits, collect_exit_states
from hf_integration.flops import pyramid_flops
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from mp_plugins import UnsupportedError, argument_error

__all__ = ["ExitThresholdChoice", "choose_exit_threshold"]

# Thresholds tried: quantiles of the uncertainties that occur.
_CANDIDATES = 512


@dataclass(frozen=True)
class ExitThresholdChoice:
    """A threshold and what it gave on the data that it was chosen on.

    Attributes:
        threshold: pass it to ``set_speed(exit_threshold=...)``.
        accuracy: with this threshold.
        full_accuracy: without exits.
        mean_exit_layer: layers run, mean over samples.
        mean_flops: floating-point operations, mean over samples.
    """

    threshold: float
    accuracy: float
    full_accuracy: float
    mean_exit_layer: float
    mean_flops: float


@torch.no_grad()
def choose_exit_threshold(
    model: MagicPyramidForSequenceClassification, batches: Iterable[Mapping[str, Any]], *, max_drop: float
) -> ExitThresholdChoice:
    """Find the largest exit threshold that costs at most ``max_drop`` of accuracy on ``batches``.

    One pass without exits records what every exit would say. The model is not changed.

    Args:
        model: a single-label classifier with trained internal classifiers.
        batches: held-out batches with ``labels``, for example a ``DataLoader``.
        max_drop: tolerated loss in accuracy, 0.005 = half a point, against the same model without exits.

    Raises:
        mp_plugins.ArgumentError: there are no labels, or ``max_drop`` is out of range.
        mp_plugins.UnsupportedError: the model is not a single-label classifier.
    """
    if not 0 <= max_drop <= 1:
        raise argument_error("max_drop", "must be from 0 to 1", max_drop, "0.005 tolerates half a point")
    if model.config.problem_type in ("regression", "multi_label_classification"):
        raise UnsupportedError(f"exit thresholds are chosen for single labels, not for {model.config.problem_type}")
    cached = collect_exit_states(model, batches, description="answers of every exit")
    labels = cached.columns.get("labels")
    if labels is None:
        raise argument_error("batches", "must have `labels`", "none", "pass held-out data with labels")
    answers = _Answers.of(model, cached)
    full = float((answers.full == labels).double().mean())
    candidates = torch.quantile(answers.uncertainty.flatten(), torch.linspace(0, 1, _CANDIDATES))
    chosen = 0.0
    for candidate in candidates.tolist():
        # The first miss ends the search: a lucky larger threshold would not hold on other data.
        if answers.accuracy(candidate, labels) < full - max_drop:
            break
        chosen = candidate
    depth = answers.depth(chosen)
    return ExitThresholdChoice(
        threshold=chosen,
        accuracy=answers.accuracy(chosen, labels),
        full_accuracy=full,
        mean_exit_layer=float(depth.double().mean()),
        mean_flops=float(_flops(model, cached, depth).double().mean()),
    )


@dataclass(frozen=True)
class _Answers:
    """What every exit says.

    Attributes:
        uncertainty: float32 ``[N, exits]``.
        predicted: int64 ``[N, exits]``.
        full: int64 ``[N]``, of the last layer.
        depths: int64 ``[exits + 1]``, of the exits and of the last layer.
    """

    uncertainty: Tensor
    predicted: Tensor
    full: Tensor
    depths: Tensor

    @classmethod
    def of(cls, model: MagicPyramidForSequenceClassification, cached: CachedExits) -> _Answers:
        classifiers = model.internal_classifiers
        logits = classifiers.every_depth(cached.columns["pooled"].to(model.device)).cpu()
        depths = torch.tensor([*classifiers.depths, model.config.num_hidden_layers])
        uncertainty = model.exit_criterion.uncertainty(logits.flatten(0, 1)).view(logits.shape[:2])
        return cls(uncertainty, logits.argmax(-1), cached.columns["teacher_logits"].argmax(-1), depths)

    def first_exit(self, threshold: float) -> Tensor:
        """Return which exit each sample takes, int64 ``[N]``; the number of exits = none."""
        leaves = torch.cat((self.uncertainty < threshold, torch.ones_like(self.full, dtype=torch.bool)[:, None]), dim=1)
        return leaves.int().argmax(1)

    def depth(self, threshold: float) -> Tensor:
        return self.depths[self.first_exit(threshold)]

    def accuracy(self, threshold: float, labels: Tensor) -> float:
        answers = torch.cat((self.predicted, self.full[:, None]), dim=1)
        taken = answers.gather(1, self.first_exit(threshold)[:, None]).squeeze(1)
        return float((taken == labels).double().mean())


def _flops(model: MagicPyramidForSequenceClassification, cached: CachedExits, depth: Tensor) -> Tensor:
    """Return what samples cost that leave at ``depth`` (int64 ``[N]``), float32 ``[N]``."""
    attended, kept = cached.columns["attended"], cached.columns["kept"]
    ran = torch.arange(attended.shape[1]) < depth[:, None]
    exits = model.internal_classifiers.depths
    return pyramid_flops(attended * ran, kept * ran, attended[:, 0], exits, model.config)
