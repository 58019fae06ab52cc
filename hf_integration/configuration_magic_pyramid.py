"""Configuration of a Magic Pyramid model: BERT's own, plus how wide and how deep each text is computed."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import BertConfig

from mp_plugins import UnsupportedError, argument_error

__all__ = ["EXECUTIONS", "MagicPyramidConfig", "is_regression", "speed_settings"]

EXECUTIONS = ("compact", "masked")

_BASE_MODEL_TYPE = "bert"


class MagicPyramidConfig(BertConfig):
    """A :class:`transformers.BertConfig` with the settings of token pruning and early exit.

    Depths count encoder layers that have been run: an exit at depth 0 reads the embeddings, an exit at depth 3 reads
    the output of the third layer. The defaults are neutral: the model computes what BERT computes.

    Args:
        exit_layers: depths with an internal classifier, out of ``0 .. num_hidden_layers - 1``; ``None`` means all.
        exit_threshold: a sample leaves where the uncertainty of an internal classifier (0 = sure, 1 = uniform) is
            below it; 0 = never.
        exit_criterion: name of the measure of uncertainty, ``"entropy"`` or ``"confidence"`` or a plug-in's.
        token_pruner: name of the pruner, ``"attention"`` or a plug-in's; ``None`` = no pruner.
        pruning_layers: layers (1-based) that drop tokens between attention and feed-forward, out of
            ``1 .. num_hidden_layers - 1``: of the last layer only [CLS] is ever read. ``None`` means all of those.
        keep_threshold: cut on the importance ``r`` (1 on average over the tokens of a text), one number or one per
            pruning layer, in place of the learned ones; ``None`` = the learned ones.
        keep_scale: factor on the keep thresholds in ``[0, 1]``; 0 keeps every token.
        max_layers: run at most this many layers; below ``num_hidden_layers`` it must be one of ``exit_layers``.
        execution: ``"compact"`` (tokens and samples really leave) or ``"masked"`` (dense, the same results).
        speed: the last value of ``set_speed``, from which ``exit_threshold`` and ``keep_scale`` follow unless given.
        **kwargs: fields of :class:`transformers.BertConfig`.

    Raises:
        mp_plugins.ArgumentError: a field breaks a rule above; the message names it.
        mp_plugins.UnsupportedError: the architecture is not a plain encoder with absolute positions.

    Example:
        >>> MagicPyramidConfig(exit_threshold=0.1, exit_layers=[0, 2, 4]).exit_depths
        (0, 2, 4)
    """

    model_type = "magic_pyramid"

    def __init__(
        self,
        *,
        exit_layers: Sequence[int] | None = None,
        exit_threshold: float | None = None,
        exit_criterion: str = "entropy",
        token_pruner: str | None = "attention",  # noqa: S107 - not a password
        pruning_layers: Sequence[int] | None = None,
        keep_threshold: float | Sequence[float] | None = None,
        keep_scale: float | None = None,
        max_layers: int | None = None,
        execution: str = "compact",
        speed: float | None = None,
        **kwargs: Any,
    ) -> None:
        extra = ["exit_layer", "tokens_kept", "flops"]
        kwargs.setdefault("keys_to_ignore_at_inference", extra)
        super().__init__(**kwargs)
        implied = {"exit_threshold": 0.0, "keep_scale": 1.0} if speed is None else speed_settings(speed)
        self.exit_layers = exit_layers if exit_layers is None else list(exit_layers)
        self.exit_threshold = implied["exit_threshold"] if exit_threshold is None else exit_threshold
        self.exit_criterion = exit_criterion
        self.token_pruner = token_pruner
        self.pruning_layers = pruning_layers if pruning_layers is None else list(pruning_layers)
        self.keep_threshold = list(keep_threshold) if isinstance(keep_threshold, Sequence) else keep_threshold
        self.keep_scale = implied["keep_scale"] if keep_scale is None else keep_scale
        self.max_layers = max_layers
        self.execution = execution
        self.speed = speed
        self.check()

    @property
    def exit_depths(self) -> tuple[int, ...]:
        """Depths with an internal classifier, ascending."""
        return tuple(range(self.num_hidden_layers) if self.exit_layers is None else sorted(self.exit_layers))

    @property
    def pruning_depths(self) -> tuple[int, ...]:
        """Layers (1-based) that prune, ascending; empty without a pruner."""
        if self.token_pruner is None:
            return ()
        return tuple(range(1, self.num_hidden_layers) if self.pruning_layers is None else sorted(self.pruning_layers))

    def check(self) -> None:
        """Check every field of this class against the others; see the class for the rules and the errors."""
        _check_architecture(self)
        last = self.num_hidden_layers - 1
        _check_layers("exit_layers", self.exit_layers, first=0, last=last)
        _check_layers("pruning_layers", self.pruning_layers, first=1, last=last)
        _check_unit("exit_threshold", self.exit_threshold)
        _check_unit("keep_scale", self.keep_scale)
        _check_keep_threshold(self)
        _check_max_layers(self)
        _check_names(self)
        if self.exit_threshold > 0 and is_regression(self):
            raise argument_error(
                "exit_threshold",
                "must be 0 for a regression head, which has no uncertainty",
                self.exit_threshold,
                "use `max_layers` or `keep_threshold` to make it faster",
            )

    def updated(self, changes: Mapping[str, Any]) -> MagicPyramidConfig:
        """Return a checked copy with ``changes`` applied; ``self`` stays as it is."""
        config = copy.deepcopy(self)
        for name, value in changes.items():
            setattr(config, name, value)
        config.check()
        return config

    @classmethod
    def from_bert(cls, config: BertConfig, **settings: Any) -> MagicPyramidConfig:
        """Return the configuration of a Magic Pyramid over a BERT model, with labels and problem type as they are.

        Args:
            config: the configuration of the BERT model; it is not changed.
            **settings: fields of this class.
        """
        fields = config.to_dict()
        _take_over(fields, "config")
        return cls(**{**fields, **settings})

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read a checkpoint's configuration; a plain BERT checkpoint is one of ours with default settings."""
        fields, kwargs = super().get_config_dict(*args, **kwargs)
        fields = dict(fields)
        _take_over(fields, "pretrained_model_name_or_path")
        return fields, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration; settings among ``kwargs`` are checked like those in ``config_dict``."""
        own = {name: kwargs.pop(name) for name in cls.setting_names() & kwargs.keys()}
        return super().from_dict({**config_dict, **own}, **kwargs)

    @classmethod
    def setting_names(cls) -> frozenset[str]:
        """Names of the fields that this class adds to BERT's."""
        return frozenset(MagicPyramidConfig.__init__.__kwdefaults__ or ())


