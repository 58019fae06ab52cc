"""What has left is really gone: the modules are watched while they run."""

from __future__ import annotations

import pytest
import torch

from hf_integration import attention
from hf_integration.attention import packed_attention
from hf_integration.packing import Packing, offsets, pad, segment_pool, select_samples, select_tokens, unpad


def watch(model):
    """Record the number of rows that each linear layer of the encoder reads."""
    rows = {}

    def hook(name):
        return lambda _module, inputs: rows.setdefault(name, []).append(inputs[0].flatten(0, -2).shape[0])

    for name, module in model.bert.encoder.named_modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_pre_hook(hook(name))
    return rows


@torch.no_grad()
def test_padding_never_reaches_a_layer_and_only_cls_leaves_the_last(make_pyramid, make_batch):
    model = make_pyramid()
    rows = watch(model)
    model(**make_batch([3, 17, 6]))
    for layer in range(3):
        assert {name: rows[f"layer.{layer}.{name}"] for name in ("attention.self.query", "intermediate.dense")} == {
            "attention.self.query": [26],
            "intermediate.dense": [26],
        }
    assert rows["layer.3.attention.self.key"] == [26]
    assert rows["layer.3.attention.self.query"] == rows["layer.3.output.dense"] == [3]


@torch.no_grad()
def test_pruned_tokens_leave_every_later_product(make_pyramid, make_batch):
    model = make_pyramid(keep_threshold=0.8)
    rows = watch(model)
    output = model(**make_batch([12, 17, 9]))
    kept = output.tokens_kept.sum(0).tolist()
    assert 3 < kept[0] < 38
    for layer in range(3):
        entered = 38 if layer == 0 else kept[layer - 1]
        for name in ("query", "key", "value"):
            assert rows[f"layer.{layer}.attention.self.{name}"] == [entered]
        for name in ("attention.output.dense", "intermediate.dense", "output.dense"):
            assert rows[f"layer.{layer}.{name}"] == [kept[layer]]


@torch.no_grad()
def test_samples_that_left_run_no_further_layer(make_pyramid, make_batch):
    model = make_pyramid(exit_threshold=0.25)
    rows = watch(model)
    lengths = torch.tensor([12, 17, 9, 4, 8, 15])
    output = model(**make_batch(lengths.tolist()))
    assert len(set(output.exit_layer.tolist())) > 1
    for layer in range(4):
        live = lengths[output.exit_layer > layer].sum().item()
        assert rows.get(f"layer.{layer}.attention.self.key", [0]) == [live]


@torch.no_grad()
def test_nothing_is_copied_where_every_token_stays(make_pyramid, make_batch):
    model = make_pyramid()
    layout = model._lay_out(model._checked(**make_batch([5, 8])), soft=False)
    hidden = layout.hidden
    layout.keep_tokens(torch.ones(13, dtype=torch.bool))
    assert layout.hidden is hidden
    layout.keep_tokens(torch.arange(13) != 3)
    assert torch.equal(layout.hidden, torch.cat((hidden[:3], hidden[4:])))
    assert layout.packing.lengths == (4, 8)


@torch.no_grad()
def test_nothing_runs_after_the_last_sample_left(make_pyramid, make_batch):
    model = make_pyramid(max_layers=2)
    rows = watch(model)
    output = model(**make_batch([5, 8]))
    assert output.exit_layer.tolist() == [2, 2]
    assert output.tokens_kept.tolist() == [[5, 5, 0, 0], [8, 8, 0, 0]]
    assert {name.split(".")[1] for name in rows} == {"0", "1"}


def test_packing_goes_there_and_back():
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 1]])
    rows, packing = unpad(mask)
    assert rows.tolist() == [0, 1, 4, 6, 7]
    assert packing.cu_seqlens.tolist() == [0, 2, 5]
    assert packing.cu_seqlens.dtype == torch.int32
    assert packing.segment_ids.tolist() == [0, 0, 1, 1, 1]
    values = torch.arange(1.0, 6.0)
    assert pad(values, mask.bool()).tolist() == [[1, 2, 0, 0], [3, 0, 4, 5]]

    kept, fewer = select_tokens(packing, torch.tensor([True, False, True, False, True]))
    assert kept.tolist() == [0, 2, 4]
    assert fewer.lengths == (1, 2)
    places, stayed, last = select_samples(fewer, [False, True])
    assert places.tolist() == [1]
    assert stayed.tolist() == [1, 2]
    assert last.lengths == (2,)
    assert last.sample_ids.tolist() == [1]
    for made in (fewer, last):
        assert made.length_tensor.tolist() == made.host_lengths.tolist() == list(made.lengths)
        assert made.cu_seqlens.tolist() == offsets(made.lengths, made.device).tolist()
        assert (made.cu_seqlens.dtype, made.length_tensor.dtype) == (torch.int32, torch.int64)


def test_pooling_is_first_row_mean_and_maximum_of_each_sample():
    states = torch.randn(18, 7, generator=torch.Generator().manual_seed(0))
    pooled = segment_pool(states, Packing((5, 1, 12), torch.arange(3)))
    for row, sample in zip(pooled, states.split([5, 1, 12]), strict=True):
        torch.testing.assert_close(row, torch.cat((sample[0], sample.mean(0), sample.amax(0))))


@torch.no_grad()
def test_no_mask_is_a_mask_of_ones(make_pyramid, make_batch):
    model, batch = make_pyramid(exit_threshold=0.25, keep_threshold=0.8), make_batch([9, 9, 9])
    given = model(**batch)
    batch.pop("attention_mask")
    for name, value in model(**batch).items():
        assert torch.equal(value, given[name])


@pytest.mark.parametrize("scores", [1, 1000, 2**18])
def test_importance_is_the_plain_column_mean_of_softmax(monkeypatch, scores):
    monkeypatch.setattr(attention, "_BLOCK_SCORES", scores)
    torch.manual_seed(0)
    lengths, heads, width = [5, 1, 400], 2, 8
    query, key, value = torch.randn(3, sum(lengths), heads * width)
    context, importance = packed_attention(query, key, value, lengths, num_heads=heads, importance="received")
    plain, _ = packed_attention(query, key, value, lengths, num_heads=heads)
    torch.testing.assert_close(context, plain, atol=1e-5, rtol=1e-5)
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        q, k = (tensor[rows].view(length, heads, width).transpose(0, 1) for tensor in (query, key))
        probabilities = torch.softmax(q @ k.transpose(1, 2) / width**0.5, dim=-1)
        column_means = probabilities.mean((0, 1))
        torch.testing.assert_close(importance[rows] / length, column_means, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(column_means.sum(), torch.tensor(1.0))
        torch.testing.assert_close(importance[rows].mean(), torch.tensor(1.0))
        start += length


def test_dropout_in_packed_attention_keeps_the_mean():
    torch.manual_seed(0)
    query, key = torch.zeros(2, 400, 4)
    value = torch.ones(400, 4)
    context, importance = packed_attention(query, key, value, [400], num_heads=2, dropout=0.5)
    assert importance is None
    assert context.std() > 0
    torch.testing.assert_close(context.mean(), torch.tensor(1.0), atol=0.02, rtol=0)
