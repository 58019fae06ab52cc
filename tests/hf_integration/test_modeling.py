from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments, pipeline

import hf_integration
from mp_plugins import ArgumentError, PluginError, UnsupportedError


@pytest.fixture
def tokenizer(save_tokenizer, tmp_path):
    return save_tokenizer(tmp_path, list("abcdefghij"), model_max_length=40)


@torch.no_grad()
def test_save_and_load_keep_parameters_and_settings(make_pyramid, make_batch, tmp_path):
    hf_integration.register()
    model = make_pyramid(exit_layers=[0, 2], pruning_layers=[1, 3])
    model.token_pruner.keep_thresholds.copy_(torch.tensor([0.3, 0.6]))
    model.internal_classifiers.heads[1].get_buffer("std").fill_(2.0)
    model.set_speed(exit_threshold=0.3)
    batch = make_batch([5, 16, 9, 11])
    expected = model(**batch)
    model.save_pretrained(tmp_path / "saved")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model)
    received = loaded(**batch)
    assert torch.equal(received.logits, expected.logits)
    assert received.exit_layer.tolist() == expected.exit_layer.tolist()
    assert received.tokens_kept.tolist() == expected.tokens_kept.tolist()
    assert loaded.config.exit_threshold == 0.3


def test_a_bert_checkpoint_loads_neutral(make_bert, make_batch, tmp_path):
    bert = make_bert()
    bert.save_pretrained(tmp_path)
    model = hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path)
    assert not model.token_pruner.keep_thresholds.any()
    for head in model.internal_classifiers.heads:
        assert not head.weight.any()
        assert not head.get_buffer("mean").any()
        assert (head.get_buffer("std") == 1).all()
    batch = make_batch([4, 13])
    torch.testing.assert_close(model(**batch).logits, bert(**batch).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_speed_zero_is_the_plain_model_and_one_the_fastest(make_pyramid, make_batch):
    model = make_pyramid()
    model.token_pruner.keep_thresholds.fill_(0.8)
    batch = make_batch([5, 16, 9, 11])
    plain = hf_integration.detach(model)(**batch)
    spent = []
    for speed in (0.0, 0.1, 0.3, 1.0):
        model.set_speed(speed)
        output = model(**batch)
        spent.append(output.flops.sum().item())
        if speed == 0.0:
            torch.testing.assert_close(output.logits, plain.logits, atol=1e-5, rtol=0)
    assert spent == sorted(spent, reverse=True)
    assert output.exit_layer.tolist() == [0, 0, 0, 0]
    model.set_speed(0.0)
    assert model.config.speed == 0.0


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"speed": 2}, "speed"),
        ({"exit_threshold": -1}, "exit_threshold"),
        ({"keep_threshold": -1.0}, "keep_threshold"),
        ({"keep_threshold": [0.1]}, "keep_threshold"),
        ({"max_layers": 9}, "max_layers"),
        ({"speed": 0.5, "max_layers": 9}, "max_layers"),
    ],
)
def test_a_refused_speed_changes_nothing(make_pyramid, change, argument):
    model = make_pyramid(exit_threshold=0.1)
    before = model.config.to_dict()
    with pytest.raises(ArgumentError, match=f"`{argument}`"):
        model.set_speed(**change)
    assert model.config.to_dict() == before


def test_max_layers_needs_trained_classifiers(make_pyramid, make_batch):
    model = make_pyramid(trained=False)
    with pytest.raises(ArgumentError, match="whose internal classifier is trained"):
        model.set_speed(max_layers=2)
    model.config.max_layers = 2
    with pytest.raises(ArgumentError, match="whose internal classifier is trained"):
        model(**make_batch([3]))


def test_keep_threshold_returns_to_the_learned_one(make_pyramid):
    model = make_pyramid()
    model.token_pruner.keep_thresholds.data.fill_(0.4)
    model.set_speed(keep_threshold=0.9)
    assert model.token_pruner.effective_thresholds().tolist() == pytest.approx([0.9] * 3)
    model.set_speed(keep_threshold="learned")
    assert model.token_pruner.effective_thresholds().tolist() == pytest.approx([0.4] * 3)


