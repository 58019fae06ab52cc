"""Inputs at the edges, and models that travel between heads, over all families."""

from __future__ import annotations

import math

import pytest
import torch

import hf_integration
from mp_plugins import ArgumentError

KINDS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "Model")
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
EXECUTIONS = pytest.mark.parametrize("execution", ["compact", "masked"])


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


@pytest.fixture
def make_model(make_plain):
    def make(family, kind, **settings):
        labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
        return hf_integration.attach(make_plain(family, kind, **labels), **settings)

    return make


@EVERY_KIND
@EXECUTIONS
def test_texts_of_one_token(make_model, make_inputs, family, kind, execution):
    model = make_model(family, kind, keep_threshold=0.9, execution=execution)
    output = run(model, make_inputs(family, [1, 1, 1]))
    assert output.tokens_kept.tolist() == [[1] * 4] * 3
    assert all(part.isfinite().all() for part in output.to_tuple())
    # As the plain model has it: there is nothing to prune.
    expected = run(hf_integration.detach(model), make_inputs(family, [1, 1, 1]))
    torch.testing.assert_close(output.to_tuple()[0], expected.to_tuple()[0], atol=1e-5, rtol=0)


@EVERY_KIND
@EXECUTIONS
def test_texts_without_a_token_are_refused_by_name(make_model, make_inputs, family, kind, execution):
    model, batch = make_model(family, kind, execution=execution), make_inputs(family, [4, 7, 3])
    mask = batch["attention_mask"]
    with pytest.raises(ArgumentError, match=r"`attention_mask` must leave .* none in the samples \[0, 1, 2\]: drop"):
        run(model, {**batch, "attention_mask": torch.zeros_like(mask)})
    with pytest.raises(ArgumentError, match=r"none in the samples \[1\]"):
        run(model, {**batch, "attention_mask": mask * torch.tensor([[1], [0], [1]])})
    for shape in ((2, 0), (0, 5), (0, 0)):
        with pytest.raises(ArgumentError, match="must leave at least one token to every sample"):
            run(model, {"input_ids": torch.zeros(shape, dtype=torch.long)})


@EVERY_KIND
def test_indices_out_of_range_are_named_before_they_are_looked_up(make_model, make_inputs, family, kind):
    model, batch = make_model(family, kind), make_inputs(family, [4, 7])
    for wrong in (-1, 99):
        ids = batch["input_ids"].clone()
        ids[1, 2] = wrong
        with pytest.raises(ArgumentError, match=rf"`input_ids` must be from 0 to 98, got .*{wrong}.*: use the token"):
            run(model, {**batch, "input_ids": ids})
    last = model.config.max_position_embeddings - 1
    positions = torch.arange(7)[None]
    run(model, {**batch, "position_ids": positions + last - 6})
    with pytest.raises(ArgumentError, match=rf"`position_ids` must be from 0 to {last}, got .* to {last + 1}: leave"):
        run(model, {**batch, "position_ids": positions + last - 5})


@EVERY_KIND
def test_a_text_may_fill_every_position_but_no_more(make_model, family, kind):
    model = make_model(family, kind, keep_threshold=0.5)
    run(model, {"input_ids": torch.full((1, 40), 5)})
    with pytest.raises(ArgumentError, match="`input_ids` must have at most 40 positions, got 41: truncate"):
        run(model, {"input_ids": torch.full((1, 41), 5)})


@EXECUTIONS
def test_one_broken_text_does_not_touch_the_others(make_model, make_plain, make_inputs, family, execution):
    model = make_model(family, "ForSequenceClassification", keep_threshold=0.7, exit_threshold=0.5)
    for head in model.internal_classifiers.heads:
        head.weight.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    batch = make_inputs(family, [5, 9, 7])
    embedded = {**batch, "inputs_embeds": make_plain(family).get_input_embeddings()(batch.pop("input_ids"))}
    embedded.pop("input_ids")
    expected = run(model, embedded, execution=execution)
    embedded["inputs_embeds"] = embedded["inputs_embeds"].detach().clone()
    embedded["inputs_embeds"][1, 2] = math.nan
    received = run(model, embedded)
    # It reaches the last layer with every token, and says that it is broken.
    assert received.exit_layer[1] == 4
    assert received.tokens_kept[1].tolist() == [9] * 4
    assert received.logits[1].isnan().all()
    for row in (0, 2):
        torch.testing.assert_close(received.logits[row], expected.logits[row], atol=1e-5, rtol=1e-5)
        assert received.exit_layer[row] == expected.exit_layer[row]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "Model"])
def test_a_pruned_base_model_gives_its_thresholds_to_every_head(make_plain, make_inputs, family, kind, tmp_path):
    base = hf_integration.attach(make_plain(family, "Model"), pruning_layers=[1, 3], keep_scale=0.5)
    base.token_pruner.keep_thresholds.data.copy_(torch.tensor([0.7, 1.4]))
    base.save_pretrained(tmp_path)
    labels = {"num_labels": 2} if kind == "ForQuestionAnswering" else {}
    head = getattr(hf_integration, f"MagicPyramid{kind}").from_pretrained(tmp_path, **labels)
    assert head.token_pruner.keep_thresholds.tolist() == pytest.approx([0.7, 1.4])
    assert (head.config.pruning_layers, head.config.keep_scale) == ([1, 3], 0.5)
    batch = make_inputs(family, [12, 17])
    kept = run(base, batch, keep_scale=1.0).tokens_kept
    assert (kept[:, 2] < torch.tensor([12, 17])).all()
    assert run(head, batch, keep_scale=1.0).tokens_kept[:, :3].tolist() == kept[:, :3].tolist()
    if kind == "ForSequenceClassification":
        # Classifiers that no checkpoint has trained let nobody leave.
        assert run(head, batch, exit_threshold=1.0).exit_layer.tolist() == [4, 4]
