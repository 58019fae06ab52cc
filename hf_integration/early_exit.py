"""Internal classifiers, and the criteria by which a sample leaves at one of them."""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init

if TYPE_CHECKING:
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig

__all__ = [
    "ConfidenceCriterion",
    "EntropyCriterion",
    "ExitCriterion",
    "InternalClassifier",
    "InternalClassifiers",
    "pooled_size",
    "should_exit",
]


class ExitCriterion(abc.ABC):
    """Measures how unsure a classifier is. Subclasses are registered with ``mp_register_exit_criteria``.

    The decision itself is always ``uncertainty < exit_threshold``, so thresholds compare across criteria.
    """

    @abc.abstractmethod
    def label_uncertainty(self, probabilities: Tensor) -> Tensor:
        """Return the uncertainty of distributions ``[..., classes]`` as ``[...]``: 0 = sure, 1 = uniform."""

    def uncertainty(self, logits: Tensor, *, multi_label: bool = False) -> Tensor:
        """Return the uncertainty of logits ``[n, labels]`` as float32 ``[n]``.

        Args:
            logits: of any floating dtype.
            multi_label: labels are independent; the least certain one counts.
        """
        logits = logits.float()
        if not multi_label:
            return self.label_uncertainty(logits.softmax(-1))
        positive = logits.sigmoid()
        return self.label_uncertainty(torch.stack((positive, 1 - positive), dim=-1)).amax(-1)


class EntropyCriterion(ExitCriterion):
    """Entropy over the entropy of the uniform distribution (FastBERT, arXiv 2004.02178, eq. 7)."""

    def label_uncertainty(self, probabilities: Tensor) -> Tensor:
        """See :meth:`ExitCriterion.label_uncertainty`."""
        # special.entr is 0 at 0 where -p * log(p) is NaN, and stays NaN for NaN.
        entropy: Tensor = torch.special.entr(probabilities).sum(-1)
        return entropy / math.log(max(2, probabilities.shape[-1]))


class ConfidenceCriterion(ExitCriterion):
    """One minus the largest probability, over its value for the uniform distribution."""

    def label_uncertainty(self, probabilities: Tensor) -> Tensor:
        """See :meth:`ExitCriterion.label_uncertainty`."""
        classes = max(2, probabilities.shape[-1])
        doubt: Tensor = 1 - probabilities.amax(-1)
        return doubt * (classes / (classes - 1))


def should_exit(uncertainty: Tensor, threshold: float) -> Tensor:
    """Return bool ``[n]``: who leaves. NaN compares false, so a broken classifier never decides."""
    return uncertainty < threshold


def pooled_size(hidden_size: int) -> int:
    """Return the number of features that an internal classifier reads: [CLS], mean and maximum."""
    return 3 * hidden_size


class InternalClassifier(nn.Module):
    """Standardisation and a linear map from pooled states to logits.

    The pooled state of a sample is its first token, the mean and the maximum over its live tokens, side by side.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int, labels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(labels, features))
        self.bias = nn.Parameter(torch.zeros(labels))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def reset_parameters(self) -> None:
        """Predict the uniform distribution, whose uncertainty is 1: nobody leaves."""
        for tensor in (self.weight, self.bias, self.mean):
            init.zeros_(tensor)
        init.ones_(self.std)

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits ``[n, labels]`` of pooled states ``[n, features]``."""
        standardised = (pooled.to(self.weight.dtype) - self.mean) / self.std
        return functional.linear(standardised, self.weight, self.bias)


class InternalClassifiers(nn.Module):
    """One classifier per exit depth.

    Args:
        config: the model's configuration; ``config.exit_depths`` are the depths.
    """

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__()
        self.depths = config.exit_depths
        features = pooled_size(config.hidden_size)
        self.heads = nn.ModuleList(InternalClassifier(features, config.num_labels) for _ in self.depths)

    def forward(self, depth: int, pooled: Tensor) -> Tensor:
        """Return the logits ``[n, labels]`` at ``depth`` from pooled states ``[n, features]``."""
        logits: Tensor = self.heads[self.depths.index(depth)](pooled)
        return logits

    def every_depth(self, pooled: Tensor) -> Tensor:
        """Return logits ``[n, exits, labels]`` of pooled states ``[n, exits, features]``."""
        return torch.stack([head(states) for head, states in zip(self.heads, pooled.unbind(1), strict=True)], dim=1)

    def is_trained(self, depth: int) -> bool:
        """Tell whether the classifier at ``depth`` has left its neutral start."""
        return bool(self.get_parameter(f"heads.{self.depths.index(depth)}.weight").any())