def test_bad_inputs_are_named(make_pyramid, make_batch):
    model = make_pyramid()
    batch = make_batch([4, 2])
    emptied = {**batch, "attention_mask": batch["attention_mask"] * torch.tensor([[1], [0]])}
    with pytest.raises(ArgumentError, match=r"`attention_mask` must leave .* none in the samples \[1\]"):
        model(**emptied)
    with pytest.raises(ArgumentError, match="`attention_mask` must have the shape"):
        model(**{**batch, "attention_mask": torch.ones(2, 1, 4, 4)})
    with pytest.raises(ArgumentError, match="`token_type_ids` must have the shape"):
        model(**{**batch, "token_type_ids": torch.zeros(2, 3, dtype=torch.long)})
    with pytest.raises(ArgumentError, match="`input_ids` or `inputs_embeds` must be given"):
        model(attention_mask=batch["attention_mask"])
    with pytest.raises(ArgumentError, match="`input_ids` must not be given together"):
        model(**batch, inputs_embeds=torch.zeros(2, 4, 32))
    with pytest.raises(ArgumentError, match="`input_ids` must have the shape"):
        model(input_ids=torch.ones(4, dtype=torch.long))
    with pytest.raises(ArgumentError, match="at most 40 positions, got 41"):
        model(input_ids=torch.ones(1, 41, dtype=torch.long))
    with pytest.raises(ArgumentError, match="at least one token"):
        model(input_ids=torch.ones(0, 4, dtype=torch.long))


def test_unknown_names_list_the_known_ones(make_pyramid):
    with pytest.raises(PluginError, match=r"unknown exit .*psychic.: known names are .*entropy"):
        make_pyramid(exit_criterion="psychic")
    with pytest.raises(PluginError, match=r"unknown token pruner .psychic.: known names are .*attention"):
        make_pyramid(token_pruner="psychic")  # noqa: S106 - not a password


def test_states_are_those_of_bert_or_refused(make_pyramid, make_bert, make_batch):
    bert = make_bert(attn_implementation="eager")
    batch = make_batch([4, 7])
    model = hf_integration.attach(bert)
    expected = bert(**batch, output_hidden_states=True, output_attentions=True)
    received = model(**batch, output_hidden_states=True, output_attentions=True)
    for name in ("hidden_states", "attentions"):
        for ours, theirs in zip(received[name], expected[name], strict=True):
            assert torch.equal(ours, theirs)
    model.set_speed(exit_threshold=0.5)
    with pytest.raises(UnsupportedError, match="set_speed"):
        model(**batch, output_hidden_states=True)


def test_tuples_on_request(make_pyramid, make_batch):
    model = make_pyramid()
    logits, exit_layer, tokens_kept, flops = model(**make_batch([4, 7]), return_dict=False)
    assert (logits.shape, exit_layer.shape, tokens_kept.shape, flops.shape) == ((2, 3), (2,), (2, 4), (2,))


@pytest.mark.parametrize(
    ("fields", "labels", "problem"),
    [
        ({}, torch.tensor([0, 2]), "single_label_classification"),
        ({}, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), "multi_label_classification"),
        ({"num_labels": 1}, torch.tensor([0.5, -1.0]), "regression"),
        ({"num_labels": 2, "problem_type": "regression"}, torch.tensor([[0.5, 1.0], [0.0, 1.0]]), "regression"),
    ],
)
def test_losses_are_those_of_bert(make_bert, make_batch, fields, labels, problem):
    bert = make_bert(**fields)
    model = hf_integration.attach(bert)
    batch = make_batch([4, 7])
    torch.testing.assert_close(model(**batch, labels=labels).loss, bert(**batch, labels=labels).loss)
    assert model.config.problem_type == problem


@torch.no_grad()
def test_multi_label_heads_leave_by_their_least_certain_label(make_pyramid, make_batch):
    model = make_pyramid(problem_type="multi_label_classification", exit_layers=[1], exit_threshold=0.5)
    head = model.internal_classifiers.heads[0]
    head.weight.zero_()
    head.bias.copy_(torch.tensor([20.0, -20.0, 20.0]))
    assert model(**make_batch([4])).exit_layer.tolist() == [1]
    head.bias[1] = 0.0
    assert model(**make_batch([4])).exit_layer.tolist() == [4]


