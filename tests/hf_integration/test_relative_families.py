"""Architectures whose attention asks where tokens stood: what pruning leaves is attended as if nothing had moved."""

from __future__ import annotations

import pytest
import torch

import hf_integration
from hf_integration import attention, compatibility, layouts
from mp_plugins import UnsupportedError, load_registry

RELATIVE = ("deberta-v2", "modernbert", "mpnet")
EXECUTIONS = pytest.mark.parametrize("execution", ["compact", "masked"])


def run(model, batch, **options):
    with torch.no_grad():
        return model(**batch, **options)


def hide_keys(family, plain, keep, depth):
    """Make the layers of a plain model behind ``depth`` see the tokens of ``keep``, bool ``[seq]``, only."""
    slots = torch.arange(len(keep))
    hidden = torch.zeros(len(keep), len(keep)).masked_fill(~keep[None], torch.finfo(torch.float32).min)[None, None]
    far = (slots[:, None] - slots[None]).abs() > getattr(plain.config, "local_attention", 0) // 2

    def hook(layer, args, kwargs):
        if family.model_type == "mpnet":
            return (args[0], hidden, *args[2:]), kwargs
        if family.model_type == "deberta-v2":
            return (args[0], keep.expand(1, 1, len(keep), -1), *args[2:]), kwargs
        window = torch.where(far, torch.finfo(torch.float32).min, 0.0) if compatibility.attends_locally(layer) else 0
        masks = {name: hidden + window for name in ("attention_mask", "sliding_window_mask") if name in kwargs}
        return args, {**kwargs, **masks}

    return [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in family.layers(plain)[depth:]]


@EXECUTIONS
@pytest.mark.parametrize("name", RELATIVE)
def test_survivors_see_each_other_at_the_distances_they_had(make_plain, make_inputs, monkeypatch, name, execution):
    # A few queries at a time, each with its own part of the bias.
    monkeypatch.setattr(attention, "_BLOCK_SCORES", 100)
    family = load_registry("model_families")[name]
    plain, batch = make_plain(family, "Model", attn_implementation="eager"), make_inputs(family, [15])
    keep = torch.tensor([1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 1], dtype=torch.bool)
    model = hf_integration.attach(plain, pruning_layers=[2], keep_threshold=0.5, execution=execution)
    model.token_pruner.keep_mask = lambda evidence: keep
    received = run(model, batch)
    assert received.tokens_kept.tolist() == [[15, 6, 6, 6]]
    untouched = run(plain, batch).last_hidden_state
    hooks = hide_keys(family, plain, keep, depth=2)
    expected = run(plain, batch).last_hidden_state
    for hook in hooks:
        hook.remove()
    torch.testing.assert_close(received.last_hidden_state[:, keep], expected[:, keep], atol=1e-5, rtol=1e-5)
    # The oracle does hide something.
    assert not torch.allclose(expected[:, keep], untouched[:, keep], atol=1e-2)


DEBERTA = {
    "c2p": {"pos_att_type": ["c2p"]},
    "p2c": {"pos_att_type": ["p2c"]},
    "no position term": {"pos_att_type": []},
    "shared projections": {"share_att_key": True},
    "no buckets": {"position_buckets": -1, "norm_rel_ebd": "none"},
    "few distances": {"position_buckets": -1, "max_relative_positions": 5},
    "absolute": {"relative_attention": False, "position_biased_input": True},
    "v3": {"share_att_key": True, "type_vocab_size": 0},
}


@EXECUTIONS
@pytest.mark.parametrize("fields", DEBERTA.values(), ids=DEBERTA)
def test_every_kind_of_deberta_is_the_plain_one_and_counted(make_plain, make_inputs, count_flops, fields, execution):
    family = load_registry("model_families")["deberta-v2"]
    plain, batch = make_plain(family, **fields), make_inputs(family, [9, 1, 17])
    pyramid = hf_integration.attach(plain, execution=execution)
    torch.testing.assert_close(run(pyramid, batch).logits, run(plain, batch).logits, atol=1e-5, rtol=0)
    pyramid.set_speed(keep_threshold=0.8)
    if execution == "compact":
        total, output = count_flops(pyramid, make_inputs(family, [14]))
        assert output.flops.item() == pytest.approx(total, rel=1e-6)
        # The plain model does not spare the distances that a text lacks.
        total, _ = count_flops(plain, make_inputs(family, [14]))
        assert hf_integration.baseline_flops(torch.tensor([14]), plain.config).item() == total


def test_distances_beyond_the_batch_are_not_multiplied(make_plain):
    # What the plain model does of its table of distances does not depend on the length.
    family = load_registry("model_families")["deberta-v2"]
    fields = {"position_buckets": 64, "max_position_embeddings": 128}
    config = hf_integration.attach(make_plain(family, **fields)).config
    tokens = torch.tensor([5.0, 40.0], dtype=torch.float64)
    ours = family.relative_macs(config, tokens, tokens, tokens)
    plain = family.relative_macs(config, tokens, tokens, None)
    assert (ours < plain).all()
    assert (ours / plain).tolist() == pytest.approx([9 / 128, 2 * 37 / 128], rel=0.2)


