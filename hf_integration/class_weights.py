"""How much the classes count in the loss, so that rare ones are not drowned by frequent ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from hf_integration.configuration_checks import is_regression
from mp_plugins import argument_error

__all__ = ["ClassWeights", "check_class_weights", "weights_of_classes"]

ClassWeights = Sequence[float] | Literal["balanced"] | None
"""One positive number per class, or ``"balanced"``: the inverse of its frequency, 1 where all are equally frequent."""


def check_class_weights(given: ClassWeights, model: Any) -> None:
    """Refuse weights that don't fit the head of ``model``.

    Raises:
        mp_plugins.ArgumentError: the head has no classes that exclude each other, or the numbers are wrong.
    """
    if given is None:
        return
    config = model.config
    many = config.problem_type == "multi_label_classification" or is_regression(config)
    if many or not model.kind.endswith("Classification"):
        raise argument_error("class_weights", "must be None for a head without single labels", given, "leave it out")
    if isinstance(given, str):
        if given != "balanced":
            raise argument_error("class_weights", "must be numbers or 'balanced'", repr(given), "use 'balanced'")
    elif len(given) != config.num_labels or not all(0 < weight < math.inf for weight in given):
        raise argument_error(
            "class_weights",
            f"must be {config.num_labels} positive numbers, one per class",
            list(given),
            "use 'balanced' for the inverse of their frequencies",
        )


def weights_of_classes(given: ClassWeights, labels: Tensor, classes: int) -> Tensor | None:
    """Return float32 ``[classes]``, or ``None`` where all count alike.

    Args:
        given: checked.
        labels: of the training data, int64; below 0 = none. Only ``"balanced"`` reads them.
        classes: how many there are.
    """
    if given is None:
        return None
    if not isinstance(given, str):
        return torch.tensor(given, dtype=torch.float32)
    counts = torch.bincount(labels[labels >= 0], minlength=classes)
    # A class that does not occur has no loss to weigh.
    return counts.sum() / (classes * counts.clamp_min(1)).float()
