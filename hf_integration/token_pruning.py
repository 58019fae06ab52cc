"""Which tokens of a text stay: by thresholds on their importance, by rank, or by a learned gate."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from hf_integration.compatibility import init
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.attention import Importance
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
    from hf_integration.packing import Packing

__all__ = ["AttentionPruner", "ClsAttentionPruner", "GatePruner", "TokenEvidence", "TokenPruner", "TopKPruner"]


@dataclass(frozen=True)
class TokenEvidence:
    """What a pruner sees: the live tokens of all running samples, packed into one axis.

    Attributes:
        depth: the layer (1-based) that prunes.
        importance: float32 ``[T]``, 1 on average over the tokens of a text that may be pruned, if the pruner names an
            :attr:`TokenPruner.attention`.
        states: input of the layer, ``[T, hidden_size]``, if :attr:`TokenPruner.reads_states`.
        protected: tokens that stay whatever the pruner says, [CLS] among them, bool ``[T]``.
        packing: which rows belong to which sample. In an exported graph every position of the padded batch has a row,
            lengths are in tensors alone, and what is not live has importance 0.
        initial_lengths: tokens that each sample had before any pruning, int64 ``[n]``.
    """

    depth: int
    importance: Tensor | None
    states: Tensor | None
    protected: Tensor
    packing: Packing
    initial_lengths: Tensor

    def attention_importance(self) -> Tensor:
        """Return the importance, which the pruner has asked for."""
        if self.importance is None:
            raise RuntimeError("a pruner that reads importance must name an `attention`")
        return self.importance

    def layer_input(self) -> Tensor:
        """Return the states, which the pruner has asked for."""
        if self.states is None:
            raise RuntimeError("a pruner that reads states must set `reads_states`")
        return self.states


class TokenPruner(nn.Module, abc.ABC):
    """Decides which tokens a layer keeps. Subclasses are registered with ``mp_register_token_pruners``.

    A pruner sees the live tokens of all samples packed into one axis, in both executions, so it is written once. What
    it decides about a sample must not depend on the others. Protected tokens are kept whatever it says.

    Args:
        config: the model's configuration; ``config.pruning_depths`` are the layers that prune.
    """

    # Where the importance comes from; None = it is not read.
    attention: ClassVar[Importance | None] = "received"
    reads_states: ClassVar[bool] = False
    # The one of the fields `keep_threshold` and `keep_rate` that it follows.
    setting: ClassVar[str] = "keep_threshold"

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def check(cls, config: MagicPyramidConfig) -> None:
        """Refuse settings that the pruner does not follow.

        Raises:
            mp_plugins.ArgumentError: there is one.
        """
        for name in {"keep_threshold", "keep_rate"} - {cls.setting}:
            if getattr(config, name) is not None:
                raise argument_error(
                    name,
                    f"must be None for the pruner {config.token_pruner!r}",
                    getattr(config, name),
                    f"use `{cls.setting}`",
                )

    @property
    def macs_per_token(self) -> int:
        """Multiply-accumulates for each token that enters a pruning layer, beyond the layer's own."""
        return 0

    @abc.abstractmethod
    def is_active(self) -> bool:
        """Tell whether any layer can drop a token at the present settings; if not, no importance is computed."""

    @abc.abstractmethod
    def keep_mask(self, evidence: TokenEvidence) -> Tensor:
        """Return the hard decision, bool ``[T]``."""

    @abc.abstractmethod
    def soft_mask(self, evidence: TokenEvidence, temperature: float) -> Tensor:
        """Return the relaxation of :meth:`keep_mask` for training, float32 ``[T]`` in (0, 1), with gradients."""

    @abc.abstractmethod
    def reset_parameters(self) -> None:
        """Set the neutral start (every token stays), only through ``transformers.initialization`` functions.

        They leave alone what a checkpoint has filled already.
        """


