"""Architectures with absolute positions, which are all in the embeddings: BERT and those after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hf_integration.model_family import ModelFamily

__all__ = ["AlbertFamily", "BertFamily", "DistilBertFamily", "ElectraFamily", "RobertaFamily"]


class BertFamily(ModelFamily):
    """BERT and ERNIE: post-layer-norm encoder under ``encoder.layer``, absolute positions, pooler on [CLS]."""

    def embed(self, backbone: Any, **inputs: Tensor) -> Tensor:
        """See :meth:`ModelFamily.embed`."""
        embedded: Tensor = backbone.embeddings(**inputs)
        return embedded

    def layers(self, backbone: Any) -> Sequence[nn.Module]:
        """See :meth:`ModelFamily.layers`."""
        layers: nn.ModuleList = backbone.encoder.layer
        return list(layers)

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        query: Tensor = layer.attention.self.query(hidden)
        return query

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        attention = layer.attention.self
        return attention.key(hidden), attention.value(hidden)

    def attention_dropout(self, layer: Any) -> float:
        """See :meth:`ModelFamily.attention_dropout`."""
        dropout = layer.attention.self.dropout
        return float(dropout.p) if dropout.training else 0.0

    def attention_output(self, layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.attention_output`."""
        output: Tensor = layer.attention.output(context, hidden)
        return output

    def feed_forward(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.feed_forward`."""
        output: Tensor = layer.output(layer.intermediate(hidden), hidden)
        return output

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        logits: Tensor = model.classifier(model.dropout(self.pool(model.base_model, first)))
        return logits


class RobertaFamily(BertFamily):
    """RoBERTa, XLM-RoBERTa and CamemBERT: positions count from the padding id, the head reads [CLS] itself."""

    def padding_id(self, config: Any) -> int:
        """Return the id that tells padding; no position is below it."""
        return int(config.pad_token_id)

    def max_positions(self, config: Any) -> int:
        """See :meth:`ModelFamily.max_positions`."""
        return int(config.max_position_embeddings) - self.padding_id(config) - 1

    def position_ids(self, config: Any, tokens: Tensor) -> Tensor:
        """See :meth:`ModelFamily.position_ids`. Padding is told by its id, as fairseq does, not by the mask."""
        if tokens.dim() == 2:
            words = tokens.ne(self.padding_id(config)).long()
            return words.cumsum(1) * words + self.padding_id(config)
        return super().position_ids(config, tokens) + self.padding_id(config) + 1

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        # The head reads position 0 of a sequence axis.
        logits: Tensor = model.classifier(first[:, None])
        return logits


class ElectraFamily(BertFamily):
    """ELECTRA: BERT with embeddings that may be narrower than the layers, and a head that reads [CLS] itself."""

    def embed(self, backbone: Any, **inputs: Tensor) -> Tensor:
        """See :meth:`ModelFamily.embed`."""
        embedded: Tensor = backbone.embeddings(**inputs)
        if hasattr(backbone, "embeddings_project"):
            embedded = backbone.embeddings_project(embedded)
        return embedded

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        logits: Tensor = model.classifier(first[:, None])
        return logits


class DistilBertFamily(ModelFamily):
    """DistilBERT: BERT's layers under other names, without token types."""

    def embed(self, backbone: Any, **inputs: Tensor) -> Tensor:
        """See :meth:`ModelFamily.embed`."""
        # Its parts, because what the whole takes beside the ids differs between releases.
        embeddings = backbone.embeddings
        words = (
            inputs["inputs_embeds"] if "inputs_embeds" in inputs else embeddings.word_embeddings(inputs["input_ids"])
        )
        placed = words + embeddings.position_embeddings(inputs["position_ids"])
        embedded: Tensor = embeddings.dropout(embeddings.LayerNorm(placed))
        return embedded

    def layers(self, backbone: Any) -> Sequence[nn.Module]:
        """See :meth:`ModelFamily.layers`."""
        return list(backbone.transformer.layer)

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        query: Tensor = layer.attention.q_lin(hidden)
        return query

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        return layer.attention.k_lin(hidden), layer.attention.v_lin(hidden)

    def attention_dropout(self, layer: Any) -> float:
        """See :meth:`ModelFamily.attention_dropout`."""
        dropout = layer.attention.dropout
        return float(dropout.p) if dropout.training else 0.0

    def attention_output(self, layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.attention_output`."""
        output: Tensor = layer.sa_layer_norm(layer.attention.out_lin(context) + hidden)
        return output

    def feed_forward(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.feed_forward`."""
        # Not through its forward, which cuts chunks along an axis that packed states don't have.
        output: Tensor = layer.output_layer_norm(layer.ffn.ff_chunk(hidden) + hidden)
        return output

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        logits: Tensor = model.classifier(model.dropout(model.pre_classifier(first).relu()))
        return logits

    def score_spans(self, model: Any, states: Tensor) -> Tensor:
        """See :meth:`ModelFamily.score_spans`."""
        return super().score_spans(model, model.dropout(states))


class AlbertFamily(ModelFamily):
    """ALBERT: a few layers that run again and again. What a Magic Pyramid adds to a layer lies outside of it."""

    def embed(self, backbone: Any, **inputs: Tensor) -> Tensor:
        """See :meth:`ModelFamily.embed`."""
        embedded: Tensor = backbone.encoder.embedding_hidden_mapping_in(backbone.embeddings(**inputs))
        return embedded

    def layers(self, backbone: Any) -> Sequence[nn.Module]:
        """See :meth:`ModelFamily.layers`. The same module may stand at several depths."""
        depths, groups = backbone.config.num_hidden_layers, backbone.encoder.albert_layer_groups
        # In floating point, as ALBERT itself divides.
        return [groups[int(depth / (depths / len(groups)))].albert_layers[0] for depth in range(depths)]

    def query(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.query`."""
        query: Tensor = layer.attention.query(hidden)
        return query

    def key_value(self, layer: Any, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`ModelFamily.key_value`."""
        return layer.attention.key(hidden), layer.attention.value(hidden)

    def attention_dropout(self, layer: Any) -> float:
        """See :meth:`ModelFamily.attention_dropout`."""
        dropout = layer.attention.attention_dropout
        return float(dropout.p) if dropout.training else 0.0

    def attention_output(self, layer: Any, context: Tensor, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.attention_output`."""
        attention = layer.attention
        output: Tensor = attention.LayerNorm(hidden + attention.output_dropout(attention.dense(context)))
        return output

    def feed_forward(self, layer: Any, hidden: Tensor) -> Tensor:
        """See :meth:`ModelFamily.feed_forward`."""
        output: Tensor = layer.full_layer_layer_norm(layer.ff_chunk(hidden) + hidden)
        return output

    def pool(self, backbone: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.pool`."""
        pooled: Tensor = backbone.pooler_activation(backbone.pooler(first))
        return pooled

    def classify(self, model: Any, first: Tensor) -> Tensor:
        """See :meth:`ModelFamily.classify`."""
        logits: Tensor = model.classifier(model.dropout(self.pool(model.base_model, first)))
        return logits
