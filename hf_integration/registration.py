"""Making transformers know Magic Pyramid models, for a process or for one model in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from hf_integration.base_model import PyramidModel, model_class, share_modules
from hf_integration.compatibility import register_tokenizer
from hf_integration.configuration_magic_pyramid import MagicPyramidConfig, config_class
from hf_integration.model_family import ModelFamily
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from hf_integration.modeling_token_level import (
    MagicPyramidForQuestionAnswering,
    MagicPyramidForTokenClassification,
    MagicPyramidModel,
)
from mp_plugins import argument_error, load_registry

__all__ = ["attach", "detach", "install", "register", "register_family", "uninstall"]

_HEADS: tuple[tuple[Any, Any], ...] = (
    (AutoModel, MagicPyramidModel),
    (AutoModelForSequenceClassification, MagicPyramidForSequenceClassification),
    (AutoModelForTokenClassification, MagicPyramidForTokenClassification),
    (AutoModelForQuestionAnswering, MagicPyramidForQuestionAnswering),
)


def register() -> None:
    """Make the Auto classes know the model types of all families. Calling it again changes nothing."""
    for family in _families():
        register_family(family)


def register_family(family: ModelFamily) -> None:
    """Make the Auto classes know the Magic Pyramid model type of ``family``, for all heads."""
    ours, plain = config_class(family), family.plain_class("Config")
    AutoConfig.register(ours.model_type, ours, exist_ok=True)
    for auto, head in _HEADS:
        auto.register(ours, model_class(head, family), exist_ok=True)
    register_tokenizer(ours, plain)


def install() -> None:
    """Make the Auto classes load plain checkpoints of every family as Magic Pyramid models, and :func:`register`.

    Models that exist already are not touched. :func:`uninstall` takes it back; calling either twice changes nothing.
    """
    for family in _families():
        register_family(family)
        for auto, head in _HEADS:
            # The mapping's own register: that of the Auto class refuses a model class whose config_class is another.
            auto._model_mapping.register(family.plain_class("Config"), model_class(head, family), exist_ok=True)


def uninstall() -> None:
    """Take :func:`install` back: plain checkpoints load as plain models again. The registered model types stay."""
    for auto, _ in _HEADS:
        # There is no public way back from a registration; transformers' own tests take this one too.
        extra = auto._model_mapping._extra_content
        for config, model in list(extra.items()):
            if issubclass(model, PyramidModel) and not issubclass(config, MagicPyramidConfig):
                del extra[config]


def attach(model: PreTrainedModel, **settings: Any) -> Any:
    """Return a Magic Pyramid over a plain model in memory. The parameters are shared, not copied.

    Args:
        model: stays usable as it is; device, dtype and training mode carry over.
        **settings: fields of :class:`MagicPyramidConfig`.

    Raises:
        mp_plugins.ArgumentError: ``model`` is not of a family and head that are known, or a setting is out of range.
    """
    made = _pyramid_class(model)
    unknown = settings.keys() - MagicPyramidConfig.setting_names()
    if unknown:
        known = ", ".join(sorted(MagicPyramidConfig.setting_names()))
        raise argument_error("settings", f"must be among {known}", sorted(unknown), "see MagicPyramidConfig")
    config = MagicPyramidConfig.from_plain(model.config, **settings)
    # Built without memory: all of the backbone is replaced by the model's own modules.
    with torch.device("meta"):
        pyramid = made(config)
    share_modules(model, pyramid)
    for module in pyramid.own_modules():
        module.to_empty(device=model.device)
        module.to(model.dtype)
        module.apply(pyramid._init_weights)
    pyramid.train(model.training)
    # In a tuple, so that it does not become a submodule.
    pyramid.attached_to = (model,)
    return pyramid


def detach(model: PyramidModel) -> Any:
    """Return the plain model of a Magic Pyramid, sharing its parameters: the attached one, if it is one.

    Args:
        model: stays usable.

    Raises:
        mp_plugins.ArgumentError: ``model`` is not a Magic Pyramid.
    """
    if not isinstance(model, PyramidModel):
        raise argument_error(
            "model", "must be a Magic Pyramid model", f"a {type(model).__name__}", "pass what attach() returned"
        )
    return model.plain_model().train(model.training)


def _families() -> Iterator[ModelFamily]:
    yield from load_registry("model_families").values()


def _pyramid_class(model: PreTrainedModel) -> Any:
    """Return our class for the family and the head of a plain model."""
    if not isinstance(model, PyramidModel):
        for family in _families():
            for _, head in _HEADS:
                # Not isinstance: what a class derived from it computes is not known.
                if type(model) is family.plain_class(head.kind):
                    return model_class(head, family)
    raise argument_error(
        "model",
        "must be a plain transformers model of a supported family and head, such as BertForSequenceClassification",
        f"a {type(model).__name__}",
        "load a checkpoint with AutoModelForSequenceClassification; settings of a Magic Pyramid change with set_speed",
    )