class _ThresholdPruner(TokenPruner):
    """Keeps the tokens whose score is not below the cut of the layer."""

    @abc.abstractmethod
    def scores(self, evidence: TokenEvidence) -> Tensor:
        """Return the scores that are cut, float32 ``[T]``."""

    @abc.abstractmethod
    def own_thresholds(self) -> Tensor:
        """Return the cuts that hold where the configuration gives none, ``[pruning layers]``."""

    def effective_thresholds(self) -> Tensor:
        """Return the cuts in force, ``[pruning layers]``: its own or configured, times ``config.keep_scale``."""
        base = self.own_thresholds()
        if self.config.keep_threshold is not None:
            # expand() takes one number or one per layer.
            base = base.new_tensor(self.config.keep_threshold).expand(base.shape)
        return base * self.config.keep_scale

    def keep_mask(self, evidence: TokenEvidence) -> Tensor:
        """See :meth:`TokenPruner.keep_mask`."""
        # Written as "not below" so that a NaN score keeps the token and the NaN reaches the logits.
        return ~(self.scores(evidence).detach() < self._threshold(evidence.depth).detach())

    def soft_mask(self, evidence: TokenEvidence, temperature: float) -> Tensor:
        """See :meth:`TokenPruner.soft_mask`."""
        return torch.sigmoid((self.scores(evidence) - self._threshold(evidence.depth)) / temperature)

    def _threshold(self, depth: int) -> Tensor:
        return self.effective_thresholds()[self.config.pruning_depths.index(depth)]


class AttentionPruner(_ThresholdPruner):
    """Keeps the tokens that receive at least ``rho_l`` times the average attention in layer ``l``.

    The threshold on the attention received is learned per layer as in Learned Token Pruning (arXiv 2107.00910, eq. 4
    to 6), but relative to the average of the tokens that may be pruned, which depends neither on padding nor on the
    length of the text: one threshold leaves short and long texts about the same share of their tokens.
    """

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.keep_thresholds = nn.Parameter(torch.zeros(len(config.pruning_depths)))

    def reset_parameters(self) -> None:
        """Keep all tokens."""
        init.zeros_(self.keep_thresholds)

    def is_active(self) -> bool:
        """See :meth:`TokenPruner.is_active`."""
        return self.config.keep_scale > 0 and bool((self.effective_thresholds() > 0).any())

    def scores(self, evidence: TokenEvidence) -> Tensor:
        """Return the importance."""
        return evidence.attention_importance()

    def own_thresholds(self) -> Tensor:
        """Return the learned cuts."""
        return self.keep_thresholds


class ClsAttentionPruner(AttentionPruner):
    """As :class:`AttentionPruner`, by the attention that [CLS] gives: what the classifiers read asks for.

    The scores take one row of the attention matrix, so the others stay in the fused kernel.
    """

    attention = "first"

    @property
    def macs_per_token(self) -> int:
        """See :attr:`TokenPruner.macs_per_token`."""
        return int(self.config.hidden_size)


class TopKPruner(TokenPruner):
    """Keeps the most important tokens of each text, as many as ``config.keep_rate`` leaves in the layer.

    Nothing is learned: the schedule is that of SpAtten and PoWER-BERT with given numbers. Protected tokens come first.
    """

    setting = "keep_rate"

    def reset_parameters(self) -> None:
        """Do nothing: there are no parameters."""

    def rates(self) -> list[float]:
        """Return the shares in force, one per pruning layer, of the tokens that a text had at the start."""
        layers, rate = len(self.config.pruning_depths), self.config.keep_rate
        if rate is None:
            return [1.0] * layers
        rates = rate if isinstance(rate, list) else [1 - (1 - rate) * (step + 1) / layers for step in range(layers)]
        return [1 - self.config.keep_scale * (1 - share) for share in rates]

    def is_active(self) -> bool:
        """See :meth:`TokenPruner.is_active`."""
        return min(self.rates(), default=1.0) < 1

    def keep_mask(self, evidence: TokenEvidence) -> Tensor:
        """See :meth:`TokenPruner.keep_mask`. Of equally important tokens the first ones stay."""
        packing = evidence.packing
        if torch.compiler.is_exporting():
            ranks = _ranks_by_counting(_protected_first(evidence), packing)
            return ranks < self._counts(evidence).index_select(0, packing.segment_ids)
        order = _ranked_rows(_protected_first(evidence), packing)
        # Sorted rows of a sample lie where its rows lie, so those that stay are the first ones of its place.
        ends = (packing.first_tokens + self._counts(evidence)).index_select(0, packing.segment_ids)
        stays = torch.arange(order.shape[0], device=order.device) < ends
        return torch.empty_like(stays).scatter_(0, order, stays)

    def soft_mask(self, evidence: TokenEvidence, temperature: float) -> Tensor:
        """See :meth:`TokenPruner.soft_mask`. The cut lies halfway between the last that stays and the next."""
        packing, ranked = evidence.packing, _protected_first(evidence)
        ranked = ranked[_ranked_rows(ranked, packing)]
        counts = self._counts(evidence).clamp_max(packing.length_tensor)
        last = packing.first_tokens + counts - 1
        following = (last + 1).clamp_max(len(ranked) - 1)
        cut = (ranked[last] + ranked[following]) / 2
        cut = cut.masked_fill(counts == packing.length_tensor, -torch.inf)
        return torch.sigmoid((evidence.attention_importance() - cut[packing.segment_ids]) / temperature)

    def _counts(self, evidence: TokenEvidence) -> Tensor:
        """Return how many tokens of each sample stay, int64 ``[n]``."""
        rate = self.rates()[self.config.pruning_depths.index(evidence.depth)]
        # The margin keeps 0.7 * 10 from being rounded up to 8.
        return (evidence.initial_lengths.double() * rate - 1e-9).ceil().long().clamp_min(1)


