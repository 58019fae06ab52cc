"""Magic Pyramids for heads that read every token: pruning only, and a pruned token keeps its last state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from hf_integration.base_model import PyramidModel
from hf_integration.encoder import TokenEncoder, TokenResult
from hf_integration.flops import token_level_flops
from hf_integration.inputs import BatchInputs
from hf_integration.losses import class_loss, span_loss
from hf_integration.outputs import (
    MagicPyramidModelOutput,
    MagicPyramidQuestionAnsweringOutput,
    MagicPyramidTokenClassifierOutput,
)
from hf_integration.static_encoder import StaticTokenEncoder
from hf_integration.transfers import to_device
from mp_plugins import argument_error

__all__ = ["MagicPyramidForQuestionAnswering", "MagicPyramidForTokenClassification", "MagicPyramidModel"]


class _TokenLevelModel(PyramidModel):
    """What these heads share. Early exit is refused: an answer for every token needs every layer."""

    def _add_modules(self, plugins: Any) -> None:
        remedy = "pass exit_threshold=0.0 and max_layers=None, and make it faster with keep_threshold or set_speed"
        if self.config.exit_threshold > 0:
            rule = "must be 0 for a head that reads every token, which has no early exit"
            raise argument_error("exit_threshold", rule, self.config.exit_threshold, remedy)
        if self.config.max_layers not in (None, self.config.num_hidden_layers):
            rule = "must be None for a head that reads every token, which has no early exit"
            raise argument_error("max_layers", rule, self.config.max_layers, remedy)

    def _run(self, inputs: BatchInputs, soft_temperature: float | None) -> TokenResult:
        layout = self._lay_out(inputs, soft=soft_temperature is not None, retain=True)
        kind = StaticTokenEncoder if inputs.static else TokenEncoder
        encoder = kind(self.family.layers(self.base_model), self.config.pruning_depths, self.token_pruner)
        return encoder.run_all(layout, soft_temperature)

    def _counts(self, inputs: BatchInputs, result: TokenResult, outputs: int) -> dict[str, Any]:
        device = inputs.live.device
        flops = token_level_flops(
            result.attended,
            result.kept.detach().to(result.attended.device),
            inputs.lengths,
            outputs,
            self.shape,
            pruning_macs=self.pruning_macs(pruned=result.pruned),
        )
        return {name: to_device(count, device) for name, count in (("tokens_kept", result.kept), ("flops", flops))}

    def _finished(self, output: Any, given: Mapping[str, Tensor | None], **asked: bool | None) -> Any:
        return_dict = asked.pop("return_dict")
        self._add_states(output, given, asked)
        return self._returned(output, return_dict)


class MagicPyramidForTokenClassification(_TokenLevelModel):
    """A classifier of tokens that prunes. A fresh model gives the plain model's logits at every live token.

    Args:
        config: a plain model's configuration is taken with default settings.

    Raises:
        mp_plugins.ArgumentError: the configuration asks for early exits.
    """

    kind = "ForTokenClassification"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        soft_temperature: float | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Any:
        """Classify the tokens of a batch.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: ``[batch, seq]``, 1 = live; all live by default.
            token_type_ids: int64 ``[batch, seq]``.
            position_ids: int64 ``[batch or 1, seq]``.
            inputs_embeds: ``[batch, seq, hidden_size]`` in place of ``input_ids``.
            labels: int64 ``[batch, seq]``, -100 where there is none.
            output_attentions: only for a neutral model.
            output_hidden_states: only for a neutral model.
            return_dict: ``False`` gives a tuple without the empty fields.
            soft_temperature: prune with sigmoid masks of this temperature (training).
            task_type_ids: int64 ``[batch, seq]``, of ERNIE alone.

        Returns:
            :class:`MagicPyramidTokenClassifierOutput`, or a tuple of its fields that are not empty.

        Raises:
            mp_plugins.ArgumentError: an input has a wrong shape, a sample has no live token, a label is out of range.
            mp_plugins.UnsupportedError: hidden states or attentions of a model that is not neutral.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "task_type_ids": task_type_ids,
        }
        inputs = self._checked(**given)
        result = self._run(inputs, soft_temperature)
        logits = inputs.padded(self.family.classify_tokens(self, result.states))
        output = MagicPyramidTokenClassifierOutput(
            loss=None if labels is None else class_loss(logits, labels),
            logits=logits,
            **self._counts(inputs, result, self.config.num_labels),
        )
        return self._finished(
            output,
            given,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )


class MagicPyramidForQuestionAnswering(_TokenLevelModel):
    """An extractor of answers that prunes. A fresh model gives the plain model's logits at every live token.

    Args:
        config: a plain model's configuration is taken with default settings.

    Raises:
        mp_plugins.ArgumentError: the configuration asks for early exits.
    """

    kind = "ForQuestionAnswering"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        soft_temperature: float | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Any:
        """Find where answers start and end in a batch.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: ``[batch, seq]``, 1 = live; all live by default.
            token_type_ids: int64 ``[batch, seq]``.
            position_ids: int64 ``[batch or 1, seq]``.
            inputs_embeds: ``[batch, seq, hidden_size]`` in place of ``input_ids``.
            start_positions: int64 ``[batch]``; an answer outside the text is left out of the loss.
            end_positions: int64 ``[batch]``, likewise.
            output_attentions: only for a neutral model.
            output_hidden_states: only for a neutral model.
            return_dict: ``False`` gives a tuple without the empty fields.
            soft_temperature: prune with sigmoid masks of this temperature (training).
            task_type_ids: int64 ``[batch, seq]``, of ERNIE alone.

        Returns:
            :class:`MagicPyramidQuestionAnsweringOutput`, or a tuple of its fields that are not empty.

        Raises:
            mp_plugins.ArgumentError: an input has a wrong shape, or a sample has no live token.
            mp_plugins.UnsupportedError: hidden states or attentions of a model that is not neutral.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "task_type_ids": task_type_ids,
        }
        inputs = self._checked(**given)
        result = self._run(inputs, soft_temperature)
        scores = inputs.padded(self.family.score_spans(self, result.states))
        scores = scores.masked_fill(~inputs.live[..., None], torch.finfo(scores.dtype).min)
        starts, ends = scores.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(starts, ends, start_positions, end_positions, inputs.live)
        counts = self._counts(inputs, result, self.config.num_labels)
        return self._finished(
            MagicPyramidQuestionAnsweringOutput(loss=loss, start_logits=starts, end_logits=ends, **counts),
            given,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )


class MagicPyramidModel(_TokenLevelModel):
    """A backbone that prunes, for embeddings. A fresh model gives the plain model's states of every live token.

    Args:
        config: a plain model's configuration is taken with default settings.

    Raises:
        mp_plugins.ArgumentError: the configuration asks for early exits.
    """

    kind = "Model"

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        soft_temperature: float | None = None,
        task_type_ids: Tensor | None = None,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: ``[batch, seq]``, 1 = live; all live by default.
            token_type_ids: int64 ``[batch, seq]``.
            position_ids: int64 ``[batch or 1, seq]``.
            inputs_embeds: ``[batch, seq, hidden_size]`` in place of ``input_ids``.
            output_attentions: only for a neutral model.
            output_hidden_states: only for a neutral model.
            return_dict: ``False`` gives a tuple without the empty fields.
            soft_temperature: prune with sigmoid masks of this temperature (training).
            task_type_ids: int64 ``[batch, seq]``, of ERNIE alone.

        Returns:
            :class:`MagicPyramidModelOutput`, or a tuple of its fields that are not empty.

        Raises:
            mp_plugins.ArgumentError: an input has a wrong shape, or a sample has no live token.
            mp_plugins.UnsupportedError: hidden states or attentions of a model that is not neutral.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "inputs_embeds": inputs_embeds,
            "task_type_ids": task_type_ids,
        }
        inputs = self._checked(**given)
        result = self._run(inputs, soft_temperature)
        states = inputs.padded(result.states)
        counts = self._counts(inputs, result, 0)
        pooled = None
        if getattr(self, "pooler", None) is not None:
            first = inputs.live.long().argmax(1)
            pooled = self.family.pool(self, states[torch.arange(first.shape[0], device=first.device), first])
            counts["flops"] = counts["flops"] + 2 * self.config.hidden_size**2
        return self._finished(
            MagicPyramidModelOutput(last_hidden_state=states, pooler_output=pooled, **counts),
            given,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=return_dict,
        )
