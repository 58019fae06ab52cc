"""Magic Pyramid models for transformers: token pruning and early exit over a BERT backbone."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import BertConfig, BertForSequenceClassification

from hf_integration.configuration_magic_pyramid import MagicPyramidConfig, is_regression, speed_settings
from hf_integration.early_exit import InternalClassifier, InternalClassifiers
from hf_integration.encoder import EncoderResult, PyramidEncoder, RunOptions
from hf_integration.families import ModelFamily
from hf_integration.flops import pyramid_flops
from hf_integration.inputs import BatchInputs
from hf_integration.outputs import ExitStates, MagicPyramidSequenceClassifierOutput
from hf_integration.token_pruning import TokenPruner
from mp_plugins import UnsupportedError, argument_error, create_plugin_manager, load_registry

__all__ = ["MagicPyramidForSequenceClassification"]


class MagicPyramidForSequenceClassification(BertForSequenceClassification):
    """BERT for sequence classification that computes each text only as wide and as deep as it needs.

    A fresh model, or one loaded from a plain BERT checkpoint, gives BERT's logits. Samples leave in evaluation mode
    only; tokens are pruned in both modes.

    [CLS] is the first token that the attention mask leaves; with padding on the left that differs from BERT, which
    reads position 0 there.

    Args:
        config: a plain :class:`transformers.BertConfig` is taken with default settings.

    Raises:
        mp_plugins.PluginError: no plug-in has registered the criterion or the pruner that the configuration names.

    Example:
        >>> model = MagicPyramidForSequenceClassification(MagicPyramidConfig(num_hidden_layers=2))
        >>> model.set_speed(exit_threshold=0.1)
    """

    config_class = MagicPyramidConfig
    # The layers are not called as modules, so their checkpointing wrapper would not run.
    supports_gradient_checkpointing = False
    # Absent from every plain BERT checkpoint, and neutral until they are trained: not worth a warning.
    _keys_to_ignore_on_load_missing = (r"^internal_classifiers\.", r"^token_pruner\.")
    # The loss is the mean over the batch; without this, Trainer would take the ** of BERT's forward for more.
    accepts_loss_kwargs = False

    def __init__(self, config: BertConfig) -> None:
        if not isinstance(config, MagicPyramidConfig):
            config = MagicPyramidConfig.from_bert(config)
        super().__init__(config)
        # One manager for the three look-ups: finding the entry points is most of their cost.
        plugins = create_plugin_manager()
        self.family: ModelFamily = load_registry("model_families", plugins)["bert"]
        self.exit_criterion = load_registry("exit_criteria", plugins)[config.exit_criterion]()
        self.internal_classifiers = InternalClassifiers(config)
        self.token_pruner: TokenPruner | None = None
        if config.token_pruner is not None:
            self.token_pruner = load_registry("token_pruners", plugins)[config.token_pruner](config)
        # A second time, for the modules above; those that are initialised already are left alone.
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (InternalClassifier, TokenPruner)):
            module.reset_parameters()

    def set_speed(
        self,
        speed: float | None = None,
        *,
        exit_threshold: float | None = None,
        keep_threshold: float | list[float] | Literal["learned"] | None = None,
        max_layers: int | None = None,
    ) -> None:
        """Choose how fast the model is. What is not given stays as it is; what is chosen is saved with the model.

        Args:
            speed: 0.0 = the plain model, 1.0 = fastest; sets the exit threshold and the strength of pruning.
            exit_threshold: samples leave where the uncertainty is below it; 0 = never.
            keep_threshold: cut on the importance, one number or one per pruning layer; ``"learned"`` returns to the
                learned cuts.
            max_layers: run at most this many layers; ``num_hidden_layers`` lifts the limit.

        Raises:
            mp_plugins.ArgumentError: a value is out of range. The model is left as it was.
        """
        changes: dict[str, Any] = {}
        if speed is not None:
            changes.update(speed_settings(speed), max_layers=None)
        if exit_threshold is not None:
            changes["exit_threshold"] = exit_threshold
        if keep_threshold is not None:
            changes.update(keep_threshold=None if keep_threshold == "learned" else keep_threshold, keep_scale=1.0)
        if max_layers is not None:
            changes["max_layers"] = max_layers
        explicit = exit_threshold is not None or keep_threshold is not None or max_layers is not None
        changes["speed"] = None if explicit else speed
        self.config.updated(changes)
        if max_layers is not None and max_layers < self.config.num_hidden_layers:
            self._require_trained(max_layers)
        for name, value in changes.items():
            setattr(self.config, name, value)

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
    ) -> MagicPyramidSequenceClassifierOutput | tuple[Any, ...]:
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

        Returns:
            :class:`MagicPyramidSequenceClassifierOutput`.

        Raises:
            mp_plugins.ArgumentError: an input has a wrong shape, or a sample has no live token.
            mp_plugins.UnsupportedError: hidden states or attentions of a model that is not neutral.
        """
        inputs = self._checked(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        options = self._options(soft_temperature=soft_temperature)
        result = self._run(inputs, options)
        lengths = (inputs.attention_mask != 0).sum(1)
        output = MagicPyramidSequenceClassifierOutput(
            loss=None if labels is None else self._loss(result.logits, labels),
            logits=result.logits,
            exit_layer=result.exit_layer,
            tokens_kept=result.kept,
            flops=pyramid_flops(result.attended, result.kept.detach(), lengths, result.exits_asked, self.config),
        )
        wanted = {
            "output_attentions": self.config.output_attentions if output_attentions is None else output_attentions,
            "output_hidden_states": (
                self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
            ),
        }
        if any(wanted.values()):
            self._require_neutral(options)
            # Nothing is pruned, so these are BERT's own states, from BERT's own code.
            states = super().forward(
                input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, return_dict=True, **wanted
            )
            output.hidden_states, output.attentions = states.hidden_states, states.attentions
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else tuple(output.to_tuple())

    def exit_states(self, **batch: Tensor) -> ExitStates:
        """Run all layers without exits, and return what each internal classifier would read.

        Args:
            **batch: ``input_ids``, ``attention_mask``, ... as for :meth:`forward`, without labels.
        """
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds")
        inputs = self._checked(*(batch.get(name) for name in names))
        result = self._run(inputs, RunOptions(record_pooled=True))
        if result.pooled is None:
            raise argument_error("exit_layers", "must name at least one depth", [], "set it in the configuration")
        return ExitStates(result.pooled, result.logits, result.attended, result.kept)

    def _checked(self, *inputs: Tensor | None) -> BatchInputs:
        return BatchInputs.checked(*inputs, max_positions=self.config.max_position_embeddings)

    def _options(self, soft_temperature: float | None) -> RunOptions:
        config = self.config
        if self.training:
            return RunOptions(soft_temperature=soft_temperature)
        if config.max_layers is not None and config.max_layers < config.num_hidden_layers:
            self._require_trained(config.max_layers)
        return RunOptions(
            exit_threshold=config.exit_threshold,
            multi_label=config.problem_type == "multi_label_classification",
            max_layers=config.max_layers,
            soft_temperature=soft_temperature,
        )

    def _run(self, inputs: BatchInputs, options: RunOptions) -> EncoderResult:
        soft = options.soft_temperature is not None
        compact = self.config.execution == "compact" and not soft
        layout = inputs.lay_out(self.family, self.bert, self.config.num_attention_heads, compact=compact, soft=soft)
        encoder = PyramidEncoder(
            layers=self.family.layers(self.bert),
            pruning_depths=self.config.pruning_depths,
            pruner=self.token_pruner,
            classifiers=self.internal_classifiers,
            criterion=self.exit_criterion,
            classify=lambda first: self.family.classify(self, first),
        )
        return encoder.run(layout, options)

    def _require_neutral(self, options: RunOptions) -> None:
        pruning = self.token_pruner is not None and self.token_pruner.is_active()
        if pruning or options.exit_threshold > 0 or options.max_layers is not None:
            raise UnsupportedError(
                "hidden states and attentions exist only where every token passes every layer: "
                "call set_speed(0.0) first, or leave out output_hidden_states and output_attentions"
            )

    def _require_trained(self, depth: int) -> None:
        if not self.internal_classifiers.is_trained(depth):
            raise argument_error(
                "max_layers",
                "must be a depth whose internal classifier is trained",
                depth,
                "run the `exits` stage first",
            )

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        config = self.config
        if config.problem_type is None:
            # As BERT does: the first labels tell, and the configuration remembers.
            whole = not labels.is_floating_point()
            kinds = "single_label_classification" if whole else "multi_label_classification"
            config.problem_type = "regression" if is_regression(config) else kinds
        if config.problem_type == "regression":
            return functional.mse_loss(logits.reshape(labels.shape).float(), labels.float())
        if config.problem_type == "multi_label_classification":
            return functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return functional.cross_entropy(logits.reshape(-1, config.num_labels), labels.reshape(-1))