class GatePruner(_ThresholdPruner):
    """Keeps the tokens that a small learned gate lets pass: one linear map per layer on the states that enter it.

    The score is twice the probability of passing, so that the cut is 1. No attention is read, as in Transkimmer
    (arXiv 2205.07324). The gate is trained in the stage ``soft``; before that everything passes.
    """

    attention = None
    reads_states = True

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.weight = nn.Parameter(torch.zeros(len(config.pruning_depths), config.hidden_size))
        self.bias = nn.Parameter(torch.ones(len(config.pruning_depths)))

    @property
    def macs_per_token(self) -> int:
        """See :attr:`TokenPruner.macs_per_token`."""
        return int(self.config.hidden_size)

    def reset_parameters(self) -> None:
        """Let every token pass with the same score, 1.46, above the cut."""
        init.zeros_(self.weight)
        init.ones_(self.bias)

    def is_active(self) -> bool:
        """See :meth:`TokenPruner.is_active`."""
        if self.config.keep_scale == 0:
            return False
        same_for_all = 2 * self.bias.float().sigmoid()
        return bool(self.weight.any()) or bool((same_for_all < self.effective_thresholds()).any())

    def scores(self, evidence: TokenEvidence) -> Tensor:
        """Return twice the probability of passing."""
        index, states = self.config.pruning_depths.index(evidence.depth), evidence.layer_input()
        # Over the square root of the width, so that weights are of one scale whatever the model.
        scaled = states.to(self.weight.dtype) / states.shape[-1] ** 0.5
        passing = functional.linear(scaled, self.weight[index : index + 1], self.bias[index : index + 1])
        return 2 * passing[:, 0].float().sigmoid()

    def own_thresholds(self) -> Tensor:
        """Return 1 for every layer."""
        return torch.ones(len(self.config.pruning_depths), device=self.bias.device)


def _protected_first(evidence: TokenEvidence) -> Tensor:
    """Return the importance without gradients, infinite where a token is protected."""
    return evidence.attention_importance().detach().masked_fill(evidence.protected, torch.inf)


def _ranks_by_counting(importance: Tensor, packing: Packing) -> Tensor:
    """Return the rank of each row in its sample, int64 ``[T]``, where all samples are of the same length.

    For graphs of fixed shape, whose formats know no stable order: takes ``n * n`` comparisons a sample.
    """
    own = importance.view(packing.sample_ids.shape[0], -1)
    others = own[:, None, :]
    slots = torch.arange(own.shape[1], device=own.device)
    first = (others == own[:, :, None]) & (slots < slots[:, None])
    return ((others > own[:, :, None]) | first).sum(2).flatten()


def _ranked_rows(importance: Tensor, packing: Packing) -> Tensor:
    """Return the rows sample by sample, each from the most to the least important, int64 ``[T]``."""
    # One key for both orders: bits of positive numbers rise as the numbers do. NaN, made positive too, is the largest.
    bits = importance.float().abs().view(torch.int32)
    return ((packing.segment_ids << 32) - bits).argsort(stable=True)
