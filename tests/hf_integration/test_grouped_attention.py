"""Attention of many samples in one padded call, as devices other than the CPU take it, against one sample at a time."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_integration import attention
from hf_integration.attention import grouped_attention, packed_attention

HEADS, WIDTH = 2, 8


def draw(rows, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, HEADS * WIDTH, generator=generator)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 17), min_size=1, max_size=7),
    importance=st.sampled_from([None, "received", "first"]),
    scores=st.sampled_from([1, 600, 2**27]),
    seed=st.integers(0, 99),
)
def test_groups_give_what_samples_give(lengths, importance, scores, seed):
    query, key, value = (draw(sum(lengths), seed + part) for part in range(3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "_GROUP_SCORES", scores)
        found, received = grouped_attention(query, key, value, lengths, lengths, num_heads=HEADS, importance=importance)
    expected, oracle = packed_attention(query, key, value, lengths, num_heads=HEADS, importance=importance)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (received is None) == (importance is None)
    if oracle is not None:
        torch.testing.assert_close(received, oracle, atol=1e-5, rtol=1e-5)


@settings(derandomize=True, deadline=None, max_examples=30)
@given(lengths=st.lists(st.integers(1, 17), min_size=1, max_size=7), seed=st.integers(0, 99))
def test_one_query_for_each_sample(lengths, seed):
    query, key, value = draw(len(lengths), seed), draw(sum(lengths), seed + 1), draw(sum(lengths), seed + 2)
    ones = [1] * len(lengths)
    found, _ = grouped_attention(query, key, value, ones, lengths, num_heads=HEADS)
    expected, _ = packed_attention(query, key, value, lengths, num_heads=HEADS, query_lengths=ones)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_samples():
    lengths = [5, 1, 12]
    given_leaves = [draw(sum(lengths), part).requires_grad_() for part in range(3)]
    other_leaves = [leaf.detach().clone().requires_grad_() for leaf in given_leaves]
    found, _ = grouped_attention(*given_leaves, lengths, lengths, num_heads=HEADS, importance="received")
    expected, _ = packed_attention(*other_leaves, lengths, num_heads=HEADS, importance="received")
    for context in (found, expected):
        context.square().sum().backward()
    for leaf, other in zip(given_leaves, other_leaves, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad, atol=1e-5, rtol=1e-4)


def test_dropout_keeps_the_mean():
    torch.manual_seed(0)
    query, key, value = torch.zeros(400, 4), torch.zeros(400, 4), torch.ones(400, 4)
    context, _ = grouped_attention(query, key, value, [300, 100], [300, 100], num_heads=2, dropout=0.5)
    assert context.std() > 0
    torch.testing.assert_close(context.mean(), torch.tensor(1.0), atol=0.02, rtol=0)
