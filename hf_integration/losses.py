"""The losses of the heads, with their labels checked: an index out of range is an abort without a name on a GPU."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from hf_integration.compatibility import PreTrainedConfig
from hf_integration.configuration_checks import is_regression
from mp_plugins import argument_error

__all__ = ["class_loss", "classification_loss", "span_loss"]

# What transformers' collators write where there is no label; torch's default too.
_IGNORED = -100


def classification_loss(
    logits: Tensor, labels: Tensor, config: PreTrainedConfig, weights: Tensor | None = None
) -> Tensor:
    """Return the loss of a batch of texts, a scalar.

    Args:
        logits: ``[batch, num_labels]``.
        labels: int64 ``[batch]``, or float ``[batch, num_labels]`` for multi-label and regression heads.
        config: tells the kind of problem; where it does not, the labels do, and the configuration remembers.
        weights: of single labels, see :func:`class_loss`.

    Raises:
        mp_plugins.ArgumentError: a shape is wrong, or a class label is out of range.
    """
    if config.problem_type is None:
        # As the plain models do: the first labels tell.
        whole = not labels.is_floating_point()
        kinds = "single_label_classification" if whole else "multi_label_classification"
        config.problem_type = "regression" if is_regression(config) else kinds
    if config.problem_type == "single_label_classification":
        return class_loss(logits, labels, weights)
    if labels.numel() != logits.numel():
        raise argument_error(
            "labels",
            f"must have the shape {tuple(logits.shape)} for {config.problem_type}",
            tuple(labels.shape),
            "pass one number per output",
        )
    if config.problem_type == "regression":
        return functional.mse_loss(logits.reshape(labels.shape).float(), labels.float())
    return functional.binary_cross_entropy_with_logits(logits, labels.reshape(logits.shape).to(logits.dtype))


def class_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of class labels, a scalar.

    Args:
        logits: ``[..., classes]``.
        labels: int64 ``[...]`` from 0 to ``classes - 1``, or -100 where there is none.
        weights: of the classes in the mean, float32 ``[classes]``.

    Raises:
        mp_plugins.ArgumentError: the shape is wrong, a label is out of range or not a whole number.
    """
    classes = logits.shape[-1]
    if labels.numel() * classes != logits.numel():
        raise argument_error(
            "labels", f"must have the shape {tuple(logits.shape[:-1])}", tuple(labels.shape), "pass one label per row"
        )
    wrong = (labels != _IGNORED) & ((labels < 0) | (labels >= classes))
    if labels.is_floating_point() or bool(wrong.any()):
        raise argument_error(
            "labels",
            f"must be whole numbers from 0 to {classes - 1}, or {_IGNORED} to leave one out",
            sorted(set(labels[wrong].tolist())) or labels.dtype,
            "set num_labels in the configuration to the number of classes",
        )
    rows, targets = logits.reshape(-1, classes), labels.reshape(-1).long()
    weights = None if weights is None else weights.to(rows)
    return functional.cross_entropy(rows, targets, weight=weights, ignore_index=_IGNORED)


def span_loss(start_logits: Tensor, end_logits: Tensor, starts: Tensor, ends: Tensor, live: Tensor) -> Tensor:
    """Return the mean cross-entropy of where answers start and end, a scalar.

    Args:
        start_logits: ``[batch, seq]``.
        end_logits: ``[batch, seq]``.
        starts: int64 ``[batch]``; an answer outside the text is left out, as the plain models do.
        ends: likewise.
        live: the tokens that are no padding, bool ``[batch, seq]``.
    """
    losses = []
    for logits, given in ((start_logits, starts), (end_logits, ends)):
        positions = given.reshape(-1)
        inside = (positions >= 0) & (positions < live.shape[1])
        there = live.gather(1, positions.clamp(0, live.shape[1] - 1)[:, None])[:, 0]
        targets = positions.masked_fill(~(inside & there), _IGNORED)
        losses.append(functional.cross_entropy(logits, targets, ignore_index=_IGNORED))
    return (losses[0] + losses[1]) / 2
