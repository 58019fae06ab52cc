"""What a model returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ModelOutput

__all__ = [
    "ExitStates",
    "MagicPyramidModelOutput",
    "MagicPyramidQuestionAnsweringOutput",
    "MagicPyramidSequenceClassifierOutput",
    "MagicPyramidTokenClassifierOutput",
]


@dataclass
class MagicPyramidSequenceClassifierOutput(ModelOutput):
    """Output of :class:`~hf_integration.MagicPyramidForSequenceClassification`.

    Attributes:
        loss: scalar, if labels were given.
        logits: ``[batch, num_labels]``, of the classifier at which each sample left.
        exit_layer: int64 ``[batch]``, number of encoder layers run; 0 = left at the embeddings.
        tokens_kept: int64 ``[batch, layers]``, tokens that pruning left after each layer, 0 where the sample had left;
            with soft masks their float32 sums, with gradients.
        flops: float32 ``[batch]``, floating-point operations; see :mod:`hf_integration.flops`.
        hidden_states: only from a neutral model, as BERT's.
        attentions: only from a neutral model, as BERT's.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_layer: Tensor | None = None
    tokens_kept: Tensor | None = None
    flops: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MagicPyramidTokenClassifierOutput(ModelOutput):
    """Output of :class:`~hf_integration.MagicPyramidForTokenClassification`.

    Attributes:
        loss: scalar, if labels were given.
        logits: ``[batch, seq, num_labels]``, 0 at padding; those of a pruned token are read off its last state.
        tokens_kept: ``[batch, layers]``, as in :class:`MagicPyramidSequenceClassifierOutput`.
        flops: float32 ``[batch]``, floating-point operations.
        hidden_states: only from a neutral model, as the plain model's.
        attentions: only from a neutral model, as the plain model's.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    tokens_kept: Tensor | None = None
    flops: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MagicPyramidQuestionAnsweringOutput(ModelOutput):
    """Output of :class:`~hf_integration.MagicPyramidForQuestionAnswering`.

    Attributes:
        loss: scalar, if positions were given.
        start_logits: ``[batch, seq]``, the smallest number there is at padding, where no answer starts.
        end_logits: ``[batch, seq]``, likewise.
        tokens_kept: ``[batch, layers]``, as in :class:`MagicPyramidSequenceClassifierOutput`.
        flops: float32 ``[batch]``, floating-point operations.
        hidden_states: only from a neutral model, as the plain model's.
        attentions: only from a neutral model, as the plain model's.
    """

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    tokens_kept: Tensor | None = None
    flops: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MagicPyramidModelOutput(ModelOutput):
    """Output of :class:`~hf_integration.MagicPyramidModel`.

    Attributes:
        last_hidden_state: ``[batch, seq, hidden_size]``, 0 at padding; a pruned token keeps its last state.
        pooler_output: ``[batch, hidden_size]``, of families that have a pooler.
        tokens_kept: ``[batch, layers]``, as in :class:`MagicPyramidSequenceClassifierOutput`.
        flops: float32 ``[batch]``, floating-point operations.
        hidden_states: only from a neutral model, as the plain model's.
        attentions: only from a neutral model, as the plain model's.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    tokens_kept: Tensor | None = None
    flops: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass(frozen=True)
class ExitStates:
    """What the classifiers of a batch read and say when nobody leaves.

    Attributes:
        pooled: ``[batch, exits, features]``, input of the internal classifiers.
        logits: ``[batch, num_labels]`` of the last layer.
        attended: int64 ``[batch, layers]``, tokens that entered each layer.
        kept: ``[batch, layers]``, tokens that pruning left after each layer: int64, or float32 with gradients if soft.
    """

    pooled: Tensor
    logits: Tensor
    attended: Tensor
    kept: Tensor