def speed_settings(speed: float) -> dict[str, float]:
    """Return the settings that a ``speed`` stands for: 0.0 = the plain model, 1.0 = fastest.

    The exit threshold is the speed itself; the keep thresholds grow to the learned values at 0.5 and stay there,
    because the weights were never trained with higher ones.
    """
    _check_unit("speed", speed)
    return {"exit_threshold": float(speed), "keep_scale": min(1.0, 2.0 * float(speed))}


def is_regression(config: BertConfig) -> bool:
    """Tell whether the head predicts numbers: the same rule by which BERT picks its loss."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def _take_over(fields: dict[str, Any], argument: str) -> None:
    model_type = fields.get("model_type", _BASE_MODEL_TYPE)
    if model_type not in (_BASE_MODEL_TYPE, MagicPyramidConfig.model_type):
        raise argument_error(
            argument, "must be a BERT checkpoint", f"model type {model_type!r}", "pass a checkpoint of type 'bert'"
        )
    fields["model_type"] = MagicPyramidConfig.model_type


def _check_architecture(config: MagicPyramidConfig) -> None:
    positions = getattr(config, "position_embedding_type", "absolute")
    if config.is_decoder or config.add_cross_attention or positions != "absolute":
        raise UnsupportedError(
            "Magic Pyramid supports encoders with absolute positions, "
            f"got is_decoder={config.is_decoder}, add_cross_attention={config.add_cross_attention}, "
            f"position_embedding_type={positions!r}: use a plain BERT encoder"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_unit(argument: str, value: object) -> None:
    # `not 0 <= value` also catches NaN.
    if not (_is_number(value) and 0 <= value <= 1):  # type: ignore[operator]
        raise argument_error(argument, "must be a number from 0 to 1", repr(value), "0 is neutral, 1 is fastest")


def _check_layers(argument: str, layers: list[int] | None, *, first: int, last: int) -> None:
    if layers is None:
        return
    if not all(_is_index(layer) and first <= layer <= last for layer in layers) or len(set(layers)) != len(layers):
        raise argument_error(
            argument, f"must be distinct integers from {first} to {last}", layers, "leave it out to use all of them"
        )


def _check_keep_threshold(config: MagicPyramidConfig) -> None:
    value = config.keep_threshold
    if value is None:
        return
    cuts = value if isinstance(value, list) else [value] * len(config.pruning_depths)
    if config.token_pruner is None or len(cuts) != len(config.pruning_depths):
        raise argument_error(
            "keep_threshold",
            f"must be one number or one per pruning layer ({len(config.pruning_depths)})",
            value,
            "see `token_pruner` and `pruning_layers`",
        )
    for cut in [*cuts, *([] if isinstance(value, list) else [value])]:
        if not (_is_number(cut) and 0 <= cut < float("inf")):
            raise argument_error(
                "keep_threshold", "must be finite and at least 0", value, "0 keeps all, 1 cuts below-average tokens"
            )


def _check_max_layers(config: MagicPyramidConfig) -> None:
    allowed = sorted({*config.exit_depths, config.num_hidden_layers})
    if config.max_layers is not None and not (_is_index(config.max_layers) and config.max_layers in allowed):
        raise argument_error(
            "max_layers",
            f"must be a depth with a classifier, one of {allowed}",
            repr(config.max_layers),
            "add the depth to `exit_layers` or choose another",
        )


def _check_names(config: MagicPyramidConfig) -> None:
    if config.execution not in EXECUTIONS:
        raise argument_error("execution", f"must be one of {EXECUTIONS}", repr(config.execution), "use 'compact'")
    for argument, name in (("exit_criterion", config.exit_criterion), ("token_pruner", config.token_pruner)):
        if not isinstance(name, str) and not (argument == "token_pruner" and name is None):
            raise argument_error(argument, "must be the name of a plug-in object", repr(name), "see its documentation")
