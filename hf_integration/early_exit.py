"""Internal classifiers, and the criteria by which a sample leaves at one of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_integration.compatibility import init
from hf_integration.configuration_checks import is_regression
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig

__all__ = [
    "ConfidenceCriterion",
    "EntropyCriterion",
    "ExitCriterion",
    "ExitEvidence",
    "InternalClassifier",
    "InternalClassifiers",
    "MarginCriterion",
    "judge_every_exit",
    "pooled_size",
    "should_exit",
]


@dataclass(frozen=True)
class ExitEvidence:
    """What is known about samples at an exit.

    Attributes:
        depth: of the exit.
        logits: ``[n, exits, labels]``, of all exits asked so far; the last one is this one.
        pooled: ``[n, features]``, what the internal classifier of this exit read.
    """

    depth: int
    logits: Tensor
    pooled: Tensor


class ExitCriterion(nn.Module):
    """Measures how unsure a classifier is. Subclasses are registered with ``mp_register_exit_criteria``.

    The decision itself is always ``uncertainty < exit_threshold``, so thresholds compare across criteria. A subclass
    defines :meth:`label_uncertainty`, or :meth:`judge` if one distribution is not all that it looks at.

    Args:
        config: the model's configuration.
    """

    # Numbers that it computes from the pooled state at each exit, for the count of operations.
    outputs: ClassVar[int] = 0

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def check(cls, config: MagicPyramidConfig) -> None:
        """Refuse a configuration with exits that the criterion is not defined for; here regression heads.

        Raises:
            mp_plugins.ArgumentError: it is not defined.
        """
        if is_regression(config):
            raise argument_error(
                "exit_threshold",
                f"must be 0 for a regression head, which has no uncertainty that {config.exit_criterion!r} measures",
                config.exit_threshold,
                "use another `exit_criterion`, 'patience', 'agreement' or 'learned', or `max_layers`",
            )

    def label_uncertainty(self, probabilities: Tensor) -> Tensor:
        """Return the uncertainty of distributions ``[..., classes]`` as ``[...]``: 0 = sure, 1 = uniform."""
        raise NotImplementedError(f"{type(self).__name__} must define label_uncertainty or judge")

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

    def judge(self, evidence: ExitEvidence) -> Tensor:
        """Return the uncertainty of samples at an exit, float32 ``[n]``: 0 = sure, 1 = knows nothing.

        A sample's value must not depend on the other samples.
        """
        many = self.config.problem_type == "multi_label_classification"
        return self.uncertainty(evidence.logits[:, -1], multi_label=many)

    def forward(self, evidence: ExitEvidence) -> Tensor:
        """Return what :meth:`judge` says, and NaN, which never leaves, where this exit's logits are not finite."""
        # Nothing times a number that is not finite is NaN: fewer operations than asking each.
        return self.judge(evidence) + (evidence.logits[:, -1] * 0).sum(-1)

    def reset_parameters(self) -> None:
        """Set the neutral start (nobody leaves) of parameters, only through ``transformers.initialization``."""

    def prepare(self, pooled: Tensor) -> None:
        """Get ready for training on pooled states ``[N, exits, features]``."""

    def training_loss(self, collected: Mapping[str, Tensor], logits: Tensor, problem_type: str) -> Tensor | None:
        """Return the loss of the criterion's own parameters in the stage ``exits``, a scalar, or ``None``.

        Args:
            collected: ``pooled`` ``[n, exits, features]``, ``teacher_logits`` ``[n, labels]`` of the last layer, and,
                if the data set has them, ``labels``.
            logits: of all internal classifiers, ``[n, exits, labels]``, without gradients.
            problem_type: one of BERT's three.
        """
        return None


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


class MarginCriterion(ExitCriterion):
    """One minus the lead of the most probable class over the next."""

    def label_uncertainty(self, probabilities: Tensor) -> Tensor:
        """See :meth:`ExitCriterion.label_uncertainty`."""
        # The second place of a head with one class is empty.
        first, second = functional.pad(probabilities, (0, 1)).topk(2, dim=-1).values.unbind(-1)
        return 1 - (first - second)


def judge_every_exit(criterion: ExitCriterion, depths: Sequence[int], logits: Tensor, pooled: Tensor) -> Tensor:
    """Return the uncertainty at each exit of samples that leave at none, float32 ``[n, exits]``.

    Args:
        criterion: the model's.
        depths: of the exits, ascending.
        logits: ``[n, exits, labels]``.
        pooled: ``[n, exits, features]``.
    """
    found = [
        criterion(ExitEvidence(depth, logits[:, : index + 1], pooled[:, index])) for index, depth in enumerate(depths)
    ]
    return torch.stack(found, dim=1)


