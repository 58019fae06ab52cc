"""What the Magic Pyramid models of all families and heads have in common."""

from __future__ import annotations

import copy
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from hf_integration import compatibility
from hf_integration.compatibility import PreTrainedConfig
from hf_integration.configuration_magic_pyramid import MagicPyramidConfig, config_class, family_of, speed_settings
from hf_integration.early_exit import ExitCriterion, InternalClassifier, InternalClassifiers
from hf_integration.flops import ModelShape
from hf_integration.inputs import BatchInputs
from hf_integration.layouts import Layout
from hf_integration.lexical import LexicalClassifier
from hf_integration.model_family import ModelFamily
from hf_integration.speed_budget import LEVELS, OperatingPoint, SpeedTable, measure_speed, one_budget
from hf_integration.token_pruning import TokenPruner
from mp_plugins import UnsupportedError, argument_error, create_plugin_manager, load_registry

__all__ = ["PyramidModel", "keep_changes", "model_class", "share_modules"]


class PyramidModel(
    compatibility.KeepsOwnParameters, compatibility.Checkpoints, compatibility.SavesOwnNames, PreTrainedModel
):
    """A head over a backbone that prunes tokens, whatever the family.

    A subclass stands for one head. Below it, every family has a class that inherits from it and from the family's own
    class for that head (:func:`model_class`); calling the subclass, or its ``from_pretrained``, makes that of the
    configuration's family.

    Args:
        config: a plain model's configuration is taken with default settings.

    Raises:
        mp_plugins.PluginError: no plug-in has registered the pruner that the configuration names.
    """

    # What the names of the plain classes for this head end with.
    kind: ClassVar[str]
    family: ModelFamily
    # The layers are not called as modules, so their own checkpointing does not run: the layout's does.
    supports_gradient_checkpointing = True
    # Absent from every plain checkpoint, and neutral until they are trained: not worth a warning.
    own_prefixes: ClassVar[tuple[str, ...]] = (
        "internal_classifiers.",
        "exit_criterion.",
        "lexical_classifier.",
        "token_pruner.",
    )
    _keys_to_ignore_on_load_missing = compatibility.silent_when_missing(own_prefixes)
    # The loss is the mean over the batch; without this, Trainer would take the ** of the plain forward for more.
    accepts_loss_kwargs = False

    def __new__(cls, *args: Any, **_: Any) -> PyramidModel:
        """Make the class that is asked for, or that of the configuration's family."""
        if not hasattr(cls, "family"):
            cls = model_class(cls, family_of(args[0].model_type, "config"))
        made: PyramidModel = super().__new__(cls)
        return made

    def __init__(self, config: PreTrainedConfig) -> None:
        if not isinstance(config, MagicPyramidConfig):
            config = MagicPyramidConfig.from_plain(config)
        super().__init__(config)
        self.attached_to: tuple[PreTrainedModel] | None = None
        # transformers sets both when checkpointing is switched on.
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Any] | None = None
        # One manager for all look-ups: finding the entry points is most of their cost.
        plugins = create_plugin_manager()
        self.token_pruner: TokenPruner | None = None
        if config.token_pruner is not None:
            made: type[TokenPruner] = load_registry("token_pruners", plugins)[config.token_pruner]
            made.check(config)
            self.token_pruner = made(config)
        self._add_modules(plugins)
        self.shape = ModelShape.of(config)
        # A second time, for the modules above; those that are initialised already are left alone.
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a checkpoint, plain or of ours; see :meth:`transformers.PreTrainedModel.from_pretrained`."""
        made = cls
        if not hasattr(cls, "family"):
            config = kwargs.get("config")
            if not isinstance(config, PreTrainedConfig):
                config = MagicPyramidConfig.from_pretrained(pretrained_model_name_or_path, **kwargs)
            made = model_class(cls, family_of(config.model_type, "pretrained_model_name_or_path"))
        return super(PyramidModel, made).from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def own_modules(self) -> list[torch.nn.Module]:
        """Return the modules that the plain model does not have."""
        return [] if self.token_pruner is None else [self.token_pruner]

    def plain_model(self) -> Any:
        """Return the plain model that shares this one's parameters: the attached one, or else one made once."""
        if self.attached_to is None:
            with torch.device("meta"):
                plain = self.family.plain_class(self.kind)(self._plain_config())
            share_modules(self, plain)
            # In a tuple, so that it does not become a submodule.
            self.attached_to = (plain,)
        return self.attached_to[0]

    def prunes(self) -> bool:
        """Tell whether any layer can drop a token at the present settings."""
        return self.token_pruner is not None and self.token_pruner.is_active()

    def pruning_macs(self, *, pruned: bool) -> int:
        """Return the multiply-accumulates of the pruner for each token that enters a pruning layer.

        Args:
            pruned: it is at work.
        """
        return self.token_pruner.macs_per_token if pruned and self.token_pruner is not None else 0

    def set_speed(
        self,
        speed: float | None = None,
        *,
        keep_threshold: float | list[float] | Literal["learned"] | None = None,
        keep_rate: float | list[float] | None = None,
    ) -> None:
        """Choose how fast the model is. What is not given stays as it is; what is chosen is saved with the model.

        Args:
            speed: 0.0 = the plain model, 1.0 = fastest; sets the strength of pruning.
            keep_threshold: cut on the importance, one number or one per pruning layer; ``"learned"`` returns to the
                learned cuts.
            keep_rate: of the pruner ``"top-k"``, see :class:`MagicPyramidConfig`.

        Raises:
            mp_plugins.ArgumentError: a value is out of range. The model is left as it was.
        """
        changes: dict[str, Any] = {"speed": None} if speed is None else self._knob_changes("speed", speed)
        if keep_threshold is not None or keep_rate is not None:
            changes = {**changes, **keep_changes(keep_threshold, keep_rate), "speed": None}
        self._change(changes)

    def set_budget(
        self,
        *,
        ms: float | None = None,
        flops: float | None = None,
        data: Any = None,
        knob: Literal["speed", "exit_threshold", "keep_scale"] = "speed",
        batch_size: int = 1,
        data_collator: Callable[[list[Any]], Mapping[str, Any]] | None = None,
    ) -> OperatingPoint:
        """Choose the most accurate setting that stays within a budget; it is saved with the model, as with `set_speed`.

        With ``data`` every setting of the knob is measured, in four passes over them each, and the measurement is
        saved too (``config.speed_table``), so that later budgets need no data. Where the data have class labels, the
        setting with the highest accuracy on them is chosen, otherwise the slowest one within the budget.

        Args:
            ms: milliseconds of one call with a batch like those of ``data``, on this device with these threads.
            flops: floating-point operations of one text like those of ``data``; see :mod:`hf_integration.flops`.
            data: a batch, a :class:`torch.utils.data.DataLoader` of whole batches, or tokenised rows; ``None`` takes
                the last measurement.
            knob: what is varied: the knob of ``set_speed``, or one of its two parts while the other stays.
            batch_size: for rows; 1 makes ``ms`` the latency of one text.
            data_collator: makes a batch of a list of rows; pads by default.

        Returns:
            What was chosen, and what it took.

        Raises:
            mp_plugins.ArgumentError: no setting is within the budget, the arguments do not go together, or there is no
                measurement that holds. The model is left as it was.

        Example:
            >>> model.set_budget(ms=20, data=rows).accuracy  # doctest: +SKIP
            >>> model.set_budget(ms=10)  # doctest: +SKIP
        """
        argument, limit = one_budget(ms, flops)
        if data is None:
            if self.config.speed_table is None:
                raise argument_error(
                    "data", "must be given where no speed was measured yet", None, "pass a batch or tokenised rows"
                )
            table = SpeedTable.read(self.config.speed_table)
            table.require_valid(self, timed=argument == "ms")
        else:
            candidates = [self._knob_changes(knob, level) for level in LEVELS]
            # The fastest one breaks a rule if any does.
            self.config.updated(candidates[-1])
            table = measure_speed(self, data, candidates, batch_size=batch_size, data_collator=data_collator)
        point = table.best(argument, limit)
        self._change({**point.settings, "speed_table": table.stored()})
        return point

    def _knob_changes(self, knob: str, level: float) -> dict[str, Any]:
        """Return what changes in the configuration when ``knob`` is set to ``level``. A hook for subclasses."""
        if knob not in ("speed", "keep_scale"):
            raise argument_error(
                "knob", "must be 'speed' or 'keep_scale' for a head that prunes only", repr(knob), "leave it out"
            )
        speed = level if knob == "speed" else None
        return {"keep_scale": speed_settings(level)["keep_scale"] if knob == "speed" else level, "speed": speed}

    def _add_modules(self, plugins: Any) -> None:
        """Add what the head needs beside the pruner. A hook for subclasses."""

    def _init_weights(self, module: torch.nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, (InternalClassifier, InternalClassifiers, ExitCriterion, LexicalClassifier, TokenPruner)):
            module.reset_parameters()

    def _change(self, changes: Mapping[str, Any]) -> None:
        changed = self.config.updated(changes)
        if self.token_pruner is not None:
            self.token_pruner.check(changed)
        for name, value in changes.items():
            setattr(self.config, name, value)

    def _plain_config(self) -> PreTrainedConfig:
        own = {*MagicPyramidConfig.setting_names(), "model_type", "keys_to_ignore_at_inference"}
        fields = {name: value for name, value in copy.deepcopy(self.config).to_dict().items() if name not in own}
        made: PreTrainedConfig = self.family.plain_class("Config")(
            **fields, attn_implementation=self.config._attn_implementation
        )
        return made

    def _checked(self, **inputs: Tensor | None) -> BatchInputs:
        return BatchInputs.checked(self.family, self.config, **inputs)

    def _lay_out(self, inputs: BatchInputs, *, soft: bool, retain: bool = False) -> Layout:
        compact = self.config.execution == "compact" and not soft
        heads = self.config.num_attention_heads
        protected = self.config.protected_token_ids or ()
        layout = inputs.lay_out(
            self.family, self.base_model, heads, compact=compact, protected_ids=protected, soft=soft, retain=retain
        )
        if self.training and self.gradient_checkpointing and self._gradient_checkpointing_func is not None:
            layout.call = self._gradient_checkpointing_func
        return layout

    def _is_neutral(self) -> bool:
        return not self.prunes()

    def _add_states(self, output: Any, inputs: Mapping[str, Tensor | None], wanted: Mapping[str, bool | None]) -> None:
        """Fill in the hidden states and attentions, where ``wanted`` or else the configuration asks for them."""
        asked = {name: getattr(self.config, name) if choice is None else choice for name, choice in wanted.items()}
        if not any(asked.values()):
            return
        if not self._is_neutral():
            raise UnsupportedError(
                "hidden states and attentions exist only where every token passes every layer: "
                "call set_speed(0.0) first, or leave out output_hidden_states and output_attentions"
            )
        # Nothing is pruned, so these are the plain model's own states, from its own code.
        given = {name: tensor for name, tensor in inputs.items() if tensor is not None}
        # Not by the class above: hooks of two base models on the same layers would record every state twice.
        states = self.plain_model().train(self.training)(**given, return_dict=True, **asked)
        # By item: an attribute that was empty does not become one in every release.
        for name in ("hidden_states", "attentions"):
            if states.get(name) is not None:
                output[name] = states[name]

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return output if return_dict else tuple(output.to_tuple())


