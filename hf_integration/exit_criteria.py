"""Exit criteria that look at more than one distribution: at the exits before, or at the states themselves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hf_integration.configuration_checks import is_regression
from hf_integration.early_exit import EntropyCriterion, ExitCriterion, ExitEvidence, InternalClassifiers
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig

__all__ = ["AgreementCriterion", "LearnedCriterion", "PatienceCriterion"]


class _ConsecutiveCriterion(ExitCriterion):
    """Compares the answers of consecutive exits; those of a regression head up to ``config.exit_tolerance``."""

    @classmethod
    def check(cls, config: MagicPyramidConfig) -> None:
        """See :meth:`ExitCriterion.check`."""
        if is_regression(config) and config.exit_tolerance is None:
            raise argument_error(
                "exit_tolerance",
                f"must be given for a regression head with exit_criterion={config.exit_criterion!r}",
                None,
                "set it to the difference of predictions that does not matter, in the unit of the labels",
            )

    def same_answers(self, logits: Tensor) -> Tensor:
        """Tell for each exit but the first of ``[n, exits, labels]`` whether it answers as the one before it.

        Returns:
            bool ``[n, exits - 1]``; false where either of the two is not finite.
        """
        before, after = logits[:, :-1].float(), logits[:, 1:].float()
        finite = before.isfinite().all(-1) & after.isfinite().all(-1)
        if is_regression(self.config):
            return finite & ((after - before).abs() < self._tolerance()).all(-1)
        if self.config.problem_type == "multi_label_classification":
            return finite & ((after > 0) == (before > 0)).all(-1)
        return finite & (after.argmax(-1) == before.argmax(-1))

    def _tolerance(self) -> float:
        # Without one nothing is the same: a difference over 0 is infinite or NaN.
        return self.config.exit_tolerance or 0.0


class PatienceCriterion(_ConsecutiveCriterion):
    """One over the number of consecutive exits, up to this one, that give the same answer (PABEE, arXiv 2006.04152).

    So a sample leaves at the ``t``-th same answer in a row if ``exit_threshold`` lies between ``1 / t`` and
    ``1 / (t - 1)``: at 1 it takes two, at 0.4 three, at 0.3 four.
    """

    def judge(self, evidence: ExitEvidence) -> Tensor:
        """See :meth:`ExitCriterion.judge`."""
        same = self.same_answers(evidence.logits)
        # Backwards from this exit, ones until the first difference.
        in_a_row = same.flip(1).long().cumprod(1).sum(1) + 1
        return 1 / in_a_row.float()


class AgreementCriterion(_ConsecutiveCriterion):
    """Entropy of the mean of this exit's distribution and the previous one's, as a share of the largest possible.

    It is 1 at the first exit, and where the two exits answer differently. For regression heads: the difference of the
    two predictions (the largest, of several outputs) over ``config.exit_tolerance``, at most 1.
    """

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.entropy = EntropyCriterion(config)

    def judge(self, evidence: ExitEvidence) -> Tensor:
        """See :meth:`ExitCriterion.judge`."""
        pair = evidence.logits[:, -2:].float()
        if pair.shape[1] < 2:
            return torch.ones_like(pair[:, 0, 0])
        if is_regression(self.config):
            difference: Tensor = (pair[:, 1] - pair[:, 0]).abs().amax(-1) / self._tolerance()
            return difference.clamp_max(1)
        if self.config.problem_type == "multi_label_classification":
            positive = pair.sigmoid().mean(1)
            pooled = self.entropy.label_uncertainty(torch.stack((positive, 1 - positive), dim=-1)).amax(-1)
        else:
            pooled = self.entropy.label_uncertainty(pair.softmax(-1).mean(1))
        return pooled.masked_fill(~self.same_answers(pair)[:, 0], 1.0)


class LearnedCriterion(ExitCriterion):
    """Twice the chance, estimated from the pooled state, that this exit's answer is wrong, at most 1.

    One linear map per exit decides between going on and stopping, as in BERxiT (EACL 2021), for any kind of head. It
    is trained beside the internal classifiers in the stage ``exits``; before that it is 1, so nobody leaves.
    """

    outputs: ClassVar[int] = 1

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.rightness = InternalClassifiers(config, 1)

    @classmethod
    def check(cls, config: MagicPyramidConfig) -> None:
        """See :meth:`ExitCriterion.check`: it is defined for every head."""

    def judge(self, evidence: ExitEvidence) -> Tensor:
        """See :meth:`ExitCriterion.judge`."""
        wrong = torch.sigmoid(-self.rightness(evidence.depth, evidence.pooled).float())[:, 0]
        return (2 * wrong).clamp_max(1)

    def prepare(self, pooled: Tensor) -> None:
        """See :meth:`ExitCriterion.prepare`."""
        self.rightness.standardise(pooled)

    def training_loss(self, collected: Mapping[str, Tensor], logits: Tensor, problem_type: str) -> Tensor:
        """See :meth:`ExitCriterion.training_loss`. Without labels, the last layer's answers are what is right."""
        says = self.rightness.every_depth(collected["pooled"])[..., 0]
        target = _rightness(logits, collected["teacher_logits"], collected.get("labels"), problem_type)
        return functional.binary_cross_entropy_with_logits(says, target.to(says.dtype))


def _rightness(logits: Tensor, teacher: Tensor, labels: Tensor | None, problem_type: str) -> Tensor:
    """Return how right the answers ``[n, exits, labels]`` are, ``[n, exits]`` from 0 to 1."""
    if problem_type == "single_label_classification":
        wanted = teacher.argmax(-1) if labels is None else labels.flatten()
        return (logits.argmax(-1) == wanted[:, None]).float()
    wanted = (teacher if labels is None else labels.reshape(teacher.shape))[:, None]
    if problem_type == "multi_label_classification":
        # The threshold of a logit is 0, that of a label halfway between its two values.
        return ((logits > 0) == (wanted > (0 if labels is None else 0.5))).all(-1).float()
    return 1 - torch.tanh((logits - wanted).abs()).mean(-1)
