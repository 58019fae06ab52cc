"""Architectures whose attention adds a term for the distance of two tokens: MPNet and DeBERTa-v2."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from hf_integration.attention import ScoreBias
from hf_integration.bert_families import BertFamily, RobertaFamily
from hf_integration.model_family import RelativePositions
from mp_plugins import UnsupportedError

__all__ = ["DebertaV2Family", "MPNetFamily"]


class MPNetFamily(RobertaFamily):
    """MPNet: RoBERTa's positions and head, and one bias for each head and bucket of distances, shared by all layers."""

    def padding_id(self, config: Any) -> int:
        """See :meth:`RobertaFamily.padding_id`. MPNet's embeddings do not ask the configuration."""
        return 1

    def relative_positions(self, backbone: Any, position_ids: Tensor, like: Tensor) -> RelativePositions:
        """See :meth:`ModelFamily.relative_positions`."""
        reach = position_ids.shape[1] - 1
        distances = torch.arange(-reach, reach + 1, device=position_ids.device)
        return _BucketBias(backbone.encoder, backbone.encoder.relative_position_bucket(distances), reach)

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        query: Tensor = layer.attention.attn.q(hidden)
        return query

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        return layer.attention.attn.k(hidden), layer.attention.attn.v(hidden)

    def attention_dropout(self, layer: Any) -> float:
        """See :meth:`ModelFamily.attention_dropout`."""
        dropout = layer.attention.attn.dropout
        return float(dropout.p) if dropout.training else 0.0

    def attention_output(self, layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.attention_output`."""
        attention = layer.attention
        output: Tensor = attention.LayerNorm(attention.dropout(attention.attn.o(context)) + hidden)
        return output


class _BucketBias(RelativePositions):
    """MPNet's: ``buckets`` holds that of every distance from ``-reach`` to ``reach``, int64 ``[2 * reach + 1]``."""

    def __init__(self, encoder: Any, buckets: Tensor, reach: int) -> None:
        self.encoder, self.buckets, self.reach = encoder, buckets, reach

    def score_bias(self, layer: nn.Module) -> ScoreBias:
        """See :meth:`RelativePositions.score_bias`."""
        # Looked up by distance first and by pair after: n numbers a head from the embedding, not n x n.
        by_distance = self.encoder.relative_attention_bias(self.buckets).t()

        def bias(query: Tensor, key: Tensor, query_slots: Tensor, key_slots: Tensor) -> Tensor:
            distances = key_slots[..., None, :] - query_slots[..., :, None]
            added: Tensor = by_distance[:, distances + self.reach].movedim(0, -3)
            return added

        return bias


class DebertaV2Family(BertFamily):
    """DeBERTa-v2 and -v3: scores of content against content, content against distance and distance against content."""

    def check(self, config: Any) -> None:
        """See :meth:`ModelFamily.check`."""
        if getattr(config, "conv_kernel_size", 0) > 0:
            raise UnsupportedError(
                "Magic Pyramid supports DeBERTa-v2 without a convolution, "
                f"got conv_kernel_size={config.conv_kernel_size}: it mixes neighbours, which pruning takes away. "
                "Use a checkpoint without one, such as DeBERTa-v3"
            )

    def relative_positions(self, backbone: Any, position_ids: Tensor, like: Tensor) -> RelativePositions:
        """See :meth:`ModelFamily.relative_positions`."""
        return _Disentangled(backbone.encoder, backbone.config, position_ids.shape[1] - 1, position_ids.device)

    def relative_macs(self, config: Any, queries: Tensor | int, keys: Tensor, lengths: Tensor | None) -> Tensor | None:
        """See :meth:`ModelFamily.relative_macs`. Counted is a text alone; those of a batch share the projections."""
        if not config.relative_attention:
            return None
        kinds, width = _kinds(config.pos_att_type), config.hidden_size
        rows: Tensor | int = 2 * _span(config)
        if lengths is not None:
            reach = lengths.long() - 1
            rows = _rows(config, reach) - _rows(config, -reach) + 1
            rows = rows.view(-1, *(1,) * (keys.dim() - 1))
        # Where contents and distances share projections, the plain model makes both, needed or not.
        both = lengths is None and getattr(config, "share_att_key", False)
        projections = 2 if both else len(kinds)
        products = ("c2p" in kinds) * queries + ("p2c" in kinds) * keys
        macs: Tensor = (keys > 0) * rows * width * (projections * width + products)
        return macs

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        query: Tensor = layer.attention.self.query_proj(hidden)
        return query

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        attention = layer.attention.self
        return attention.key_proj(hidden), attention.value_proj(hidden)

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        # The pooler reads position 0 of a sequence axis.
        logits: Tensor = model.classifier(model.dropout(model.pooler(first[:, None])))
        return logits


class _Disentangled(RelativePositions):
    """DeBERTa's, for distances up to ``reach``; embeddings of farther ones are neither projected nor multiplied."""

    def __init__(self, encoder: Any, config: Any, reach: int, device: torch.device) -> None:
        self.encoder, self.reach = encoder, reach
        self.kinds = _kinds(config.pos_att_type)
        # Content against content is one term; each kind of the others is one more, and their sum is scaled as a mean.
        self.share = 1 / math.sqrt(1 + len(self.kinds))
        if config.relative_attention:
            rows = _rows(config, torch.arange(-reach, reach + 1, device=device))
            # A graph of fixed shape cannot ask which of them are needed.
            static = torch.compiler.is_exporting()
            self.first, self.end = (0, 2 * _span(config)) if static else (int(rows[0]), int(rows[-1]) + 1)
            self.row_of_distance = rows - self.first

    def place_queries(self, layer: nn.Module, queries: Tensor, positions: Tensor) -> Tensor:
        """See :meth:`RelativePositions.place_queries`. Attention itself scales by the width of a head alone."""
        return queries * self.share

    def score_bias(self, layer: Any) -> ScoreBias | None:
        """See :meth:`RelativePositions.score_bias`."""
        attention = layer.attention.self
        if not (attention.relative_attention and self.kinds):
            return None
        embeddings = self.encoder.rel_embeddings.weight[self.first : self.end]
        if "layer_norm" in self.encoder.norm_rel_ebd:
            embeddings = self.encoder.LayerNorm(embeddings)
        embeddings = attention.pos_dropout(embeddings)
        pos_key, pos_query = _projections(attention, self.kinds, embeddings)

        def bias(query: Tensor, key: Tensor, query_slots: Tensor, key_slots: Tensor) -> Tensor:
            distances = query_slots[..., :, None] - key_slots[..., None, :]
            rows = self.row_of_distance[distances + self.reach].unsqueeze(-3)
            scale = query.shape[-1] ** -0.5
            added: Tensor = query.new_zeros(())
            products: Tensor
            if pos_key is not None:
                products = torch.matmul(query * scale, pos_key.transpose(1, 2))
                added = added + products.gather(-1, rows.expand(*products.shape[:-1], -1))
            if pos_query is not None:
                products = torch.matmul(key * (scale * self.share), pos_query.transpose(1, 2))
                mirrored = rows.transpose(-1, -2).expand(*products.shape[:-1], -1)
                added = added + products.gather(-1, mirrored).transpose(-1, -2)
            return added

        return bias


def _kinds(types: list[str] | None) -> frozenset[str]:
    """Return which of the two terms for distances there are: content to position, position to content."""
    return frozenset({"c2p", "p2c"}.intersection(types or ()))


def _projections(attention: Any, kinds: frozenset[str], embeddings: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Return distances as keys and as queries, ``[heads, rows, head_dim]`` each, ``None`` where scores lack them."""
    shared = attention.share_att_key
    found = []
    for kind, own, content in (("c2p", "pos_key_proj", "key_proj"), ("p2c", "pos_query_proj", "query_proj")):
        projected = None
        if kind in kinds:
            flat = getattr(attention, content if shared else own)(embeddings)
            projected = flat.unflatten(-1, (attention.num_attention_heads, -1)).transpose(0, 1)
        found.append(projected)
    return found[0], found[1]


def _span(config: Any) -> int:
    """Return how many embeddings of distances there are to either side."""
    buckets = getattr(config, "position_buckets", -1)
    return int(buckets if buckets > 0 else _farthest(config))


def _farthest(config: Any) -> int:
    farthest = getattr(config, "max_relative_positions", -1)
    return int(farthest if farthest >= 1 else config.max_position_embeddings)


def _rows(config: Any, distances: Tensor) -> Tensor:
    """Return the rows of the embeddings of ``distances``, both int64 of any shape."""
    # Here, because it takes a while and most users have another architecture.
    from transformers.models.deberta_v2.modeling_deberta_v2 import make_log_bucket_position

    span, buckets = _span(config), getattr(config, "position_buckets", -1)
    if buckets > 0:
        distances = make_log_bucket_position(distances, buckets, _farthest(config)).long()
    rows: Tensor = (distances + span).clamp(0, 2 * span - 1)
    return rows
