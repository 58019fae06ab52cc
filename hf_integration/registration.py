"""Making transformers know Magic Pyramid models, for a process or for one model in memory."""

from __future__ import annotations

import copy
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
)

from hf_integration.configuration_magic_pyramid import MagicPyramidConfig
from hf_integration.modeling_magic_pyramid import MagicPyramidForSequenceClassification
from mp_plugins import argument_error

__all__ = ["attach", "detach", "install", "register", "uninstall"]


def register() -> None:
    """Make the Auto classes know ``model_type`` ``"magic_pyramid"``. Calling it again changes nothing."""
    AutoConfig.register(MagicPyramidConfig.model_type, MagicPyramidConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        MagicPyramidConfig, MagicPyramidForSequenceClassification, exist_ok=True
    )
    AutoTokenizer.register(MagicPyramidConfig, fast_tokenizer_class=BertTokenizerFast, exist_ok=True)


def install() -> None:
    """Make ``AutoModelForSequenceClassification`` load BERT checkpoints as Magic Pyramid models, and :func:`register`.

    Models that exist already are not touched. :func:`uninstall` takes it back; calling either twice changes nothing.
    """
    register()
    # The mapping's own register: that of the Auto class refuses a model class whose config_class is another.
    _sequence_classification().register(BertConfig, MagicPyramidForSequenceClassification, exist_ok=True)


def uninstall() -> None:
    """Take :func:`install` back: BERT checkpoints load as BERT models again. The registered model type stays."""
    extra = _sequence_classification()._extra_content
    if extra.get(BertConfig) is MagicPyramidForSequenceClassification:
        del extra[BertConfig]


def attach(model: BertForSequenceClassification, **settings: Any) -> MagicPyramidForSequenceClassification:
    """Return a Magic Pyramid over a BERT classifier in memory. The parameters are shared, not copied.

    Args:
        model: stays usable as it is; device, dtype and training mode carry over.
        **settings: fields of :class:`MagicPyramidConfig`.

    Raises:
        mp_plugins.ArgumentError: ``model`` is not a BERT sequence classifier or a setting is out of range.
    """
    if isinstance(model, MagicPyramidForSequenceClassification) or type(model) is not BertForSequenceClassification:
        raise argument_error(
            "model",
            "must be a transformers.BertForSequenceClassification",
            f"a {type(model).__name__}",
            "load a BERT checkpoint with AutoModelForSequenceClassification; settings of a Magic Pyramid change "
            "with set_speed",
        )
    unknown = settings.keys() - MagicPyramidConfig.setting_names()
    if unknown:
        known = ", ".join(sorted(MagicPyramidConfig.setting_names()))
        raise argument_error("settings", f"must be among {known}", sorted(unknown), "see MagicPyramidConfig")
    config = MagicPyramidConfig.from_bert(model.config, **settings)
    # Built without memory: all of the backbone is replaced by the model's own modules.
    with torch.device("meta"):
        pyramid = MagicPyramidForSequenceClassification(config)
    _share(model, pyramid)
    own = [pyramid.internal_classifiers] + ([] if pyramid.token_pruner is None else [pyramid.token_pruner])
    for module in own:
        module.to_empty(device=model.device)
        module.to(model.dtype)
        module.apply(pyramid._init_weights)
    pyramid.train(model.training)
    # In a tuple, so that it does not become a submodule.
    pyramid.attached_to = (model,)
    return pyramid


def detach(model: MagicPyramidForSequenceClassification) -> BertForSequenceClassification:
    """Return the plain BERT classifier of a Magic Pyramid, sharing its parameters: the attached one, if it is one.

    Args:
        model: stays usable.

    Raises:
        mp_plugins.ArgumentError: ``model`` is not a Magic Pyramid.
    """
    if not isinstance(model, MagicPyramidForSequenceClassification):
        raise argument_error(
            "model", "must be a Magic Pyramid model", f"a {type(model).__name__}", "pass what attach() returned"
        )
    attached = getattr(model, "attached_to", None)
    if attached is not None:
        plain = attached[0]
    else:
        with torch.device("meta"):
            plain = BertForSequenceClassification(_plain_config(model.config))
        _share(model, plain)
    return plain.train(model.training)


def _share(source: BertForSequenceClassification, target: BertForSequenceClassification) -> None:
    for name in ("bert", "dropout", "classifier"):
        setattr(target, name, getattr(source, name))


def _plain_config(config: MagicPyramidConfig) -> BertConfig:
    fields = {
        name: value
        for name, value in copy.deepcopy(config).to_dict().items()
        if name not in MagicPyramidConfig.setting_names() and name not in ("model_type", "keys_to_ignore_at_inference")
    }
    return BertConfig(**fields)


def _sequence_classification() -> Any:
    # There is no public way back from a registration; transformers' own tests take this one too.
    return AutoModelForSequenceClassification._model_mapping
