"""Where each architecture keeps its leaves.

The encoder calls leaf modules only (projections, feed-forward, pooler): their names and signatures are the same in
every transformers release from 4.56 on, while the layers around them are not.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["BertFamily", "ModelFamily"]


class ModelFamily(abc.ABC):
    """The leaves of one architecture. Instances are registered with ``mp_register_model_families``.

    Hidden states are ``[..., hidden_size]`` with any leading axes: packed ``[T, hidden_size]`` or padded
    ``[batch, seq, hidden_size]``. ``layer`` is one element of :meth:`layers`.

    Attributes:
        head_prefixes: how the names of the parameters start that a checkpoint without this task has not trained.
    """

    head_prefixes: tuple[str, ...]

    @abc.abstractmethod
    def embed(self, backbone: nn.Module, **inputs: Tensor | None) -> Tensor:
        """Return ``[batch, seq, hidden_size]`` from ids, token types, positions or embeddings ``[batch, seq, ...]``."""

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


class BertFamily(ModelFamily):
    """BERT: post-layer-norm encoder under ``encoder.layer``, absolute positions, pooler on [CLS]."""

    head_prefixes = ("bert.pooler.", "classifier.")

    def embed(self, backbone: Any, **inputs: Tensor | None) -> Tensor:
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
        # The pooler reads position 0 of a sequence axis.
        logits: Tensor = model.classifier(model.dropout(model.bert.pooler(first[:, None])))
        return logits
