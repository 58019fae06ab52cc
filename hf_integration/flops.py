"""Counting the arithmetic of one forward pass, per sample.

One multiply-accumulate is two operations. Counted are the matrix products of what really runs (projections of
embeddings too), the pooling of the internal classifiers and the sums of the lexical one; embeddings are look-ups, and
layer norms, softmax and activations are left out, as is usual (Learned Token Pruning, arXiv 2107.00910, counts the same
terms). Masked execution reports what compact execution of the same decisions costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from hf_integration.configuration_magic_pyramid import family_of
from hf_integration.early_exit import pooled_size
from mp_plugins import argument_error

if TYPE_CHECKING:
    from hf_integration.compatibility import PreTrainedConfig
    from hf_integration.model_family import ModelFamily

__all__ = ["ModelShape", "baseline_flops", "pyramid_flops", "token_level_flops"]


@dataclass(frozen=True)
class ModelShape:
    """What the counts depend on, read once: reading a field of a configuration takes microseconds in transformers 5.

    Attributes:
        config: that it was read from, plain or of ours.
        family: of the model.
        layers: how many.
        width: ``hidden_size``.
        inner: width of the feed-forward part.
        labels: numbers that the head gives.
        embedding_macs: multiply-accumulates of each token in the embeddings.
        lexical: exits read the tokens themselves.
        reads_every_token: the last layer goes on with every token, for a head that reads their mean.
        pruning_columns: layers that prune, from 0.
    """

    config: Any
    family: ModelFamily
    layers: int
    width: int
    inner: int
    labels: int
    embedding_macs: int
    lexical: bool
    reads_every_token: bool
    pruning_columns: list[int]

    @classmethod
    def of(cls, config: PreTrainedConfig) -> ModelShape:
        """Read the shape of a model."""
        family = getattr(config, "family", None) or family_of(config.model_type, "config")
        return cls(
            config=config,
            family=family,
            layers=config.num_hidden_layers,
            width=config.hidden_size,
            # DistilBERT's name for it is the only one that its attribute_map does not translate.
            inner=int(config.hidden_dim if hasattr(config, "hidden_dim") else config.intermediate_size),
            labels=config.num_labels,
            embedding_macs=_embedding_macs(config),
            lexical=getattr(config, "lexical_exits", False),
            reads_every_token=family.pooling(config) == "mean",
            pruning_columns=[depth - 1 for depth in getattr(config, "pruning_depths", ())],
        )

    @property
    def head_macs(self) -> int:
        """Multiply-accumulates of the head: a pooler, and a classifier."""
        return self.width * (self.width + self.labels)


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
    tokens, shape = lengths.double(), ModelShape.of(config)
    layer = _layer_macs(tokens, tokens, shape)
    distances = shape.family.relative_macs(config, tokens, tokens, None)
    layer = layer if distances is None else layer + distances
    flops: Tensor = 2 * (shape.layers * layer + shape.embedding_macs * tokens + shape.head_macs)
    return flops


def pyramid_flops(
    attended: Tensor,
    kept: Tensor,
    lengths: Tensor,
    exits: Sequence[int],
    shape: ModelShape,
    *,
    exit_outputs: int,
    pruning_macs: int,
) -> Tensor:
    """Return the operations of one pass, float32 ``[batch]``.

    Args:
        attended: tokens that entered each layer, int64 ``[batch, layers]``, 0 where a sample had left; layers that
            nobody entered may be left out at the end.
        kept: tokens that went on to the feed-forward part, likewise.
        lengths: live tokens at the embeddings, int64 ``[batch]``.
        exits: depths at which internal classifiers were asked, ascending.
        shape: of the model.
        exit_outputs: numbers computed from the pooled state at each exit: the logits, and what a criterion adds.
        pruning_macs: multiply-accumulates of the pruner for each token that enters a pruning layer.
    """
    # Of the lexical sums at most, because a token that occurs twice is looked up once.
    of_each_token = 2 * (shape.embedding_macs + (shape.labels if exits and shape.lexical else 0))
    total, last = of_each_token * lengths.double(), shape.layers - 1
    n_attended, n_kept = attended.double(), kept.double()
    if attended.shape[1]:
        total = total + 2 * _layers_macs(n_attended[:, :last], n_kept[:, :last], lengths, shape)
    if pruning_macs:
        columns = [column for column in shape.pruning_columns if column < attended.shape[1]]
        total = total + 2 * pruning_macs * n_attended[:, columns].sum(1)
    if attended.shape[1] > last:
        entered = n_attended[:, last]
        total = total + (entered > 0) * 2 * (_last_layer_macs(entered, lengths, shape) + shape.head_macs)
    if exits:
        # Tokens that an internal classifier at each depth pools over; 0 = the sample did not get there.
        pooled = torch.cat((lengths[:, None].double(), n_kept), dim=1)[:, list(exits)]
        classifier = 2 * pooled_size(shape.width) * exit_outputs
        total = total + ((pooled > 0) * (2 * shape.width * pooled + classifier)).sum(1)
    return total.float()


def token_level_flops(
    attended: Tensor, kept: Tensor, lengths: Tensor, outputs: int, shape: ModelShape, *, pruning_macs: int
) -> Tensor:
    """Return the operations of one pass of a head that reads every token, float32 ``[batch]``.

    Args:
        attended: tokens that entered each layer, int64 ``[batch, layers]``.
        kept: tokens that went on to the feed-forward part, likewise.
        lengths: live tokens, int64 ``[batch]``.
        outputs: numbers that the head gives for each token.
        shape: of the model.
        pruning_macs: as for :func:`pyramid_flops`.
    """
    macs = _layers_macs(attended.double(), kept.double(), lengths, shape)
    macs = macs + pruning_macs * attended[:, shape.pruning_columns].sum(1)
    dense = shape.width**2 if outputs and shape.family.dense_token_heads else 0
    flops: Tensor = 2 * (macs + lengths * (shape.embedding_macs + dense + shape.width * outputs))
    return flops.float()


def _layers_macs(n_attended: Tensor, n_kept: Tensor, lengths: Tensor, shape: ModelShape) -> Tensor:
    """Those of several layers, ``[batch, layers]`` each, with what distances cost; summed to ``[batch]``."""
    macs = _layer_macs(n_attended, n_kept, shape)
    distances = shape.family.relative_macs(shape.config, n_attended, n_attended, lengths)
    return (macs if distances is None else macs + distances).sum(1)


def _layer_macs(n_attended: Tensor, n_kept: Tensor, shape: ModelShape) -> Tensor:
    """2 d n_a^2 for the attention, 3 d^2 n_a for its inputs, (d^2 + 2 d m) n_f for its output and the feed-forward."""
    width = shape.width
    token_wise = (width * width + shape.family.feed_forward_matrices * width * shape.inner) * n_kept
    macs: Tensor = n_attended * (2 * width * n_attended + 3 * width * width) + token_wise
    return macs


def _last_layer_macs(n_attended: Tensor, lengths: Tensor, shape: ModelShape) -> Tensor:
    """As a layer in which only [CLS] asks and goes on, unless the head reads every token."""
    family, width = shape.family, shape.width
    if shape.reads_every_token:
        return _layers_macs(n_attended[:, None], n_attended[:, None], lengths, shape)
    projections = (3 if family.fused_projections else 2) * width * width
    query = 0 if family.fused_projections else width * width
    of_first = query + width * width + family.feed_forward_matrices * width * shape.inner
    macs: Tensor = (projections + 2 * width) * n_attended + of_first
    distances = family.relative_macs(shape.config, 1, n_attended, lengths)
    return macs if distances is None else macs + distances


def _embedding_macs(config: PreTrainedConfig) -> int:
    """As ELECTRA projects embeddings that are narrower than its layers, and ALBERT projects all."""
    narrow = getattr(config, "embedding_size", config.hidden_size)
    projects = narrow != config.hidden_size or hasattr(config, "num_hidden_groups")
    return int(narrow * config.hidden_size) if projects else 0
