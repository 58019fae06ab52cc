"""Where each architecture keeps its leaves.

The encoder calls leaf modules only (projections, feed-forward, pooler): their names and signatures are the same in
every transformers release from 4.56 on, while the layers around them are not.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn

__all__ = [
    "FAMILIES",
    "AlbertFamily",
    "BertFamily",
    "DistilBertFamily",
    "ElectraFamily",
    "ModelFamily",
    "RobertaFamily",
]


@dataclass(frozen=True)
class ModelFamily(abc.ABC):
    """The leaves of one architecture. Instances are registered with ``mp_register_model_families``.

    Hidden states are ``[..., hidden_size]`` with any leading axes: packed ``[T, hidden_size]`` or padded
    ``[batch, seq, hidden_size]``. ``layer`` is one element of :meth:`layers`. Equal instances share the Magic Pyramid
    classes that are derived from them.

    Attributes:
        model_type: the architecture's name in transformers, under which it is registered.
        class_prefix: what the names of its classes in transformers start with.
        head_prefixes: how the names of the parameters start that a checkpoint without this task has not trained.
        token_inputs: inputs of :meth:`embed` beside tokens and positions, int64 ``[batch, seq]`` each.
    """

    model_type: str
    class_prefix: str
    head_prefixes: tuple[str, ...]
    token_inputs: tuple[str, ...] = ("token_type_ids",)

    def plain_class(self, kind: str) -> Any:
        """Return the architecture's own class of a kind such as ``"Config"`` or ``"ForSequenceClassification"``."""
        return getattr(transformers, self.class_prefix + kind)

    def max_positions(self, config: Any) -> int:
        """Return how many tokens a text may have."""
        return int(config.max_position_embeddings)

    def position_ids(self, config: Any, tokens: Tensor) -> Tensor:
        """Return the positions of a padded batch, int64 ``[batch, seq]``.

        Args:
            config: the model's configuration.
            tokens: ids int64 ``[batch, seq]``, or embeddings ``[batch, seq, width]``.
        """
        batch, seq = tokens.shape[:2]
        return torch.arange(seq, device=tokens.device).expand(batch, seq)

    @abc.abstractmethod
    def embed(self, backbone: nn.Module, **inputs: Tensor) -> Tensor:
        """Return ``[batch, seq, hidden_size]`` from padded or packed inputs.

        Args:
            backbone: the model without its head.
            **inputs: ``input_ids`` or ``inputs_embeds``, ``position_ids`` and :attr:`token_inputs`.
        """

    @abc.abstractmethod
    def layers(self, backbone: nn.Module) -> Sequence[nn.Module]:
        """Return the encoder layers, first to last."""

    @abc.abstractmethod
    def query(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return the queries, ``[..., heads * head_dim]``."""

    @abc.abstractmethod
    def key_value(self, layer: nn.Module, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, ``[..., heads * head_dim]`` each."""

    @abc.abstractmethod
    def attention_dropout(self, layer: nn.Module) -> float:
        """Return the dropout probability of the attention weights in the present mode (0 outside training)."""

    @abc.abstractmethod
    def attention_output(self, layer: nn.Module, context: Tensor, hidden: Tensor) -> Tensor:
        """Return the states after the attention block, from its context and its input."""

    @abc.abstractmethod
    def feed_forward(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return the output of the layer from the states after its attention block."""

    @abc.abstractmethod
    def classify(self, model: nn.Module, first: Tensor) -> Tensor:
        """Return the model's own logits ``[n, labels]`` from last-layer [CLS] states ``[n, hidden_size]``."""

    def pool(self, backbone: Any, first: Tensor) -> Tensor:
        """Return what the backbone's pooler makes of last-layer [CLS] states ``[n, hidden_size]``, in their shape."""
        # Poolers read position 0 of a sequence axis.
        pooled: Tensor = backbone.pooler(first[:, None])
        return pooled

    def classify_tokens(self, model: Any, states: Tensor) -> Tensor:
        """Return the logits ``[n, labels]`` of a token classifier from the last states ``[n, hidden_size]``."""
        logits: Tensor = model.classifier(model.dropout(states))
        return logits

    def score_spans(self, model: Any, states: Tensor) -> Tensor:
        """Return how likely an answer starts and ends at each token, ``[n, 2]``, from last states."""
        scores: Tensor = model.qa_outputs(states)
        return scores


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

    def max_positions(self, config: Any) -> int:
        """See :meth:`ModelFamily.max_positions`."""
        return int(config.max_position_embeddings - config.pad_token_id - 1)

    def position_ids(self, config: Any, tokens: Tensor) -> Tensor:
        """See :meth:`ModelFamily.position_ids`. Padding is told by its id, as fairseq does, not by the mask."""
        if tokens.dim() == 2:
            words = tokens.ne(config.pad_token_id).long()
            return words.cumsum(1) * words + int(config.pad_token_id)
        return super().position_ids(config, tokens) + int(config.pad_token_id) + 1

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
        # It takes no embeddings without an argument for the ids.
        embedded: Tensor = backbone.embeddings(**{"input_ids": None, **inputs})
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


FAMILIES: tuple[ModelFamily, ...] = (
    BertFamily("bert", "Bert", ("bert.pooler.", "classifier.")),
    BertFamily("ernie", "Ernie", ("ernie.pooler.", "classifier."), ("token_type_ids", "task_type_ids")),
    RobertaFamily("roberta", "Roberta", ("classifier.",)),
    RobertaFamily("xlm-roberta", "XLMRoberta", ("classifier.",)),
    RobertaFamily("camembert", "Camembert", ("classifier.",)),
    ElectraFamily("electra", "Electra", ("classifier.",)),
    AlbertFamily("albert", "Albert", ("albert.pooler.", "classifier.")),
    DistilBertFamily("distilbert", "DistilBert", ("pre_classifier.", "classifier."), ()),
)
