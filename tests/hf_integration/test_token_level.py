"""The properties of heads that read every token, over all families."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoModelForQuestionAnswering, AutoModelForTokenClassification

import hf_integration
from mp_plugins import ArgumentError, UnsupportedError, load_registry

AUTO = {
    "Model": AutoModel,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForQuestionAnswering": AutoModelForQuestionAnswering,
}
KINDS = pytest.mark.parametrize("kind", sorted(AUTO))


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


def answers(output):
    """What a head says about each token, ``[batch, seq, ...]``."""
    if "start_logits" in output:
        return torch.stack((output["start_logits"], output["end_logits"]), dim=-1)
    return output["last_hidden_state" if "last_hidden_state" in output else "logits"]


@pytest.fixture(scope="session")
def make_kind(make_plain):
    made = {}

    def make(family, kind, dtype=torch.float32):
        if (family, kind, dtype) not in made:
            labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
            made[family, kind, dtype] = make_plain(family, kind, **labels).to(dtype)
        return made[family, kind, dtype]

    return make


@KINDS
@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_neutral_is_the_plain_model_at_live_tokens(make_kind, make_inputs, family, kind, execution):
    plain, batch = make_kind(family, kind), make_inputs(family, [9, 1, 17, 4])
    pyramid = hf_integration.attach(plain, execution=execution)
    live = batch["attention_mask"].bool()
    expected, received = run(plain, batch), run(pyramid, batch)
    torch.testing.assert_close(answers(received)[live], answers(expected)[live], atol=1e-5, rtol=0)
    assert received.tokens_kept.tolist() == [[length] * 4 for length in (9, 1, 17, 4)]
    if "pooler_output" in expected:
        torch.testing.assert_close(received.pooler_output, expected.pooler_output, atol=1e-5, rtol=0)


@KINDS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_neutral_in_half_precision_stays_close_to_the_plain_model(make_kind, make_inputs, family, kind, dtype):
    batch = make_inputs(family, [9, 1, 17, 4])
    live, exact = batch["attention_mask"].bool(), answers(run(make_kind(family, kind), batch))
    plain = make_kind(family, kind, dtype)
    expected, received = (answers(run(model, batch)) for model in (plain, hf_integration.attach(plain)))
    assert received.dtype == dtype
    # As far from the exact numbers as the plain model in this type, up to a factor for another order of rounding.
    error = (expected.float() - exact)[live].abs().max()
    assert (received.float() - exact)[live].abs().max() <= 3 * error


DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
CASE = {
    "family": st.sampled_from(sorted(load_registry("model_families"))),
    "kind": st.sampled_from(sorted(AUTO)),
    "lengths": st.lists(st.integers(1, 17), min_size=1, max_size=4),
    "seed": st.integers(0, 1000),
    "keep_threshold": st.lists(st.floats(0, 2), min_size=3, max_size=3),
}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(**CASE, dtype=DTYPES)
def test_masked_equals_compact(make_kind, make_inputs, family, kind, lengths, seed, keep_threshold, dtype):
    family = load_registry("model_families")[family]
    model = hf_integration.attach(make_kind(family, kind, dtype), keep_threshold=keep_threshold)
    batch = make_inputs(family, lengths, seed)
    compact, masked = run(model, batch, execution="compact"), run(model, batch, execution="masked")
    same = (compact.tokens_kept == masked.tokens_kept).all(1)
    if dtype == torch.float32:
        assert same.all()
        assert compact.flops.tolist() == masked.flops.tolist()
    # In half precision another order of sums rounds otherwise, and may decide otherwise at a threshold.
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(answers(compact)[same], answers(masked)[same], atol=tolerance, rtol=tolerance)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(**CASE, dtype=DTYPES)
def test_alone_equals_in_a_batch(make_kind, make_inputs, family, kind, lengths, seed, keep_threshold, dtype):
    family = load_registry("model_families")[family]
    model = hf_integration.attach(make_kind(family, kind, dtype), keep_threshold=keep_threshold)
    batch = make_inputs(family, lengths, seed)
    together = run(model, batch)
    for row, length in enumerate(lengths):
        alone = run(model, {name: values[row : row + 1, :length] for name, values in batch.items()})
        if dtype == torch.float32:
            assert alone.tokens_kept[0].tolist() == together.tokens_kept[row].tolist()
        # In half precision another shape rounds otherwise, and may decide otherwise at a threshold.
        elif alone.tokens_kept[0].tolist() != together.tokens_kept[row].tolist():
            continue
        tolerance = 1e-4 if dtype == torch.float32 else 0.15
        torch.testing.assert_close(answers(alone)[0], answers(together)[row, :length], atol=tolerance, rtol=tolerance)


def test_a_pruned_token_keeps_the_state_before_the_layer_that_dropped_it(make_kind, make_inputs, family):
    plain, batch = make_kind(family, "Model"), make_inputs(family, [12])
    states = run(plain, {**batch, "output_hidden_states": True}).hidden_states
    # Every token but [CLS] goes in layer 2: until then the states are those of the plain model.
    model = hf_integration.attach(plain, pruning_layers=[2], keep_threshold=1e9)
    output = run(model, batch)
    assert output.tokens_kept.tolist() == [[12, 1, 1, 1]]
    with torch.no_grad():
        before = family.final_norm(plain, states[1])
    torch.testing.assert_close(output.last_hidden_state[:, 1:], before[:, 1:], atol=1e-5, rtol=0)
    assert not torch.allclose(output.last_hidden_state[:, 0], before[:, 0], atol=1e-2)


@KINDS
def test_checkpoints_load_and_keep_their_settings(make_kind, make_inputs, family, kind, tmp_path):
    plain, batch = make_kind(family, kind), make_inputs(family, [9, 4])
    plain.save_pretrained(tmp_path / "plain")
    hf_integration.install()
    model = AUTO[kind].from_pretrained(tmp_path / "plain")
    hf_integration.uninstall()
    assert type(AUTO[kind].from_pretrained(tmp_path / "plain")) is type(plain)
    assert type(model) is type(hf_integration.attach(plain))
    model.token_pruner.keep_thresholds.data.fill_(0.7)
    model.save_pretrained(tmp_path / "saved")
    loaded = AUTO[kind].from_pretrained(tmp_path / "saved")
    assert type(loaded) is type(model)
    expected = run(model, batch)
    assert (expected.tokens_kept[:, 2] < torch.tensor([9, 4])).any()
    torch.testing.assert_close(answers(run(loaded, batch)), answers(expected))
    assert type(hf_integration.detach(loaded)) is type(plain)


def test_a_pruned_encoder_is_taken_from_a_trained_classifier(make_plain, make_inputs, family, tmp_path):
    classifier = hf_integration.attach(make_plain(family), exit_threshold=0.3)
    classifier.token_pruner.keep_thresholds.data.fill_(0.7)
    classifier.save_pretrained(tmp_path)
    with pytest.raises(ArgumentError, match=r"`exit_threshold` must be 0 .*, got 0.3: pass exit_threshold=0.0"):
        hf_integration.MagicPyramidModel.from_pretrained(tmp_path)
    encoder = hf_integration.MagicPyramidModel.from_pretrained(tmp_path, exit_threshold=0.0)
    assert encoder.token_pruner.keep_thresholds.tolist() == pytest.approx([0.7] * 3)
    batch = make_inputs(family, [12])
    assert run(encoder, batch).tokens_kept.tolist() == run(classifier, batch, exit_threshold=0.0).tokens_kept.tolist()


@KINDS
def test_exits_are_refused(make_kind, family, kind):
    plain = make_kind(family, kind)
    with pytest.raises(ArgumentError, match="`exit_threshold` must be 0 for a head that reads every token"):
        hf_integration.attach(plain, exit_threshold=0.1)
    with pytest.raises(ArgumentError, match="`max_layers` must be None for a head that reads every token"):
        hf_integration.attach(plain, max_layers=2)


@pytest.mark.parametrize("kind", ["ForTokenClassification", "ForQuestionAnswering"])
def test_losses_are_those_of_the_plain_model(make_kind, make_inputs, family, kind):
    plain = make_kind(family, kind)
    # Of one length: the plain model lets answers start at padding.
    batch = make_inputs(family, [7, 7, 7])
    if kind == "ForTokenClassification":
        batch["labels"] = torch.arange(21).view(3, 7) % 3
        batch["labels"][0, 2:4] = -100
    else:
        batch |= {"start_positions": torch.tensor([1, 7, 0]), "end_positions": torch.tensor([3, 2, 50])}
    expected, received = run(plain, batch).loss, run(hf_integration.attach(plain), batch).loss
    torch.testing.assert_close(received, expected, atol=1e-5, rtol=1e-5)


def test_bad_labels_are_named(make_kind, make_inputs, family):
    model = hf_integration.attach(make_kind(family, "ForTokenClassification"))
    batch = make_inputs(family, [4, 7])
    with pytest.raises(ArgumentError, match=r"`labels` must be whole numbers from 0 to 2, .*, got \[3\]"):
        model(**batch, labels=torch.full((2, 7), 3))
    with pytest.raises(ArgumentError, match=r"`labels` must have the shape \(2, 7\)"):
        model(**batch, labels=torch.zeros(2, dtype=torch.long))


def test_no_answer_starts_or_ends_at_padding(make_kind, make_inputs, family):
    model = hf_integration.attach(make_kind(family, "ForQuestionAnswering"), keep_threshold=0.8)
    batch = make_inputs(family, [3, 17])
    output = run(model, {**batch, "start_positions": torch.tensor([9, 4]), "end_positions": torch.tensor([1, 9])})
    assert output.start_logits[0].argmax() < 3
    # The answer that starts at padding is left out of the loss.
    assert 0 < output.loss < 100


@KINDS
def test_gradients_are_those_of_masked_execution(make_kind, make_inputs, kind):
    family = load_registry("model_families")["bert"]
    plain, batch = make_kind(family, kind), make_inputs(family, [9, 14])
    model = hf_integration.attach(plain, keep_threshold=0.7)
    gradients = []
    for execution in ("compact", "masked"):
        model.config.execution = execution
        model.zero_grad()
        answers(model(**batch))[batch["attention_mask"].bool()].square().sum().backward()
        gradients.append(model.base_model.encoder.layer[0].attention.self.value.weight.grad.clone())
    torch.testing.assert_close(*gradients, atol=1e-2, rtol=1e-3)


def test_soft_masks_have_gradients_for_the_thresholds(make_kind, make_inputs):
    plain = make_kind(load_registry("model_families")["bert"], "ForTokenClassification")
    model = hf_integration.attach(plain)
    batch = make_inputs(model.family, [9, 14])
    model(**batch, labels=torch.ones(2, 14, dtype=torch.long), soft_temperature=0.5).loss.backward()
    assert model.token_pruner.keep_thresholds.grad.abs().min() > 0


@KINDS
def test_speed_is_the_strength_of_pruning(make_kind, make_inputs, family, kind):
    model, batch = hf_integration.attach(make_kind(family, kind)), make_inputs(family, [12, 17])
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    spent = []
    for speed in (0.0, 0.3, 1.0):
        model.set_speed(speed)
        spent.append(run(model, batch).flops.sum().item())
    assert spent == sorted(spent, reverse=True)
    assert spent[-1] < spent[0]
    assert model.config.exit_threshold == 0
    with pytest.raises(UnsupportedError, match="set_speed"):
        model(**batch, output_hidden_states=True)
    model.set_speed(0.0)
    asking = {**batch, "output_hidden_states": True}
    # More than once, and through both: each state is recorded once.
    for asked in (model, hf_integration.detach(model), model):
        assert len(run(asked, asking).hidden_states) == 5


@KINDS
def test_operations_agree_with_torchs_counter(make_plain, make_inputs, count_flops, family, kind):
    labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
    model = hf_integration.attach(make_plain(family, kind, **labels), keep_threshold=0.7)
    # Texts of DeBERTa share what is computed of the distances.
    lengths = [13] if family.model_type == "deberta-v2" else [13, 6, 1]
    total, output = count_flops(model, make_inputs(family, lengths))
    assert output.flops.double().sum().item() == pytest.approx(total, rel=1e-6)
