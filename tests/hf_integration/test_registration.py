from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    BertForNextSentencePrediction,
    BertForSequenceClassification,
)

import hf_integration
from mp_plugins import ArgumentError


@pytest.fixture
def checkpoint(make_bert, tmp_path):
    make_bert(id2label={0: "no", 1: "yes", 2: "maybe"}).save_pretrained(tmp_path)
    return tmp_path


def load(checkpoint):
    return AutoModelForSequenceClassification.from_pretrained(checkpoint)


def ours_on_plain(mapping):
    return [config for config in mapping if not issubclass(config, hf_integration.MagicPyramidConfig)]


def test_registering_twice_and_loading_with_our_configuration(checkpoint):
    hf_integration.register()
    hf_integration.register()
    config = hf_integration.MagicPyramidConfig.from_pretrained(checkpoint)
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint, config=config)
    assert isinstance(model, hf_integration.MagicPyramidForSequenceClassification)
    assert isinstance(AutoConfig.for_model("magic_pyramid"), hf_integration.MagicPyramidConfig)


def test_installing_and_uninstalling(checkpoint, make_batch):
    before = AutoModelForSequenceClassification._model_mapping._extra_content.copy()
    plain = load(checkpoint)
    assert type(plain) is BertForSequenceClassification
    hf_integration.install()
    hf_integration.install()
    model = load(checkpoint)
    assert isinstance(model, hf_integration.MagicPyramidForSequenceClassification)
    assert isinstance(model.config, hf_integration.MagicPyramidConfig)
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    batch = make_batch([4, 9])
    torch.testing.assert_close(model(**batch).logits, plain(**batch).logits, atol=1e-5, rtol=0)
    hf_integration.uninstall()
    hf_integration.uninstall()
    assert type(load(checkpoint)) is BertForSequenceClassification
    assert not ours_on_plain(before)
    assert not ours_on_plain(AutoModelForSequenceClassification._model_mapping._extra_content)


def test_uninstalling_leaves_the_registration_of_others_alone():
    config = type(BertForSequenceClassification.config_class())
    extra = AutoModelForSequenceClassification._model_mapping._extra_content
    extra[config] = BertForSequenceClassification
    try:
        hf_integration.uninstall()
        assert extra[config] is BertForSequenceClassification
    finally:
        del extra[config]


def test_attaching_shares_parameters_and_detaching_gives_the_model_back(make_bert):
    bert = make_bert().double().train()
    shared = dict(bert.named_parameters())
    pyramid = hf_integration.attach(bert, exit_threshold=0.1, keep_threshold=0.2)
    assert all(pyramid.get_parameter(name) is parameter for name, parameter in shared.items())
    assert {parameter.dtype for parameter in pyramid.parameters()} == {torch.float64}
    assert {tensor.device for tensor in pyramid.state_dict().values()} == {bert.device}
    assert pyramid.training
    assert pyramid.config.exit_threshold == 0.1
    assert type(bert) is BertForSequenceClassification
    pyramid.eval()
    assert hf_integration.detach(pyramid) is bert
    assert not bert.training
    assert type(bert.config).__name__ == "BertConfig"


def test_detaching_a_loaded_model_gives_a_plain_one(make_pyramid, make_batch, tmp_path):
    model = make_pyramid(id2label={0: "no", 1: "yes", 2: "maybe"})
    plain = hf_integration.detach(model)
    assert type(plain) is BertForSequenceClassification
    assert plain.get_parameter("classifier.weight") is model.get_parameter("classifier.weight")
    assert plain.config.model_type == "bert"
    assert plain.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert not hasattr(plain.config, "exit_threshold")
    batch = make_batch([4, 9])
    torch.testing.assert_close(plain(**batch).logits, model(**batch).logits, atol=1e-5, rtol=0)
    plain.save_pretrained(tmp_path)
    assert type(load(tmp_path)) is BertForSequenceClassification


@pytest.mark.parametrize("settings", [{"exit_threshold": 2}, {"exit_treshold": 0.1}, {"num_hidden_layers": 3}])
def test_a_failing_attach_leaves_the_model_untouched(make_bert, settings):
    bert = make_bert()
    before, config = dict(bert.named_modules()), bert.config.to_dict()
    with pytest.raises(ArgumentError):
        hf_integration.attach(bert, **settings)
    assert dict(bert.named_modules()) == before
    assert bert.config.to_dict() == config


def test_what_cannot_be_attached_or_detached_is_named(make_bert, make_pyramid):
    with pytest.raises(ArgumentError, match=r"`model` must be a plain .*, got a BertForNextSentencePrediction"):
        hf_integration.attach(BertForNextSentencePrediction(make_bert().config))
    with pytest.raises(ArgumentError, match="got a MagicPyramidBertForSequenceClassification"):
        hf_integration.attach(make_pyramid())
    with pytest.raises(ArgumentError, match="`model` must be a Magic Pyramid model"):
        hf_integration.detach(make_bert())