def test_gradients_reach_the_weights_through_compact_execution(make_pyramid, make_batch):
    model = make_pyramid(keep_threshold=0.7)
    gradients = []
    for execution in ("compact", "masked"):
        model.config.execution = execution
        model.zero_grad()
        model(**make_batch([9, 14]), labels=torch.tensor([0, 1])).loss.backward()
        gradients.append(model.bert.encoder.layer[0].attention.self.value.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)


def test_nobody_leaves_in_training_mode(make_pyramid, make_batch):
    model = make_pyramid(exit_threshold=1.0).train()
    assert model(**make_batch([4, 6])).exit_layer.tolist() == [4, 4]


@pytest.mark.parametrize("settings", [{}, {"exit_threshold": 0.3, "keep_threshold": 0.5}])
def test_pipeline(make_pyramid, tokenizer, settings):
    model = make_pyramid(id2label={0: "no", 1: "yes", 2: "maybe"}, **settings)
    classify = pipeline("text-classification", model=model, tokenizer=tokenizer, device="cpu")
    found = classify(["a b c", "j", "d e f g h i j a b"], batch_size=2)
    assert {answer["label"] for answer in found} <= {"no", "yes", "maybe"}
    alone = [classify(text)[0] for text in ("a b c", "j", "d e f g h i j a b")]
    assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in alone], abs=1e-4)


@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_pairs_keep_both_segments_apart(make_bert, make_pyramid, save_tokenizer, tmp_path, execution):
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    tokenizer = save_tokenizer(tmp_path, list("abcdefghij"), model_max_length=40, model_input_names=inputs)
    first, second = ["a b c", "j", "d e f g h i j a b"], ["b", "c d e f g h", "a"]
    batch = tokenizer(first, second, padding=True, return_tensors="pt")
    assert batch["token_type_ids"].sum(1).tolist() == [2, 7, 2]
    lengths = batch["attention_mask"].sum(1).tolist()
    bert = make_bert()
    with torch.no_grad():
        neutral = hf_integration.attach(bert, execution=execution)
        torch.testing.assert_close(neutral(**batch).logits, bert(**batch).logits, atol=1e-5, rtol=0)
        # Of each text: [CLS] and two separators, and of the words those that matter.
        pruned = make_pyramid(execution=execution, protected_token_ids=[tokenizer.sep_token_id], keep_threshold=0.9)
        found = pruned(**batch)
        swapped = pruned(**{**batch, "token_type_ids": batch["attention_mask"] - batch["token_type_ids"]})
        pruned.config.keep_threshold = 1e9
        least = pruned(**batch)
    assert least.tokens_kept[:, :3].tolist() == [[3] * 3] * 3
    assert all(3 <= kept <= length for kept, length in zip(found.tokens_kept[:, 2].tolist(), lengths, strict=True))
    assert found.tokens_kept[:, 2].sum() < sum(lengths)
    # What is left after pruning still tells which segment it is of.
    assert (found.logits - swapped.logits).abs().amax(1).min() > 1e-3
    classify = pipeline("text-classification", model=pruned, tokenizer=tokenizer, device="cpu")
    pairs = [{"text": text, "text_pair": other} for text, other in zip(first, second, strict=True)]
    scores = [answer["score"] for answer in classify(pairs, batch_size=3)]
    assert scores == pytest.approx(least.logits.softmax(-1).amax(1).tolist(), abs=1e-5)


def test_plain_trainer_evaluates(make_pyramid, make_batch, tmp_path):
    model = make_pyramid(exit_threshold=0.3, keep_threshold=0.5)
    rows = [{"input_ids": list(range(1, n)), "attention_mask": [1] * (n - 1), "labels": n % 3} for n in range(3, 12)]
    arguments = TrainingArguments(
        str(tmp_path), per_device_eval_batch_size=4, report_to="none", use_cpu=True, disable_tqdm=True
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        data_collator=lambda batch: _pad(batch),
        compute_metrics=lambda outcome: {"rows": outcome.predictions.shape},
    )
    metrics = trainer.evaluate(rows)
    # Only the logits are gathered: exit layers, counts and operations are ignored at inference.
    assert metrics["eval_rows"] == (9, 3)
    assert metrics["eval_loss"] > 0


def _pad(batch):
    longest = max(len(row["input_ids"]) for row in batch)
    padded = {
        name: torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in batch])
        for name in ("input_ids", "attention_mask")
    }
    return {**padded, "labels": torch.tensor([row["labels"] for row in batch])}
