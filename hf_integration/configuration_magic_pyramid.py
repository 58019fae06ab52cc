"""Configuration of a Magic Pyramid model: the plain model's, plus how wide and how deep each text is computed."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from hf_integration.compatibility import PreTrainedConfig
from hf_integration.configuration_checks import SETTINGS_VERSION, check_settings, check_unit
from hf_integration.families import FAMILIES
from hf_integration.model_family import ModelFamily
from mp_plugins import argument_error, load_registry

__all__ = ["MagicPyramidConfig", "config_class", "family_of", "speed_settings"]

_BERT = FAMILIES[0]

# Architectures that people ask for, and what stands in the way.
_REFUSED = {"deberta": "its first version splits attention otherwise than deberta-v2 and -v3, which are supported"}


class MagicPyramidConfig(PreTrainedConfig):
    """The configuration of a plain model with the settings of token pruning and early exit.

    Every family has a class of its own below this one, with a ``model_type`` of its own (:func:`config_class`):
    :meth:`from_pretrained` and :meth:`from_plain` give that of the checkpoint's family, calling this class BERT's.

    Depths count encoder layers that have been run: an exit at depth 0 reads the embeddings, an exit at depth 3 reads
    the output of the third layer. The defaults are neutral: the model computes what BERT computes.

    Args:
        exit_layers: depths with an internal classifier, out of ``0 .. num_hidden_layers - 1``; ``None`` means all.
        exit_threshold: a sample leaves where the uncertainty of an internal classifier (0 = sure, 1 = uniform) is
            below it; 0 = never.
        exit_criterion: name of the measure of uncertainty: ``"entropy"``, ``"confidence"``, ``"confidence-margin"``,
            ``"patience"``, ``"agreement"``, ``"learned"`` or a plug-in's. The last three take regression heads too.
        exit_tolerance: of regression heads, in the unit of the labels: predictions of consecutive exits that differ by
            less are the same to the criteria ``"patience"`` and ``"agreement"``.
        lexical_exits: half of what an internal classifier says comes from a linear classifier on the tokens themselves,
            which tells many topics before any layer; it takes ``vocab_size * num_labels`` numbers.
        token_pruner: name of the pruner: ``"attention"``, ``"cls-attention"``, ``"top-k"``, ``"gate"`` or a plug-in's;
            ``None`` = no pruner.
        pruning_layers: layers (1-based) that drop tokens between attention and feed-forward, out of
            ``1 .. num_hidden_layers - 1``: of the last layer only [CLS] is ever read. ``None`` means all of those.
        keep_threshold: cut on the importance (1 on average over the tokens that may be pruned), one number or one per
            pruning layer, in place of the learned ones; ``None`` = the learned ones.
        keep_rate: of the pruner ``"top-k"``, in ``(0, 1]``: the share of a text's tokens that is left after the last
            pruning layer, falling by the same step in each, or one share per pruning layer; ``None`` keeps all.
        keep_scale: strength of pruning in ``[0, 1]``: a factor on the keep thresholds, or on the share that
            ``keep_rate`` drops; 0 keeps every token.
        protected_token_ids: tokens with these ids are never pruned, for example ``tokenizer.all_special_ids``; the
            first token of a text, [CLS], never is.
        max_layers: run at most this many layers; below ``num_hidden_layers`` it must be one of ``exit_layers``.
        execution: ``"compact"`` (tokens and samples really leave) or ``"masked"`` (dense, the same results).
        speed: the last value of ``set_speed``, from which ``exit_threshold`` and ``keep_scale`` follow unless given.
        settings_version: of these fields, so that a release knows a configuration that is newer than itself.
        speed_table: what ``set_budget`` measured, for later budgets.
        **kwargs: fields of the plain model's configuration.

    Raises:
        mp_plugins.ArgumentError: a field breaks a rule above; the message names it.
        mp_plugins.UnsupportedError: the architecture is not a plain encoder, or the configuration is of a newer
            release.

    Example:
        >>> MagicPyramidConfig(exit_threshold=0.1, exit_layers=[0, 2, 4]).exit_depths
        (0, 2, 4)
    """

    family: ModelFamily

    def __new__(cls, *_: Any, **__: Any) -> MagicPyramidConfig:
        """Make the class that is asked for, or BERT's."""
        made: MagicPyramidConfig = super().__new__(config_class(_BERT) if cls is MagicPyramidConfig else cls)
        return made

    def __init__(
        self,
        *,
        exit_layers: Sequence[int] | None = None,
        exit_threshold: float | None = None,
        exit_criterion: str = "entropy",
        exit_tolerance: float | None = None,
        lexical_exits: bool = True,
        token_pruner: str | None = "attention",  # noqa: S107 - not a password
        pruning_layers: Sequence[int] | None = None,
        keep_threshold: float | Sequence[float] | None = None,
        keep_rate: float | Sequence[float] | None = None,
        keep_scale: float | None = None,
        protected_token_ids: Sequence[int] | None = None,
        max_layers: int | None = None,
        execution: str = "compact",
        speed: float | None = None,
        speed_table: Mapping[str, Any] | None = None,
        settings_version: int = SETTINGS_VERSION,
        **kwargs: Any,
    ) -> None:
        extra = ["exit_layer", "tokens_kept", "flops"]
        kwargs.setdefault("keys_to_ignore_at_inference", extra)
        super().__init__(**kwargs)
        implied = {"exit_threshold": 0.0, "keep_scale": 1.0} if speed is None else speed_settings(speed)
        self.exit_layers = exit_layers if exit_layers is None else list(exit_layers)
        self.exit_threshold = implied["exit_threshold"] if exit_threshold is None else exit_threshold
        self.exit_criterion = exit_criterion
        self.exit_tolerance = exit_tolerance
        self.lexical_exits = lexical_exits
        self.token_pruner = token_pruner
        self.pruning_layers = pruning_layers if pruning_layers is None else list(pruning_layers)
        self.keep_threshold = list(keep_threshold) if isinstance(keep_threshold, Sequence) else keep_threshold
        self.keep_rate = list(keep_rate) if isinstance(keep_rate, Sequence) else keep_rate
        self.protected_token_ids = None if protected_token_ids is None else list(protected_token_ids)
        self.keep_scale = implied["keep_scale"] if keep_scale is None else keep_scale
        self.max_layers = max_layers
        self.execution = execution
        self.settings_version = settings_version
        self.speed = speed
        self.speed_table = None if speed_table is None else dict(speed_table)
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
        check_settings(self)

    def updated(self, changes: Mapping[str, Any]) -> MagicPyramidConfig:
        """Return a checked copy with ``changes`` applied; ``self`` stays as it is."""
        config = copy.deepcopy(self)
        for name, value in changes.items():
            setattr(config, name, value)
        config.check()
        return config

    @classmethod
    def from_plain(cls, config: PreTrainedConfig, **settings: Any) -> MagicPyramidConfig:
        """Return the configuration of a Magic Pyramid over a plain model, with labels and problem type as they are.

        Args:
            config: the configuration of the plain model; it is not changed.
            **settings: fields of this class.

        Raises:
            mp_plugins.ArgumentError: no family is registered for the architecture.
        """
        fields = config.to_dict()
        made = config_class(family_of(fields.pop("model_type"), "config"))
        return made(**{**fields, **settings})

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Read a checkpoint's configuration; a plain checkpoint is one of ours with default settings."""
        made = cls
        if cls is MagicPyramidConfig:
            fields, _ = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
            made = config_class(family_of(fields.get("model_type", _BERT.model_type), "pretrained_model_name_or_path"))
        return super(MagicPyramidConfig, made).from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Read the fields; those of this family's plain model become ours."""
        fields, kwargs = super().get_config_dict(*args, **kwargs)
        found = family_of(fields.get("model_type", _BERT.model_type), "pretrained_model_name_or_path")
        if found != cls.family:
            raise argument_error(
                "pretrained_model_name_or_path",
                f"must be a checkpoint of type {cls.family.model_type!r}",
                f"model type {found.model_type!r}",
                "MagicPyramidConfig.from_pretrained takes any family",
            )
        return {**fields, "model_type": cls.model_type}, kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build the configuration; settings among ``kwargs`` are checked like those in ``config_dict``."""
        own = {name: kwargs.pop(name) for name in cls.setting_names() & kwargs.keys()}
        return super().from_dict({**config_dict, **own}, **kwargs)

    @classmethod
    def setting_names(cls) -> frozenset[str]:
        """Names of the fields that this class adds to those of the plain model."""
        return frozenset(MagicPyramidConfig.__init__.__kwdefaults__ or ())


def speed_settings(speed: float) -> dict[str, float]:
    """Return the settings that a ``speed`` stands for: 0.0 = the plain model, 1.0 = fastest.

    The exit threshold is the speed itself; the keep thresholds grow to the learned values at 0.5 and stay there,
    because the weights were never trained with higher ones.
    """
    check_unit("speed", speed)
    return {"exit_threshold": float(speed), "keep_scale": min(1.0, 2.0 * float(speed))}


@functools.cache
def config_class(family: ModelFamily) -> type[MagicPyramidConfig]:
    """Return the configuration class of a family, the same one at every call."""
    plain = family.plain_class("Config")
    name = f"MagicPyramid{family.class_prefix}Config"
    body = {
        "family": family,
        "model_type": _model_type(family),
        "__doc__": f":class:`MagicPyramidConfig` over :class:`transformers.{plain.__name__}`.",
        "__module__": __name__,
        # transformers writes a constructor into every configuration class whose own body has none.
        "__init__": MagicPyramidConfig.__init__,
    }
    made = type(name, (MagicPyramidConfig, plain), body)
    # Pickle looks classes up by module and name.
    globals()[name] = made
    return made


def family_of(model_type: str, argument: str) -> ModelFamily:
    """Return the family of a plain model type, or of one of ours.

    Raises:
        mp_plugins.ArgumentError: no plug-in has registered one; the message names ``argument``.
    """
    families = load_registry("model_families")
    for family in families.values():
        if model_type in (family.model_type, _model_type(family)):
            found: ModelFamily = family
            return found
    reason = _REFUSED.get(model_type, "no plug-in has registered a family for it")
    raise argument_error(
        argument,
        f"must be a checkpoint of one of the types {', '.join(sorted(families))}",
        f"model type {model_type!r}",
        f"{reason}; pass a checkpoint of another type",
    )


def _model_type(family: ModelFamily) -> str:
    if family == _BERT:
        return "magic_pyramid"
    return f"magic_pyramid_{family.model_type.replace('-', '_')}"
