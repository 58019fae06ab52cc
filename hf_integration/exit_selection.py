"""Picking an exit threshold on held-out data, by plain counting: an estimate, without a guarantee."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hf_integration.configuration_checks import is_regression
from hf_integration.early_exit import judge_every_exit, should_exit
from hf_integration.exit_training import collect_exit_states
from hf_integration.flops import pyramid_flops
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from mp_plugins import UnsupportedError, argument_error

__all__ = ["ExitThresholdChoice", "RecordedExits", "choose_exit_threshold", "record_exits", "steps_that_hold"]

# Thresholds tried: quantiles of the uncertainties that occur.
_CANDIDATES = 512


@dataclass(frozen=True)
class ExitThresholdChoice:
    """A threshold and what it gave on the data that it was chosen on.

    Attributes:
        threshold: pass it to ``set_speed(exit_threshold=...)``.
        accuracy: with this threshold.
        full_accuracy: of the same model without exits.
        mean_exit_layer: layers run, mean over samples.
        mean_flops: floating-point operations, mean over samples.
    """

    threshold: float
    accuracy: float
    full_accuracy: float
    mean_exit_layer: float
    mean_flops: float


def choose_exit_threshold(
    model: MagicPyramidForSequenceClassification,
    batches: Iterable[Mapping[str, Any]],
    *,
    max_drop: float,
    reference_accuracy: float | None = None,
) -> ExitThresholdChoice:
    """Find the largest exit threshold that costs at most ``max_drop`` of accuracy on ``batches``.

    One pass without exits records what every exit would say. The model is not changed. Thresholds are tried from the
    smallest on, by the rule of :func:`steps_that_hold`.

    Args:
        model: a single-label classifier with trained internal classifiers.
        batches: held-out batches with ``labels``, for example a ``DataLoader``.
        max_drop: tolerated loss in accuracy, 0.005 = half a point.
        reference_accuracy: what the loss is counted from, from 0 to 1: for example the accuracy on ``batches`` of the
            BERT that was pruned. By default that of the same model without exits.

    Returns:
        The threshold and what it gives; 0 (no exits) if none holds.

    Raises:
        mp_plugins.ArgumentError: there are no labels, or a number is out of range.
        mp_plugins.UnsupportedError: the model is not a single-label classifier.
    """
    if not 0 <= max_drop <= 1:
        raise argument_error("max_drop", "must be from 0 to 1", max_drop, "0.005 tolerates half a point")
    if reference_accuracy is not None and not 0 <= reference_accuracy <= 1:
        raise argument_error(
            "reference_accuracy", "must be from 0 to 1", reference_accuracy, "0.97 = 97 % of the answers are right"
        )
    recorded = record_exits(model, batches, argument="batches")
    full = recorded.full_accuracy
    chosen = _last_that_holds(recorded, (full if reference_accuracy is None else reference_accuracy) - max_drop)
    return ExitThresholdChoice(
        threshold=chosen,
        accuracy=recorded.accuracy(chosen),
        full_accuracy=full,
        mean_exit_layer=float(recorded.depth(chosen).double().mean()),
        mean_flops=float(recorded.flops(chosen, model).double().mean()),
    )


def _last_that_holds(recorded: RecordedExits, least_accuracy: float) -> float:
    """Return the last threshold that :func:`steps_that_hold` allows; 0 if there is none."""
    finite = recorded.uncertainty[recorded.uncertainty.isfinite()]
    # A broken classifier, at which nobody leaves, has none.
    quantiles = torch.quantile(finite, torch.linspace(0, 1, _CANDIDATES)) if len(finite) else finite
    candidates: list[float] = [0.0, *quantiles.tolist()]
    accuracies, noise = ([of(each) for each in candidates] for of in (recorded.accuracy, recorded.noise))
    return candidates[max(steps_that_hold(accuracies, noise, least_accuracy), default=0)]


def steps_that_hold(accuracies: Sequence[float], noise: Sequence[float], least_accuracy: float) -> list[int]:
    """Return which steps of a walk towards less work may be taken: those of at least ``least_accuracy``, up to its end.

    A walk may begin with misses: the last layer can be worse than its exits, above all that of a pruned model. After
    the first step that holds, a miss by more than its noise ends it. What lies beyond is not taken, however good: luck
    on these texts would not hold on others.

    Args:
        accuracies: of the steps, 0 to 1.
        noise: standard errors of the accuracies, or of their differences from a reference.
        least_accuracy: 0 to 1.
    """
    held: list[int] = []
    for step, accuracy in enumerate(accuracies):
        if accuracy >= least_accuracy:
            held.append(step)
        elif held and accuracy < least_accuracy - noise[step]:
            break
    return held


@dataclass(frozen=True)
class RecordedExits:
    """What every exit says about every sample, from which any threshold can be tried without the model.

    Attributes:
        uncertainty: float32 ``[N, exits]``.
        predicted: int64 ``[N, exits]``.
        full: int64 ``[N]``, of the last layer.
        labels: int64 ``[N]``.
        depths: int64 ``[exits + 1]``, of the exits and of the last layer.
        attended: int64 ``[N, layers]``, tokens that entered each layer.
        kept: int64 ``[N, layers]``, tokens that pruning left after each layer.
        pruning_macs: of the pruner, see :func:`~hf_integration.flops.pyramid_flops`.
        reference: answers that others are compared with, int64 ``[N]``; ``None`` = those of the last layer.
    """

    uncertainty: Tensor
    predicted: Tensor
    full: Tensor
    labels: Tensor
    depths: Tensor
    attended: Tensor
    kept: Tensor
    pruning_macs: int = 0
    reference: Tensor | None = None

    @property
    def full_accuracy(self) -> float:
        """Accuracy of the last layer."""
        return float((self.full == self.labels).double().mean())

    def harmed_and_gained(self, threshold: float) -> tuple[int, int]:
        """Return how many samples only the reference answers rightly, and how many it alone does not."""
        reference = self.full if self.reference is None else self.reference
        right, was_right = self.answers(threshold) == self.labels, reference == self.labels
        return int((was_right & ~right).sum()), int((right & ~was_right).sum())

    def noise(self, threshold: float) -> float:
        """Return the standard error of the difference between the accuracy and that of the reference."""
        return math.sqrt(sum(self.harmed_and_gained(threshold))) / len(self.labels)

    def first_exit(self, threshold: float) -> Tensor:
        """Return which exit each sample takes, int64 ``[N]``; the number of exits = none."""
        leaves = should_exit(self.uncertainty, threshold)
        stays = torch.ones_like(self.full, dtype=torch.bool)[:, None]
        return torch.cat((leaves, stays), dim=1).int().argmax(1)

    def depth(self, threshold: float) -> Tensor:
        """Return the layers run for each sample, int64 ``[N]``."""
        return self.depths[self.first_exit(threshold)]

    def answers(self, threshold: float) -> Tensor:
        """Return the class predicted for each sample, int64 ``[N]``."""
        every = torch.cat((self.predicted, self.full[:, None]), dim=1)
        return every.gather(1, self.first_exit(threshold)[:, None]).squeeze(1)

    def accuracy(self, threshold: float) -> float:
        """Return the share of right answers."""
        return float((self.answers(threshold) == self.labels).double().mean())

    def flops(self, threshold: float, model: MagicPyramidForSequenceClassification) -> Tensor:
        """Return what each sample costs, float32 ``[N]``; see :mod:`hf_integration.flops`."""
        ran = torch.arange(self.attended.shape[1]) < self.depth(threshold)[:, None]
        exits = model.internal_classifiers.depths if threshold > 0 else ()
        return pyramid_flops(
            self.attended * ran,
            self.kept * ran,
            self.attended[:, 0],
            exits,
            model.shape,
            exit_outputs=model.shape.labels + model.exit_criterion.outputs,
            pruning_macs=self.pruning_macs,
        )


@torch.no_grad()
def record_exits(
    model: MagicPyramidForSequenceClassification, batches: Iterable[Mapping[str, Any]], *, argument: str
) -> RecordedExits:
    """Run all layers over ``batches`` once and return what every exit says.

    Args:
        model: a single-label classifier; it is not changed.
        batches: with ``labels``.
        argument: what the caller's user knows ``batches`` by, for messages.

    Raises:
        mp_plugins.ArgumentError: there are no labels, or one is out of range.
        mp_plugins.UnsupportedError: the model is not a single-label classifier.
    """
    config = model.config
    if is_regression(config) or config.problem_type == "multi_label_classification":
        kind = config.problem_type or "regression"
        raise UnsupportedError(f"exit thresholds are chosen for single labels, not for {kind}")
    columns = collect_exit_states(model, batches, description="answers of every exit").columns
    labels = columns.get("labels")
    if labels is None:
        raise argument_error(argument, "must have `labels`", "none", "pass held-out data with labels")
    labels = labels.flatten()
    if labels.is_floating_point() or not bool(((labels >= 0) & (labels < config.num_labels)).all()):
        raise argument_error(
            argument,
            f"must have integer labels from 0 to {config.num_labels - 1}",
            f"{labels.dtype} from {labels.min().item()} to {labels.max().item()}",
            "leave out samples without a label",
        )
    classifiers = model.internal_classifiers
    pooled = columns["pooled"].to(model.device)
    logits = classifiers.every_depth(pooled)
    return RecordedExits(
        uncertainty=judge_every_exit(model.exit_criterion, classifiers.depths, logits, pooled).cpu(),
        predicted=logits.argmax(-1).cpu(),
        full=columns["teacher_logits"].argmax(-1),
        labels=labels,
        depths=torch.tensor([*classifiers.depths, config.num_hidden_layers]),
        attended=columns["attended"],
        kept=columns["kept"],
        pruning_macs=model.pruning_macs(pruned=model.prunes()),
    )