def model_class(head: Any, family: ModelFamily) -> Any:
    """Return the class of a head (a subclass of :class:`PyramidModel`) for one family, the same at every call."""
    return _derived(head, family)


@functools.cache
def _derived(head: Any, family: ModelFamily) -> Any:
    plain = family.plain_class(head.kind)
    name = f"MagicPyramid{family.class_prefix}{head.kind}"
    body = {
        "family": family,
        "config_class": config_class(family),
        "__doc__": f":class:`{head.__name__}` over :class:`transformers.{plain.__name__}`.",
        "__module__": head.__module__,
    }
    made = type(name, (head, plain), body)
    # Pickle looks classes up by module and name.
    setattr(sys.modules[head.__module__], name, made)
    return made


def share_modules(source: PreTrainedModel, target: PreTrainedModel) -> None:
    """Give ``target`` the modules of ``source`` that both classes have; it loses those that ``source`` lacks."""
    own = set(map(id, target.own_modules() if isinstance(target, PyramidModel) else ()))
    for name, module in list(target.named_children()):
        if id(module) not in own:
            setattr(target, name, getattr(source, name))


def keep_changes(
    keep_threshold: float | list[float] | Literal["learned"] | None, keep_rate: float | list[float] | None
) -> dict[str, Any]:
    """Return the fields that a ``keep_threshold`` or a ``keep_rate`` of ``set_speed`` changes."""
    changes: dict[str, Any] = {}
    if keep_threshold is not None:
        changes = {"keep_threshold": None if keep_threshold == "learned" else keep_threshold, "keep_scale": 1.0}
    if keep_rate is not None:
        changes.update(keep_rate=keep_rate, keep_scale=1.0)
    return changes
