"""The rules for the settings of a Magic Pyramid."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mp_plugins import UnsupportedError, argument_error, load_registry

if TYPE_CHECKING:
    from hf_integration.compatibility import PreTrainedConfig
    from hf_integration.configuration_magic_pyramid import MagicPyramidConfig

__all__ = ["SETTINGS_VERSION", "check_settings", "check_unit", "is_regression"]

SETTINGS_VERSION = 1
"""Raised whenever a field is added without which a stored model would compute something else."""

_EXECUTIONS = ("compact", "masked")


def check_settings(config: MagicPyramidConfig) -> None:
    """Check the settings against each other and against the shape of the model.

    Raises:
        mp_plugins.ArgumentError: a rule of :class:`MagicPyramidConfig` is broken; the message names the field.
        mp_plugins.UnsupportedError: the architecture is not a plain encoder, or a variant that its family lacks.
    """
    _check_version(config)
    _check_architecture(config)
    last = config.num_hidden_layers - 1
    _check_layers("exit_layers", config.exit_layers, first=0, last=last)
    _check_layers("pruning_layers", config.pruning_layers, first=1, last=last)
    check_unit("exit_threshold", config.exit_threshold)
    check_unit("keep_scale", config.keep_scale)
    _check_keep_threshold(config)
    _check_keep_rate(config)
    _check_protected(config)
    _check_max_layers(config)
    _check_names(config)
    _check_tolerance(config)
    if config.exit_threshold > 0 and is_regression(config):
        # Reading the registry is slow, and every criterion is defined for classes.
        load_registry("exit_criteria")[config.exit_criterion].check(config)


def check_unit(argument: str, value: object) -> None:
    """Check that ``value`` is a number from 0 to 1, or raise the error that names ``argument``."""
    # `not 0 <= value` also catches NaN.
    if not (_is_number(value) and 0 <= value <= 1):  # type: ignore[operator]
        raise argument_error(argument, "must be a number from 0 to 1", repr(value), "0 is neutral, 1 is fastest")


def is_regression(config: PreTrainedConfig) -> bool:
    """Tell whether the head predicts numbers: the same rule by which the plain models pick their loss."""
    return config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1)


def _check_version(config: MagicPyramidConfig) -> None:
    version = config.settings_version
    if not (_is_index(version) and version >= 1):
        raise argument_error("settings_version", "must be a positive integer", repr(version), "leave it out")
    if version > SETTINGS_VERSION:
        raise UnsupportedError(
            f"this model was saved by a newer release of magic-pyramid: its settings are of version {version}, this "
            f"release knows {SETTINGS_VERSION}. Upgrade magic-pyramid to load it"
        )


def _check_architecture(config: MagicPyramidConfig) -> None:
    positions = getattr(config, "position_embedding_type", "absolute")
    decodes = getattr(config, "is_decoder", False)
    crosses = getattr(config, "add_cross_attention", False)
    if getattr(config, "inner_group_num", 1) != 1:
        raise UnsupportedError(
            f"Magic Pyramid supports ALBERT with one layer in a group, got inner_group_num={config.inner_group_num}: "
            "no published checkpoint has more"
        )
    if decodes or crosses or positions != "absolute":
        raise UnsupportedError(
            "Magic Pyramid supports plain encoders, "
            f"got is_decoder={decodes}, add_cross_attention={crosses}, position_embedding_type={positions!r}: "
            "use an encoder without cross-attention, with position_embedding_type='absolute'"
        )
    config.family.check(config)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_layers(argument: str, layers: list[int] | None, *, first: int, last: int) -> None:
    if layers is None:
        return
    if not all(_is_index(layer) and first <= layer <= last for layer in layers) or len(set(layers)) != len(layers):
        raise argument_error(
            argument, f"must be distinct integers from {first} to {last}", layers, "leave it out to use all of them"
        )


def _check_keep_threshold(config: MagicPyramidConfig) -> None:
    for cut in _one_per_pruning_layer("keep_threshold", config):
        if not (_is_number(cut) and 0 <= cut < float("inf")):
            raise argument_error(
                "keep_threshold",
                "must be finite and at least 0",
                config.keep_threshold,
                "0 keeps all, 1 cuts below-average tokens",
            )


def _check_keep_rate(config: MagicPyramidConfig) -> None:
    for rate in _one_per_pruning_layer("keep_rate", config):
        if not (_is_number(rate) and 0 < rate <= 1):
            raise argument_error("keep_rate", "must be above 0 and at most 1", config.keep_rate, "1 keeps all")


def _one_per_pruning_layer(argument: str, config: MagicPyramidConfig) -> list[float]:
    """Return the values of a field that is absent, one number, or one number per pruning layer."""
    value = getattr(config, argument)
    if value is None:
        return []
    values: list[float] = value if isinstance(value, list) else [value]
    if config.token_pruner is None or (isinstance(value, list) and len(value) != len(config.pruning_depths)):
        raise argument_error(
            argument,
            f"must be one number or one per pruning layer ({len(config.pruning_depths)})",
            value,
            "see `token_pruner` and `pruning_layers`",
        )
    return values


def _check_protected(config: MagicPyramidConfig) -> None:
    ids = config.protected_token_ids
    if ids is not None and not all(_is_index(token) and 0 <= token < config.vocab_size for token in ids):
        raise argument_error(
            "protected_token_ids",
            f"must be token ids from 0 to {config.vocab_size - 1}",
            ids,
            "pass tokenizer.all_special_ids",
        )


def _check_tolerance(config: MagicPyramidConfig) -> None:
    value = config.exit_tolerance
    if value is not None and not (_is_number(value) and 0 < value < float("inf")):
        raise argument_error(
            "exit_tolerance", "must be positive and finite", repr(value), "give it in the unit of the labels"
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
    if config.execution not in _EXECUTIONS:
        raise argument_error("execution", f"must be one of {_EXECUTIONS}", repr(config.execution), "use 'compact'")
    if not isinstance(config.lexical_exits, bool):
        raise argument_error("lexical_exits", "must be True or False", repr(config.lexical_exits), "leave it out")
    for argument, name in (("exit_criterion", config.exit_criterion), ("token_pruner", config.token_pruner)):
        if not isinstance(name, str) and not (argument == "token_pruner" and name is None):
            raise argument_error(argument, "must be the name of a plug-in object", repr(name), "see its documentation")
