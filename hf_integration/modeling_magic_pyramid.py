"""The Magic Pyramid for sequence classification: token pruning and early exit over the backbone of any family."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from hf_integration.base_model import PyramidModel, keep_changes
from hf_integration.configuration_magic_pyramid import speed_settings
from hf_integration.early_exit import ExitCriterion, InternalClassifiers
from hf_integration.encoder import PyramidEncoder, RunOptions
from hf_integration.flops import pyramid_flops
from hf_integration.inputs import BatchInputs
from hf_integration.ledger import EncoderResult
from hf_integration.lexical import LexicalClassifier
from hf_integration.losses import classification_loss
from hf_integration.outputs import ExitStates, MagicPyramidSequenceClassifierOutput
from hf_integration.static_encoder import StaticPyramidEncoder
from hf_integration.transfers import to_device
from mp_plugins import argument_error, load_registry

__all__ = ["MagicPyramidForSequenceClassification"]


class MagicPyramidForSequenceClassification(PyramidModel):
    """A classifier of texts that computes each one only as wide and as deep as it needs.

    A fresh model, or one loaded from a plain checkpoint, gives the plain model's logits. Samples leave in evaluation
    mode only; tokens are pruned in both modes.

    [CLS] is the first token that the attention mask leaves; with padding on the left that differs from the plain
    models, which read position 0 there.

    Args:
        config: a plain model's configuration is taken with default settings.

    Raises:
        mp_plugins.PluginError: no plug-in has registered the criterion or the pruner that the configuration names.

    Example:
        >>> model = MagicPyramidForSequenceClassification(MagicPyramidConfig(num_hidden_layers=2))
        >>> model.set_speed(exit_threshold=0.1)
    """

    kind = "ForSequenceClassification"

    def own_modules(self) -> list[nn.Module]:
        """See :meth:`PyramidModel.own_modules`."""
        lexical = [] if self.lexical_classifier is None else [self.lexical_classifier]
        return [*super().own_modules(), self.internal_classifiers, self.exit_criterion, *lexical]

    def set_speed(
        self,
        speed: float | None = None,
        *,
        exit_threshold: float | None = None,
        keep_threshold: float | list[float] | Literal["learned"] | None = None,
        keep_rate: float | list[float] | None = None,
        max_layers: int | None = None,
    ) -> None:
        """Choose how fast the model is. What is not given stays as it is; what is chosen is saved with the model.

        Args:
            speed: 0.0 = the plain model, 1.0 = fastest; sets the exit threshold and the strength of pruning.
            exit_threshold: samples leave where the uncertainty is below it; 0 = never.
            keep_threshold: cut on the importance, one number or one per pruning layer; ``"learned"`` returns to the
                learned cuts.
            keep_rate: of the pruner ``"top-k"``, see :class:`MagicPyramidConfig`.
            max_layers: run at most this many layers; ``num_hidden_layers`` lifts the limit.

        Raises:
            mp_plugins.ArgumentError: a value is out of range. The model is left as it was.
        """
        changes: dict[str, Any] = {} if speed is None else self._knob_changes("speed", speed)
        if exit_threshold is not None:
            changes["exit_threshold"] = exit_threshold
        changes.update(keep_changes(keep_threshold, keep_rate))
        if max_layers is not None:
            changes["max_layers"] = max_layers
        explicit = any(given is not None for given in (exit_threshold, keep_threshold, keep_rate, max_layers))
        changes["speed"] = None if explicit else speed
        self.config.updated(changes)
        if max_layers is not None and max_layers < self.config.num_hidden_layers:
            self._require_trained(max_layers)
        self._change(changes)

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
        """Classify a batch.

        Args:
            input_ids: int64 ``[batch, seq]``.
            attention_mask: ``[batch, seq]``, 1 = live; all live by default.
            token_type_ids: int64 ``[batch, seq]``.
            position_ids: int64 ``[batch or 1, seq]``.
            inputs_embeds: ``[batch, seq, hidden_size]`` in place of ``input_ids``.
            labels: int64 ``[batch]``, or float ``[batch, num_labels]`` for multi-label and regression heads.
            output_attentions: only for a neutral model.
            output_hidden_states: only for a neutral model.
            return_dict: ``False`` gives a tuple without the empty fields.
            soft_temperature: prune with sigmoid masks of this temperature (training).
            task_type_ids: int64 ``[batch, seq]``, of ERNIE alone.

        Returns:
            :class:`MagicPyramidSequenceClassifierOutput`, or a tuple of its fields that are not empty.

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
        options = self._options(soft_temperature=soft_temperature)
        result = self._run(inputs, options)
        output = MagicPyramidSequenceClassifierOutput(
            loss=None if labels is None else classification_loss(result.logits, labels, self.config),
            logits=result.logits,
            exit_layer=to_device(result.exit_layer, result.logits.device),
            tokens_kept=to_device(result.kept, result.logits.device),
            flops=to_device(self._flops(inputs, result), result.logits.device),
        )
        self._add_states(
            output, given, {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        )
        return self._returned(output, return_dict)

    def exit_states(self, *, soft_temperature: float | None = None, **batch: Tensor) -> ExitStates:
        """Run all layers without exits, and return what each internal classifier would read.

        Args:
            soft_temperature: as for :meth:`forward`.
            **batch: ``input_ids``, ``attention_mask``, ... as for :meth:`forward`, without labels.
        """
        options = RunOptions(soft_temperature=soft_temperature, record_pooled=True)
        result = self._run(self._checked(**batch), options)
        if result.pooled is None:
            raise argument_error("exit_layers", "must name at least one depth", [], "set it in the configuration")
        counts = (to_device(count, result.logits.device) for count in (result.attended, result.kept))
        return ExitStates(result.pooled, result.logits, *counts)

    def _knob_changes(self, knob: str, level: float) -> dict[str, Any]:
        if knob == "speed":
            return {**speed_settings(level), "max_layers": None, "speed": level}
        if knob not in ("exit_threshold", "keep_scale"):
            raise argument_error(
                "knob", "must be 'speed', 'exit_threshold' or 'keep_scale'", repr(knob), "leave it out"
            )
        return {knob: level, "speed": None}

    def _add_modules(self, plugins: Any) -> None:
        self.exit_criterion: ExitCriterion = load_registry("exit_criteria", plugins)[self.config.exit_criterion](
            self.config
        )
        self.internal_classifiers = InternalClassifiers(self.config, self.config.num_labels, lexical=True)
        self.lexical_classifier: LexicalClassifier | None = None
        if self.config.lexical_exits and self.config.exit_depths:
            self.lexical_classifier = LexicalClassifier(self.config.vocab_size, self.config.num_labels)

    def _options(self, soft_temperature: float | None) -> RunOptions:
        config = self.config
        if self.training:
            return RunOptions(soft_temperature=soft_temperature)
        if config.max_layers is not None and config.max_layers < config.num_hidden_layers:
            self._require_trained(config.max_layers)
        return RunOptions(
            exit_threshold=config.exit_threshold,
            max_layers=config.max_layers,
            soft_temperature=soft_temperature,
        )

    def _run(self, inputs: BatchInputs, options: RunOptions) -> EncoderResult:
        layout = self._lay_out(inputs, soft=options.soft_temperature is not None)
        kind = StaticPyramidEncoder if inputs.static else PyramidEncoder
        encoder = kind(
            layers=self.family.layers(self.base_model),
            pruning_depths=self.config.pruning_depths,
            pruner=self.token_pruner,
            classifiers=self.internal_classifiers,
            criterion=self.exit_criterion,
            classify=lambda first: self.family.classify(self, first),
            pooling=self.family.pooling(self.config),
        )
        asks = options.exit_threshold > 0 or options.max_layers is not None or options.record_pooled
        return encoder.run(layout, options, self._lexical_logits(inputs) if asks else None)

    def _flops(self, inputs: BatchInputs, result: EncoderResult) -> Tensor:
        """Return the operations of each sample, float32 ``[batch]`` on the host."""
        return pyramid_flops(
            result.attended[:, : result.layers_run],
            result.kept.detach()[:, : result.layers_run].to(result.attended.device),
            inputs.lengths,
            result.exits_asked,
            self.shape,
            exit_outputs=self.shape.labels + self.exit_criterion.outputs,
            pruning_macs=self.pruning_macs(pruned=result.pruned),
        )

    def _lexical_logits(self, inputs: BatchInputs) -> Tensor | None:
        """Return ``[batch, num_labels]``, or ``None`` for a model without lexical exits."""
        if self.lexical_classifier is None:
            return None
        ids = inputs.fields.get("input_ids")
        if ids is not None and inputs.static:
            return self.lexical_classifier.of_padded(ids, inputs.live)
        if ids is not None:
            logits: Tensor = self.lexical_classifier(inputs.packed(ids), inputs.packing)
            return logits
        if self.lexical_classifier.is_trained():
            raise argument_error(
                "inputs_embeds",
                "must not be given to a model whose exits read the tokens themselves",
                "embeddings",
                "pass `input_ids`, or call set_speed(0.0)",
            )
        return self.lexical_classifier.bias.expand(len(inputs.packing.lengths), -1)

    def _is_neutral(self) -> bool:
        exits = not self.training and (self.config.exit_threshold > 0 or self.config.max_layers is not None)
        return super()._is_neutral() and not exits

    def _require_trained(self, depth: int) -> None:
        # A graph cannot ask; set_speed has.
        if not torch.compiler.is_exporting() and not self.internal_classifiers.is_trained(depth):
            raise argument_error(
                "max_layers",
                "must be a depth whose internal classifier is trained",
                depth,
                "run the `exits` stage first",
            )
