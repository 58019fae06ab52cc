"""Models with prepacked weights: same answers, ordinary checkpoints, clear refusals."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

import hf_integration
from hf_integration.prepacking import PrepackedLinear, is_prepacked
from mp_plugins import ArgumentError, ArgumentTypeError, UnsupportedError

LENGTHS = [12, 17, 9, 4, 8, 1]


def answers(model, batch):
    with torch.no_grad():
        return model(**batch)


@given(
    leading=st.sampled_from([(), (1,), (0,), (5,), (2, 3), (1, 0), (2, 1, 33)]),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 70),
    bias=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(max_examples=60, deadline=None)
def test_a_prepacked_map_is_the_map(leading, inputs, outputs, bias, seed):
    generator = torch.Generator().manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias).requires_grad_(False)
    states = torch.randn((*leading, inputs), generator=generator)
    packed = PrepackedLinear(linear)
    expected = (states.double() @ linear.weight.T.double() + (linear.bias if bias else 0.0)).float()
    torch.testing.assert_close(packed(states), expected, atol=1e-5, rtol=1e-5)
    # Every second column, as a view.
    wide = torch.randn((*leading, 2 * inputs), generator=generator)[..., ::2]
    torch.testing.assert_close(packed(wide), linear(wide), atol=1e-5, rtol=1e-5)
    assert packed.weight.equal(linear.weight)
    assert repr(packed).removeprefix("Prepacked") == repr(linear)


@pytest.mark.parametrize("execution", ["compact", "masked"])
@pytest.mark.parametrize("kind", ["Model", "ForSequenceClassification", "ForTokenClassification"])
def test_answers_of_every_family_stay(make_plain, make_inputs, family, kind, execution):
    plain, batch = make_plain(family, kind), make_inputs(family, LENGTHS)
    pyramid = hf_integration.attach(plain, execution=execution, keep_threshold=0.7)
    for model in (plain, pyramid):
        packed, expected = hf_integration.prepack(model), answers(model, batch)
        assert not any(type(module) is nn.Linear for module in packed.modules())
        received = answers(packed, batch)
        torch.testing.assert_close(received[0], expected[0], atol=1e-5, rtol=1e-4)
        if model is pyramid:
            assert received.tokens_kept.equal(expected.tokens_kept)
            assert received.flops.equal(expected.flops)


def test_exits_and_settings_stay(make_pyramid, make_batch):
    model, batch = make_pyramid(exit_threshold=0.25, keep_threshold=0.8), make_batch(LENGTHS)
    packed, expected = hf_integration.prepack(model), answers(model, batch)
    received = answers(packed, batch)
    assert len(set(received.exit_layer.tolist())) > 1
    assert received.exit_layer.equal(expected.exit_layer)
    torch.testing.assert_close(received.logits, expected.logits, atol=1e-5, rtol=1e-4)
    packed.set_speed(0.0)
    assert set(answers(packed, batch).exit_layer.tolist()) == {4}
    # The other one is a model of its own, and trains as before.
    assert answers(model, batch).exit_layer.equal(expected.exit_layer)
    model.train()(**batch, labels=torch.zeros(6, dtype=torch.long)).loss.backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


def test_the_plain_model_of_a_prepacked_one_is_prepacked(make_bert, make_batch):
    plain, batch = make_bert(), make_batch(LENGTHS)
    packed = hf_integration.prepack(hf_integration.attach(plain))
    detached = hf_integration.detach(packed)
    assert is_prepacked(detached)
    assert not is_prepacked(plain)
    torch.testing.assert_close(answers(detached, batch).logits, answers(plain, batch).logits, atol=1e-5, rtol=1e-4)
    again = hf_integration.attach(detached)
    torch.testing.assert_close(answers(again, batch).logits, answers(plain, batch).logits, atol=1e-5, rtol=1e-4)


def test_copies_and_pickles(make_pyramid, make_batch):
    packed, batch = hf_integration.prepack(make_pyramid(exit_threshold=0.25)), make_batch(LENGTHS)
    for made in (copy.deepcopy(packed), pickle.loads(pickle.dumps(packed))):  # noqa: S301 - what was just written
        assert is_prepacked(made)
        assert answers(made, batch).logits.equal(answers(packed, batch).logits)


@pytest.mark.parametrize(
    ("auto", "kind"),
    [
        (AutoModelForSequenceClassification, "ForSequenceClassification"),
        (AutoModelForTokenClassification, "ForTokenClassification"),
    ],
)
def test_what_is_saved_is_an_ordinary_checkpoint(make_plain, make_inputs, family, auto, kind, tmp_path):
    model = hf_integration.attach(make_plain(family, kind), keep_threshold=0.7)
    hf_integration.prepack(model).save_pretrained(tmp_path)
    loaded = auto.from_pretrained(tmp_path).eval()
    batch = make_inputs(family, LENGTHS)
    assert not is_prepacked(loaded)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert answers(loaded, batch)[0].equal(answers(model, batch)[0])


def test_state_is_loaded_as_by_a_linear_map(make_pyramid, make_batch):
    model, other, batch = make_pyramid(), make_pyramid(), make_batch(LENGTHS)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.9)
    packed = hf_integration.prepack(model)
    assert not packed.load_state_dict(other.state_dict()).missing_keys
    torch.testing.assert_close(answers(packed, batch).logits, answers(other, batch).logits, atol=1e-5, rtol=1e-4)
    model.load_state_dict(packed.state_dict())
    assert answers(model, batch).logits.equal(answers(other, batch).logits)


def test_state_that_does_not_fit_is_refused_as_by_a_linear_map():
    packed = PrepackedLinear(nn.Linear(4, 3))
    before = packed.weight
    with pytest.raises(RuntimeError, match=r"Missing key.*weight"):
        packed.load_state_dict({"bias": torch.zeros(3)})
    with pytest.raises(RuntimeError, match=r"Unexpected key.*scale"):
        packed.load_state_dict({**packed.state_dict(), "scale": torch.zeros(3)})
    with pytest.raises(RuntimeError, match=r"weight is of shape \(3, 5\), not \(3, 4\)"):
        packed.load_state_dict({"weight": torch.zeros(3, 5), "bias": torch.zeros(3)})
    assert packed.weight.equal(before)


def test_elsewhere_it_computes_as_any_model(make_pyramid, make_batch):
    model, batch = make_pyramid(exit_threshold=0.25), make_batch(LENGTHS)
    packed = hf_integration.prepack(model)
    expected = answers(copy.deepcopy(model).bfloat16(), batch).logits
    assert answers(packed.bfloat16(), batch).logits.equal(expected)
    assert not is_prepacked(packed)
    assert is_prepacked(packed.float())
    assert answers(packed, batch).logits.dtype == torch.float32


def test_moved_to_where_it_is_the_panels_stay(make_pyramid):
    packed = hf_integration.prepack(make_pyramid())
    panels = packed.classifier.panels
    assert packed.to("cpu").float().classifier.panels is panels


def test_autocast(make_pyramid, make_batch):
    model, batch = make_pyramid(), make_batch(LENGTHS)
    with torch.autocast("cpu", torch.bfloat16):
        received = answers(hf_integration.prepack(model), batch).logits
    exact, usual = answers(model, batch).logits, answers(copy.deepcopy(model).bfloat16(), batch).logits
    assert (received.float() - exact).norm() <= 2 * (usual.float() - exact).norm()


def test_what_changes_a_linear_map_from_outside_stays():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)).eval()
    model[0].register_forward_hook(lambda module, inputs, output: output + 1)
    nn.utils.parametrizations.weight_norm(model[1])
    forward = model[2].forward
    model[2].forward = lambda states: forward(states) * 2
    states = torch.randn(3, 4)
    packed = hf_integration.prepack(model)
    assert [isinstance(module, PrepackedLinear) for module in packed] == [False, False, False, True]
    with torch.no_grad():
        torch.testing.assert_close(packed(states), model(states))


def test_gradients_are_refused(make_pyramid, make_batch):
    packed = hf_integration.prepack(make_pyramid())
    # Nothing in it takes gradients, so a call outside of no_grad is no mistake.
    assert not packed(**make_batch(LENGTHS)).logits.requires_grad
    embedded = torch.randn(1, 5, 32, requires_grad=True)
    with pytest.raises(UnsupportedError, match=r"no gradients.*no_grad"):
        packed(inputs_embeds=embedded)


def test_graphs_are_made_of_other_models(make_pyramid, make_batch):
    model, batch = make_pyramid(), make_batch(LENGTHS)
    packed = hf_integration.prepack(model)
    with pytest.raises(UnsupportedError, match="export the model that it was made from"):
        torch.export.export(packed, (), batch)
    # Compiled, its products stay outside.
    plain = hf_integration.prepack(hf_integration.detach(model))
    received = answers(torch.compile(plain, backend="eager"), batch)
    torch.testing.assert_close(received.logits, answers(plain, batch).logits, atol=1e-5, rtol=1e-4)


def test_a_speed_measured_without_prepacked_weights_does_not_hold(make_pyramid, make_batch):
    model, batch = make_pyramid(), make_batch(LENGTHS)
    model.set_budget(ms=1e6, data=batch)
    packed = hf_integration.prepack(model)
    with pytest.raises(ArgumentError, match="other prepacked than"):
        packed.set_budget(ms=1e6)
    packed.set_budget(flops=1e12)
    packed.set_budget(ms=1e6, data=batch)
    packed.set_budget(ms=1e6)


def test_what_cannot_be_prepacked_is_refused(make_pyramid):
    model = make_pyramid()
    with pytest.raises(ArgumentError, match=r"`model` must have linear maps.*got none"):
        hf_integration.prepack(hf_integration.prepack(model))
    with pytest.raises(ArgumentError, match=r"float32 on a CPU, got torch.bfloat16 on cpu: call model.float"):
        hf_integration.prepack(copy.deepcopy(model).bfloat16())
    with pytest.raises(ArgumentTypeError, match=r"`model` must be a torch.nn.Module, got a str"):
        hf_integration.prepack("bert-base-uncased")
