"""The properties that hold the executions together: neutral = BERT, masked = compact, alone = in a batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hf_integration

LENGTHS = st.lists(st.integers(1, 17), min_size=1, max_size=6)


def run(model, batch, **changes):
    for name, value in changes.items():
        setattr(model.config, name, value)
    with torch.no_grad():
        return model(**batch)


@pytest.mark.parametrize("execution", ["compact", "masked"])
@pytest.mark.parametrize("fields", [{}, {"num_hidden_layers": 1}, {"num_labels": 1}, {"token_pruner": None}])
def test_neutral_model_gives_the_logits_of_bert(make_bert, make_batch, execution, fields):
    settings_of_bert = {name: value for name, value in fields.items() if name != "token_pruner"}
    bert = make_bert(**settings_of_bert)
    batch = make_batch([9, 1, 17, 4])
    pyramid = hf_integration.attach(
        bert, execution=execution, **({"token_pruner": None} if "token_pruner" in fields else {})
    )
    expected, received = run(bert, batch), run(pyramid, batch)
    torch.testing.assert_close(received.logits, expected.logits, atol=1e-5, rtol=0)
    layers = bert.config.num_hidden_layers
    assert received.exit_layer.tolist() == [layers] * 4
    assert received.tokens_kept.tolist() == [[length] * layers for length in (9, 1, 17, 4)]


def test_neutral_model_takes_positions_holes_and_embeddings_as_bert_does(make_bert, make_batch):
    bert = make_bert()
    pyramid = hf_integration.attach(bert)
    batch = make_batch([12, 7])
    batch["attention_mask"][0, 3:6] = 0
    batch["position_ids"] = torch.arange(20, 32)[None]
    embedded = {**batch, "inputs_embeds": bert.bert.embeddings.word_embeddings(batch["input_ids"]), "input_ids": None}
    for inputs in (batch, embedded):
        torch.testing.assert_close(run(pyramid, inputs).logits, run(bert, inputs).logits, atol=1e-5, rtol=0)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 1000),
    keep_threshold=st.lists(st.floats(0, 2), min_size=3, max_size=3),
    exit_threshold=st.floats(0, 1),
    max_layers=st.sampled_from([None, 0, 2, 3, 4]),
    criterion=st.sampled_from(["entropy", "confidence"]),
)
def test_masked_equals_compact(make_pyramid_once, make_batch, lengths, seed, criterion, **changes):
    model = make_pyramid_once(criterion)
    batch = make_batch(lengths, seed)
    compact = run(model, batch, execution="compact", **changes)
    masked = run(model, batch, execution="masked", **changes)
    assert compact.exit_layer.tolist() == masked.exit_layer.tolist()
    assert compact.tokens_kept.tolist() == masked.tokens_kept.tolist()
    assert compact.flops.tolist() == masked.flops.tolist()
    torch.testing.assert_close(compact.logits, masked.logits, atol=1e-4, rtol=1e-4)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    lengths=LENGTHS,
    seed=st.integers(0, 1000),
    keep_threshold=st.floats(0, 2),
    exit_threshold=st.floats(0, 1),
    execution=st.sampled_from(["compact", "masked"]),
)
def test_a_sample_does_not_depend_on_its_batch(make_pyramid_once, make_batch, lengths, seed, **changes):
    model = make_pyramid_once("entropy")
    batch = make_batch(lengths, seed)
    together = run(model, batch, max_layers=None, **changes)
    for row, length in enumerate(lengths):
        alone = run(model, {name: values[row : row + 1, :length] for name, values in batch.items()})
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-4, rtol=1e-4)
        assert alone.exit_layer.item() == together.exit_layer[row]
        assert alone.tokens_kept[0].tolist() == together.tokens_kept[row].tolist()
        assert alone.flops.item() == together.flops[row]


def test_decisions_of_these_models_vary(make_pyramid_once, make_batch):
    # Guards the two properties above against models that keep everything or leave at once.
    lengths = [17, 12, 8, 5, 14, 9]
    output = run(
        make_pyramid_once("entropy"), make_batch(lengths), keep_threshold=0.7, exit_threshold=0.4, max_layers=None
    )
    assert len(set(output.exit_layer.tolist())) > 1
    stayed = output.exit_layer > 1
    assert (output.tokens_kept[stayed, 0] < torch.tensor(lengths)[stayed]).any()
    assert (output.tokens_kept[stayed, 0] > 1).any()


@pytest.fixture(scope="session")
def make_pyramid_once(make_pyramid):
    models = {criterion: make_pyramid(exit_criterion=criterion) for criterion in ("entropy", "confidence")}
    return models.__getitem__


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_runs_and_stays_close(make_pyramid, make_batch, dtype):
    batch = make_batch([9, 14, 3])
    model = make_pyramid(keep_threshold=0.5)
    full = run(model, batch)
    lower = run(model.to(dtype), batch)
    assert lower.logits.dtype == dtype
    # Only where pruning went the same way are the logits comparable.
    same = (lower.tokens_kept == full.tokens_kept).all(1)
    torch.testing.assert_close(lower.logits[same].float(), full.logits[same], atol=0.3, rtol=0.1)


@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_autocast(make_pyramid, make_batch, execution):
    model = make_pyramid(keep_threshold=0.5, exit_threshold=0.3, execution=execution)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = run(model, make_batch([9, 14, 3]))
    assert output.logits.isfinite().all()
