"""Which tokens of a text stay: thresholds on their importance, learned per layer."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import initialization as init

if TYPE_CHECKING:
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig

__all__ = ["AttentionPruner", "TokenPruner"]


class TokenPruner(nn.Module, abc.ABC):
    """Decides which tokens a layer keeps. Subclasses are registered with ``mp_register_token_pruners``.

    A pruner sees the live tokens of all samples packed into one axis, in both executions, so it is written once. The
    first token of each sample ([CLS]) is kept whatever the pruner says.

    Args:
        config: the model's configuration; ``config.pruning_depths`` are the layers that prune.
    """

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__()
        self.config = config

    @abc.abstractmethod
    def is_active(self) -> bool:
        """Tell whether any layer can drop a token at the present settings; if not, no importance is computed."""

    @abc.abstractmethod
    def keep_mask(self, depth: int, importance: Tensor) -> Tensor:
        """Return the hard decision of layer ``depth`` (1-based), bool ``[T]``, from its importance, float32 ``[T]``."""

    @abc.abstractmethod
    def soft_mask(self, depth: int, importance: Tensor, temperature: float) -> Tensor:
        """Return the relaxation of :meth:`keep_mask` for training, float32 ``[T]`` in (0, 1), with gradients."""

    @abc.abstractmethod
    def reset_parameters(self) -> None:
        """Set the neutral start (every token stays), only through ``transformers.initialization`` functions.

        They leave alone what a checkpoint has filled already.
        """


class AttentionPruner(TokenPruner):
    """Keeps the tokens that receive at least ``rho_l`` times the average attention in layer ``l``.

    The threshold on the attention received is learned per layer as in Learned Token Pruning (arXiv 2107.00910, eq. 4
    to 6), but on ``r = n * s``, which does not depend on padding or on the length of the text.
    """

    def __init__(self, config: MagicPyramidConfig) -> None:
        super().__init__(config)
        self.keep_thresholds = nn.Parameter(torch.zeros(len(config.pruning_depths)))

    def reset_parameters(self) -> None:
        """Keep all tokens."""
        init.zeros_(self.keep_thresholds)

    def effective_thresholds(self) -> Tensor:
        """Return the cuts in force, ``[pruning layers]``: learned or configured, times ``config.keep_scale``."""
        base: Tensor = self.keep_thresholds
        if self.config.keep_threshold is not None:
            # expand() takes one number or one per layer.
            base = base.new_tensor(self.config.keep_threshold).expand(base.shape)
        return base * self.config.keep_scale

    def is_active(self) -> bool:
        """See :meth:`TokenPruner.is_active`."""
        return self.config.keep_scale > 0 and bool((self.effective_thresholds() > 0).any())

    def keep_mask(self, depth: int, importance: Tensor) -> Tensor:
        """See :meth:`TokenPruner.keep_mask`."""
        # Written as "not below" so that a NaN importance keeps the token and the NaN reaches the logits.
        return ~(importance.detach() < self._threshold(depth).detach())

    def soft_mask(self, depth: int, importance: Tensor, temperature: float) -> Tensor:
        """See :meth:`TokenPruner.soft_mask`."""
        return torch.sigmoid((importance - self._threshold(depth)) / temperature)

    def _threshold(self, depth: int) -> Tensor:
        return self.effective_thresholds()[self.config.pruning_depths.index(depth)]
