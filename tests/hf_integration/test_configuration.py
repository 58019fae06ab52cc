from __future__ import annotations

import json
import logging

import pytest
from transformers import (
    AlbertConfig,
    BertConfig,
    DebertaConfig,
    DistilBertConfig,
    GPT2Config,
    T5Config,
)

from hf_integration import MagicPyramidConfig, MagicPyramidForSequenceClassification
from mp_plugins import ArgumentError, UnsupportedError


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exit_threshold", -0.1),
        ("exit_threshold", 1.5),
        ("exit_threshold", float("nan")),
        ("exit_threshold", "high"),
        ("exit_layers", [0, 12]),
        ("exit_layers", [1, 1]),
        ("exit_layers", [0.5]),
        ("exit_criterion", 3),
        ("token_pruner", 3),
        ("pruning_layers", [0]),
        ("pruning_layers", [12]),
        ("keep_threshold", -1.0),
        ("keep_threshold", float("inf")),
        ("keep_threshold", float("nan")),
        ("keep_threshold", [0.1, 0.2]),
        ("keep_rate", 0),
        ("keep_rate", 1.5),
        ("keep_rate", [0.5, 0.4]),
        ("protected_token_ids", [-1]),
        ("protected_token_ids", [30522]),
        ("keep_scale", 2),
        ("max_layers", 13),
        ("max_layers", -1),
        ("max_layers", True),
        ("execution", "fast"),
        ("speed", 1.01),
        ("settings_version", "1"),
    ],
)
def test_what_is_out_of_range_is_named_with_rule_value_and_remedy(field, value):
    with pytest.raises(ArgumentError, match=rf"^`{field}` must be .*, got .*: .+"):
        MagicPyramidConfig(**{field: value})


def test_max_layers_needs_a_classifier_there():
    assert MagicPyramidConfig(exit_layers=[2, 6], max_layers=6).max_layers == 6
    with pytest.raises(ArgumentError, match=r"one of \[2, 6, 12\], got 4"):
        MagicPyramidConfig(exit_layers=[2, 6], max_layers=4)


def test_a_regression_head_has_no_exit_threshold():
    with pytest.raises(ArgumentError, match="regression head"):
        MagicPyramidConfig(num_labels=1, exit_threshold=0.1)


@pytest.mark.parametrize("fields", [{"is_decoder": True}, {"position_embedding_type": "relative_key"}])
def test_other_architectures_are_refused(fields):
    with pytest.raises(UnsupportedError, match=r"supports plain encoders, got .*: use an encoder"):
        MagicPyramidConfig(**fields)


def test_speed_stands_for_both_settings():
    config = MagicPyramidConfig(speed=0.2)
    assert (config.exit_threshold, config.keep_scale) == (0.2, 0.4)
    assert MagicPyramidConfig(speed=0.2, keep_scale=1.0).keep_scale == 1.0
    assert MagicPyramidConfig(speed=0).exit_threshold == 0


def test_a_plain_bert_checkpoint_is_taken_without_a_warning(tmp_path, caplog):
    bert = BertConfig(id2label={0: "no", 1: "yes", 2: "maybe"}, problem_type="multi_label_classification")
    bert.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        config = MagicPyramidConfig.from_pretrained(tmp_path, exit_threshold=0.3)
    assert caplog.records == []
    assert config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert config.problem_type == "multi_label_classification"
    assert config.exit_threshold == 0.3
    assert config.model_type == "magic_pyramid"


def test_settings_given_to_from_pretrained_are_checked_too(tmp_path):
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="`exit_threshold`"):
        MagicPyramidConfig.from_pretrained(tmp_path, exit_threshold=7)


@pytest.mark.parametrize("plain", [DebertaConfig, T5Config, GPT2Config])
def test_other_families_are_refused_with_the_reason(tmp_path, plain):
    plain().save_pretrained(tmp_path)
    expected = rf"one of the types albert, bert, .*, got model type '{plain.model_type}': (its?|no plug-in) .*; pass"
    for make in (MagicPyramidConfig.from_pretrained, MagicPyramidForSequenceClassification.from_pretrained):
        with pytest.raises(ArgumentError, match=expected):
            make(tmp_path)


def test_albert_with_several_layers_in_a_group_is_refused(tmp_path):
    AlbertConfig(inner_group_num=2).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedError, match="inner_group_num=2"):
        MagicPyramidConfig.from_pretrained(tmp_path)


def test_a_model_of_a_newer_release_is_refused_with_the_remedy(tmp_path):
    MagicPyramidConfig().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    stored = json.loads(path.read_text())
    assert stored["settings_version"] == 1
    # What a field of the future might look like; it alone is no reason to refuse.
    path.write_text(json.dumps({**stored, "merge_layers": [1]}))
    assert MagicPyramidConfig.from_pretrained(tmp_path).exit_threshold == 0
    path.write_text(json.dumps({**stored, "settings_version": 2}))
    with pytest.raises(UnsupportedError, match=r"version 2, this release knows 1. Upgrade magic-pyramid"):
        MagicPyramidConfig.from_pretrained(tmp_path)


def test_the_class_of_one_family_refuses_another(tmp_path):
    DistilBertConfig().save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match="must be a checkpoint of type 'bert', got model type 'distilbert'"):
        type(MagicPyramidConfig()).from_pretrained(tmp_path)


def test_round_trip_keeps_every_field(tmp_path):
    fields = {
        "exit_layers": [0, 3],
        "exit_threshold": 0.2,
        "exit_criterion": "confidence",
        "pruning_layers": [2, 5],
        "keep_threshold": [0.1, 0.4],
        "keep_scale": 0.5,
        "max_layers": 3,
        "execution": "masked",
        "speed": None,
        "num_labels": 5,
    }
    MagicPyramidConfig(**fields).save_pretrained(tmp_path)
    config = MagicPyramidConfig.from_pretrained(tmp_path)
    assert {name: getattr(config, name) for name in fields} == fields


def test_updating_leaves_the_original_alone():
    config = MagicPyramidConfig()
    assert config.updated({"exit_threshold": 0.5}).exit_threshold == 0.5
    with pytest.raises(ArgumentError):
        config.updated({"exit_threshold": 5})
    assert config.exit_threshold == 0.0