def should_exit(uncertainty: Tensor, threshold: float) -> Tensor:
    """Return bool ``[n]``: who leaves. NaN compares false, so a broken classifier never decides."""
    return uncertainty < threshold


def pooled_size(hidden_size: int) -> int:
    """Return the number of features that are pooled from states: [CLS], mean and maximum."""
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

    @torch.no_grad()
    def standardise(self, pooled: Tensor) -> None:
        """Take mean and standard deviation of pooled states ``[N, features]``."""
        self.mean.copy_(pooled.mean(0))
        # A feature that never varies says nothing; the floor keeps it from being blown up on the next text.
        self.std.copy_(pooled.std(0, correction=0).clamp_min(1e-3))

    def forward(self, pooled: Tensor) -> Tensor:
        """Return logits ``[n, labels]`` of pooled states ``[n, features]``."""
        standardised = (pooled.to(self.weight.dtype) - self.mean) / self.std
        return functional.linear(standardised, self.weight, self.bias)


class InternalClassifiers(nn.Module):
    """One classifier per exit depth.

    Features are a pooled state, and behind it, with ``config.lexical_exits``, the logits of the lexical classifier.

    Args:
        config: the model's configuration; ``config.exit_depths`` are the depths.
        labels: numbers that each classifier gives.
        lexical: give a weighted sum of one's own logits and the lexical ones, where there are any: two opinions
            multiplied, which on Reuters R8 are right for 96.7 % at depth 0, and where they agree let a tenth more texts
            leave. One classifier that reads both leans on what it has learned by heart: 96.1 %.

    The weights, ``opinion_weights`` ``[exits, opinions]``, are equal and add up to 1 unless they were fitted
    (:func:`~hf_integration.opinions.fit_opinions`).
    """

    opinion_weights: Tensor

    def __init__(self, config: MagicPyramidConfig, labels: int, *, lexical: bool = False) -> None:
        super().__init__()
        self.depths = config.exit_depths
        self.pooled = pooled_size(config.hidden_size)
        self.lexical = lexical and config.lexical_exits
        self.heads = nn.ModuleList(InternalClassifier(self.pooled, labels) for _ in self.depths)
        opinions = 2 if self.lexical else 1
        self.register_buffer("opinion_weights", torch.full((len(self.depths), opinions), 1 / opinions))

    def reset_parameters(self) -> None:
        """Let all opinions count equally; the classifiers reset themselves."""
        init.constant_(self.opinion_weights, 1 / self.opinion_weights.shape[1])

    def forward(self, depth: int, features: Tensor) -> Tensor:
        """Return the logits ``[n, labels]`` at ``depth`` from ``[n, features]``."""
        return self._answer(self.depths.index(depth), features)

    def every_depth(self, features: Tensor) -> Tensor:
        """Return logits ``[n, exits, labels]`` of ``[n, exits, features]``."""
        return torch.stack([self._answer(index, those) for index, those in enumerate(features.unbind(1))], dim=1)

    def own_answers(self, features: Tensor) -> Tensor:
        """Return the logits of the states alone, ``[n, exits, labels]`` of ``[n, exits, features]``."""
        pairs = zip(self.heads, features.unbind(1), strict=True)
        return torch.stack([head(those[:, : self.pooled]) for head, those in pairs], dim=1)

    def opinions(self, features: Tensor) -> Tensor:
        """Return what is weighed, ``[n, exits, opinions, labels]`` of ``[n, exits, features]``."""
        own = self.own_answers(features)
        return torch.stack((own, features[:, :, self.pooled :].to(own.dtype)) if self.lexical else (own,), dim=2)

    def standardise(self, features: Tensor) -> None:
        """Standardise the pooled states of each classifier by ``[N, exits, features]``."""
        for head, those in zip(self.heads, features.unbind(1), strict=True):
            cast(InternalClassifier, head).standardise(those[:, : self.pooled])

    def _answer(self, index: int, features: Tensor) -> Tensor:
        weights = self.opinion_weights[index]
        own: Tensor = self.heads[index](features[:, : self.pooled]) * weights[0]
        return own + features[:, self.pooled :].to(own.dtype) * weights[1] if self.lexical else own

    def is_trained(self, depth: int) -> bool:
        """Tell whether the classifier at ``depth`` has left its neutral start."""
        return bool(self.get_parameter(f"heads.{self.depths.index(depth)}.weight").any())