@EXECUTIONS
def test_modernbert_that_reads_the_mean_is_the_plain_model(make_plain, make_inputs, count_flops, execution):
    family = load_registry("model_families")["modernbert"]
    plain, batch = make_plain(family, classifier_pooling="mean"), make_inputs(family, [9, 1, 17])
    pyramid = hf_integration.attach(plain, execution=execution)
    torch.testing.assert_close(run(pyramid, batch).logits, run(plain, batch).logits, atol=1e-5, rtol=0)
    pyramid.set_speed(keep_threshold=0.7)
    total, pruned = count_flops(pyramid, batch)
    assert (pruned.tokens_kept[:, 2] < torch.tensor([9, 1, 17])).any()
    if execution == "compact":
        assert pruned.flops.double().sum().item() == pytest.approx(total, rel=1e-6)
        pyramid.config.execution = "masked"
        torch.testing.assert_close(run(pyramid, batch).logits, pruned.logits, atol=1e-4, rtol=1e-4)


def test_a_soft_mean_weighs_tokens_and_trains_thresholds(make_plain, make_inputs):
    family = load_registry("model_families")["modernbert"]
    model = hf_integration.attach(make_plain(family, classifier_pooling="mean"))
    batch = make_inputs(family, [9, 17])
    # A weight of almost 1 for every token is no weight at all.
    model.token_pruner.keep_thresholds.data.fill_(-50)
    torch.testing.assert_close(run(model, batch, soft_temperature=0.1).logits, run(model, batch).logits)
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    model(**batch, soft_temperature=0.1).logits.sum().backward()
    assert (model.token_pruner.keep_thresholds.grad != 0).all()


@EXECUTIONS
def test_cls_does_not_judge_tokens_outside_of_its_window(make_plain, make_inputs, execution):
    family = load_registry("model_families")["modernbert"]
    fields = {"token_pruner": "cls-attention", "pruning_layers": [2], "keep_threshold": 1e9}
    model = hf_integration.attach(make_plain(family), execution=execution, **fields)
    # [CLS] stays, the 3 tokens beside it go, those that it does not see stay.
    assert run(model, make_inputs(family, [17, 9, 2])).tokens_kept[:, 1].tolist() == [14, 6, 1]
    soft = hf_integration.attach(make_plain(family), **{**fields, "keep_threshold": 0.5})
    kept = soft(**make_inputs(family, [17, 9]), soft_temperature=0.1)
    kept.logits.sum().backward()
    assert kept.logits.isfinite().all()
    assert all(p.grad.isfinite().all() for p in soft.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", RELATIVE)
def test_soft_masks_reach_thresholds_and_positions(make_plain, make_inputs, name):
    family = load_registry("model_families")[name]
    model = hf_integration.attach(make_plain(family)).train()
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    model(**make_inputs(family, [9, 14]), soft_temperature=0.3).logits.sum().backward()
    assert (model.token_pruner.keep_thresholds.grad != 0).all()
    for parameter in ("mpnet.encoder.relative_attention_bias.weight", "deberta.encoder.rel_embeddings.weight"):
        if parameter in dict(model.named_parameters()):
            assert model.get_parameter(parameter).grad.abs().sum() > 0


def test_what_is_not_computed_exactly_is_refused(make_plain):
    families = load_registry("model_families")
    convolving = make_plain(families["deberta-v2"], conv_kernel_size=3)
    with pytest.raises(UnsupportedError, match=r"got conv_kernel_size=3: it mixes neighbours.* Use a checkpoint"):
        hf_integration.attach(convolving)
    plain = make_plain(families["modernbert"])
    rule = {"rope_type": "dynamic", "factor": 2.0}
    if getattr(plain.config, "rope_parameters", None) is None:
        plain.config.rope_scaling = rule
    else:
        plain.config.rope_parameters["full_attention"].update(rule)
    with pytest.raises(UnsupportedError, match="got rope_type='dynamic': it follows the longest text"):
        hf_integration.attach(plain)


@EXECUTIONS
def test_absolute_positions_cost_nothing_in_attention(make_plain, make_inputs, family, execution, monkeypatch):
    if family.model_type in RELATIVE:
        pytest.skip("it asks for positions")
    biases = []

    def watch(function):
        return lambda *args, **options: (biases.append(options["bias"]), function(*args, **options))[1]

    monkeypatch.setattr(layouts, "packed_attention", watch(attention.packed_attention))
    monkeypatch.setattr("hf_integration.masked_layout.padded_attention", watch(attention.padded_attention))
    run(hf_integration.attach(make_plain(family), keep_threshold=0.7, execution=execution), make_inputs(family, [9, 4]))
    assert biases == [None] * 4


@EXECUTIONS
@pytest.mark.parametrize("name", RELATIVE)
def test_autocast(make_plain, make_inputs, name, execution):
    family = load_registry("model_families")[name]
    batch = make_inputs(family, [9, 14, 3])
    for pruner in ("attention", "cls-attention"):
        model = hf_integration.attach(make_plain(family), token_pruner=pruner, execution=execution)
        exact = run(model, batch).logits
        model.set_speed(keep_threshold=1e-9)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            received = run(model, batch)
        assert received.tokens_kept[:, :3].tolist() == [[length] * 3 for length in (9, 14, 3)]
        torch.testing.assert_close(received.logits.float(), exact, atol=0.5, rtol=0.1)
        model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**batch).logits.float().sum().backward()
