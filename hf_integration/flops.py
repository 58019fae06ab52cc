"""Counting the arithmetic of one forward pass, per sample.

One multiply-accumulate is two operations. Counted are the matrix products of what really runs (projections of
embeddings too), the pooling of the internal classifiers and the sums of the lexical one; embeddings are look-ups, and
layer norms, softmax and activations are left out, as is usual (Learned Token Pruning, arXiv 2107.00910, counts the same
terms). Masked execution reports what compact execution of the same decisions costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from hf_integration.configuration_magic_pyramid import family_of
from hf_integration.early_exit import pooled_size
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.compatibility import PreTrainedConfig
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
    from hf_integration.model_family import ModelFamily

__all__ = ["baseline_flops", "pyramid_flops", "token_level_flops"]


def baseline_flops(
    lengths: Tensor,
    config: PreTrainedConfig,
    *,
    padding: Literal["none", "longest", "max_length"] = "none",
    max_length: int | None = None,
) -> Tensor:
    """Return the operations of the plain model for one batch, float64 ``[batch]``.

    Args:
        lengths: live tokens of each sample, int64 ``[batch]``.
        config: shapes of the model.
        padding: ``"none"`` counts live tokens, ``"longest"`` pads to the longest sample of ``lengths``,
            ``"max_length"`` to ``max_length``.
        max_length: length that ``padding="max_length"`` pads to.
    """
    if padding == "longest":
        lengths = lengths.max().expand(lengths.shape)
    elif padding == "max_length":
        if max_length is None:
            raise argument_error("max_length", "must be given with padding='max_length'", None, "pass the length")
        lengths = torch.full_like(lengths, max_length)
    elif padding != "none":
        raise argument_error("padding", "must be 'none', 'longest' or 'max_length'", repr(padding), "use 'none'")
    tokens = lengths.double()
    family = getattr(config, "family", None) or family_of(config.model_type, "config")
    layer = _layer_macs(tokens, tokens, config, family)
    distances = family.relative_macs(config, tokens, tokens, None)
    layer = layer if distances is None else layer + distances
    macs = config.num_hidden_layers * layer + _embedding_macs(tokens, config)
    flops: Tensor = 2 * (macs + _head_macs(config))
    return flops


def pyramid_flops(
    attended: Tensor,
    kept: Tensor,
    lengths: Tensor,
    exits: Sequence[int],
    config: MagicPyramidConfig,
    *,
    exit_outputs: int,
    pruning_macs: int,
) -> Tensor:
    """Return the operations of one pass, float32 ``[batch]``.

    Args:
        attended: tokens that entered each layer, int64 ``[batch, layers]``, 0 where a sample had left.
        kept: tokens that went on to the feed-forward part, likewise.
        lengths: live tokens at the embeddings, int64 ``[batch]``.
        exits: depths at which internal classifiers were asked, ascending.
        config: shapes of the model.
        exit_outputs: numbers computed from the pooled state at each exit: the logits, and what a criterion adds.
        pruning_macs: multiply-accumulates of the pruner for each token that enters a pruning layer.
    """
    n_attended, n_kept = attended.double(), kept.double()
    total = 2 * (_layers_macs(n_attended[:, :-1], n_kept[:, :-1], lengths, config) + _embedding_macs(lengths, config))
    total = total + 2 * _pruning_macs(n_attended, pruning_macs, config)
    reached_head = n_attended[:, -1] > 0
    total = total + reached_head * 2 * (_last_layer_macs(n_attended[:, -1], lengths, config) + _head_macs(config))
    # Tokens that an internal classifier at each depth pools over; 0 = the sample did not get there.
    pooled = torch.cat((lengths[:, None].double(), n_kept), dim=1)
    if exits and config.lexical_exits:
        # At most, because a token that occurs twice is looked up once.
        total = total + 2 * config.num_labels * lengths
    for depth in exits:
        classifier = 2 * pooled_size(config.hidden_size) * exit_outputs
        total = total + (pooled[:, depth] > 0) * (2 * config.hidden_size * pooled[:, depth] + classifier)
    return total.float()


def token_level_flops(
    attended: Tensor, kept: Tensor, lengths: Tensor, outputs: int, config: MagicPyramidConfig, *, pruning_macs: int
) -> Tensor:
    """Return the operations of one pass of a head that reads every token, float32 ``[batch]``.

    Args:
        attended: tokens that entered each layer, int64 ``[batch, layers]``.
        kept: tokens that went on to the feed-forward part, likewise.
        lengths: live tokens, int64 ``[batch]``.
        outputs: numbers that the head gives for each token.
        config: shapes of the model.
        pruning_macs: as for :func:`pyramid_flops`.
    """
    macs = _layers_macs(attended.double(), kept.double(), lengths, config) + _embedding_macs(lengths, config)
    macs = macs + _pruning_macs(attended.double(), pruning_macs, config)
    dense = config.hidden_size**2 if outputs and config.family.dense_token_heads else 0
    flops: Tensor = 2 * (macs + lengths * (dense + config.hidden_size * outputs))
    return flops.float()


def _layers_macs(n_attended: Tensor, n_kept: Tensor, lengths: Tensor, config: MagicPyramidConfig) -> Tensor:
    """Those of several layers, ``[batch, layers]`` each, with what distances cost; summed to ``[batch]``."""
    family = config.family
    macs = _layer_macs(n_attended, n_kept, config, family)
    distances = family.relative_macs(config, n_attended, n_attended, lengths)
    return (macs if distances is None else macs + distances).sum(1)


def _layer_macs(n_attended: Tensor, n_kept: Tensor, config: PreTrainedConfig, family: ModelFamily) -> Tensor:
    """2 d n_a^2 for the attention, 3 d^2 n_a for its inputs, (d^2 + 2 d m) n_f for its output and the feed-forward."""
    width, inner = config.hidden_size, _inner_size(config)
    token_wise = (width * width + family.feed_forward_matrices * width * inner) * n_kept
    attention = 2 * width * n_attended**2 + 3 * width * width * n_attended
    macs: Tensor = attention + token_wise
    return macs


def _last_layer_macs(n_attended: Tensor, lengths: Tensor, config: MagicPyramidConfig) -> Tensor:
    """As a layer in which only [CLS] asks and goes on, unless the head reads every token."""
    family, width, inner = config.family, config.hidden_size, _inner_size(config)
    if family.pooling(config) == "mean":
        return _layers_macs(n_attended[:, None], n_attended[:, None], lengths, config)
    projections = (3 if family.fused_projections else 2) * width * width * n_attended
    query = 0 if family.fused_projections else width * width
    token_wise = query + width * width + family.feed_forward_matrices * width * inner
    macs: Tensor = projections + 2 * width * n_attended + token_wise
    distances = family.relative_macs(config, 1, n_attended, lengths)
    return macs if distances is None else macs + distances


def _pruning_macs(n_attended: Tensor, macs_per_token: int, config: MagicPyramidConfig) -> Tensor:
    return macs_per_token * n_attended[:, [depth - 1 for depth in config.pruning_depths]].sum(1)


def _embedding_macs(tokens: Tensor, config: PreTrainedConfig) -> Tensor:
    """As ELECTRA projects embeddings that are narrower than its layers, and ALBERT projects all."""
    narrow = getattr(config, "embedding_size", config.hidden_size)
    projects = narrow != config.hidden_size or hasattr(config, "num_hidden_groups")
    return tokens * (narrow * config.hidden_size if projects else 0)


def _inner_size(config: PreTrainedConfig) -> int:
    # DistilBERT's name for it is the only one that its attribute_map does not translate.
    return int(config.hidden_dim if hasattr(config, "hidden_dim") else config.intermediate_size)


def _head_macs(config: PreTrainedConfig) -> int:
    return int(config.hidden_size * (config.hidden_size + config.num_labels))
