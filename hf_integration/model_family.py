"""The door by which an architecture comes in: where it keeps its leaves, and what it does otherwise than BERT.

The encoder calls leaf modules only (projections, feed-forward, pooler): their names and signatures are the same in
every transformers release from 4.56 on, while the layers around them are not.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import transformers
from torch import Tensor, nn

from hf_integration.attention import ScoreBias

__all__ = ["ModelFamily", "Pooling", "RelativePositions"]

Pooling = Literal["first", "mean"]
"""What a classifier of texts reads of the last states: that of [CLS], or the mean over the tokens that are left."""


class RelativePositions:
    """What distances between tokens do to attention in one pass: all methods do nothing by default.

    A token is known by its slot, the column in which it stood in the padded batch, and by its position id. Both stay
    what they were when tokens around it are pruned.
    """

    def place_queries(self, layer: nn.Module, queries: Tensor, positions: Tensor) -> Tensor:
        """Return ``queries``, ``[..., n, heads * head_dim]``, with their position ids, ``[..., n]``, worked in."""
        return queries

    def place_keys(self, layer: nn.Module, keys: Tensor, positions: Tensor) -> Tensor:
        """Return ``keys`` with their position ids worked in, shapes as for :meth:`place_queries`."""
        return keys

    def score_bias(self, layer: nn.Module) -> ScoreBias | None:
        """Return what is added to the scores of ``layer``; ``None`` = nothing."""
        return None


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
        feed_forward_matrices: of ``hidden_size`` by the inner size in each layer.
        fused_projections: queries come out of one matrix with keys and values, so that all tokens' are computed.
        dense_token_heads: heads that read every token have a dense layer before their last one.
    """

    feed_forward_matrices: ClassVar[int] = 2
    fused_projections: ClassVar[bool] = False
    dense_token_heads: ClassVar[bool] = False

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

    def check(self, config: Any) -> None:
        """Raise :class:`mp_plugins.UnsupportedError` for a variant that is not computed exactly.

        Args:
            config: a Magic Pyramid's configuration of this family.
        """
        return

    def pooling(self, config: Any) -> Pooling:
        """Return what the architecture's own classifier of texts reads."""
        return "first"

    def relative_positions(self, backbone: nn.Module, position_ids: Tensor, like: Tensor) -> RelativePositions | None:
        """Return what distances do in one pass; ``None`` for absolute positions, which are all in the embeddings.

        Args:
            backbone: the model without its head.
            position_ids: of the padded batch, int64 ``[batch, seq]``.
            like: a tensor of the states' device and dtype.
        """
        return None

    def relative_macs(self, config: Any, queries: Tensor | int, keys: Tensor, lengths: Tensor | None) -> Tensor | None:
        """Return the multiply-accumulates that distances cost in a layer, in the shape of ``keys``; ``None`` = none.

        Args:
            config: shapes of the model.
            queries: tokens that ask, float64 like ``keys``, or one number.
            keys: tokens that are asked, float64 ``[batch]`` or ``[batch, layers]``.
            lengths: tokens of each text before any was pruned, ``[batch]``; ``None`` = what the plain model does.
        """
        return None

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

    def query_key_value(
        self, layer: nn.Module, hidden: Tensor, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, ``[..., heads * head_dim]`` each.

        Args:
            layer: encoder layer.
            hidden: states.
            rows: of packed states that ask, int64; ``None`` = all.
        """
        asking = hidden if rows is None else hidden.index_select(0, rows)
        return self.query(layer, asking), *self.key_value(layer, hidden)

    @abc.abstractmethod
    def attention_dropout(self, layer: nn.Module) -> float:
        """Return the dropout probability of the attention weights in the present mode (0 outside training)."""

    @abc.abstractmethod
    def attention_output(self, layer: nn.Module, context: Tensor, hidden: Tensor) -> Tensor:
        """Return the states after the attention block, from its context and its input."""

    @abc.abstractmethod
    def feed_forward(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """Return the output of the layer from the states after its attention block."""

    def final_norm(self, backbone: nn.Module, states: Tensor) -> Tensor:
        """Return ``states`` as heads read them: where layers norm their input, a last norm stands behind them."""
        return states

    @abc.abstractmethod
    def classify(self, model: nn.Module, first: Tensor) -> Tensor:
        """Return the model's own logits ``[n, labels]`` from last-layer states ``[n, hidden_size]``, pooled."""

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
