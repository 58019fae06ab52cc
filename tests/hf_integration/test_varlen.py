"""Attention of a packed batch in one kernel: how it is called, which any machine can check, and what it gives."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hf_integration import varlen
from hf_integration.attention import packed_attention
from hf_integration.packing import offsets

LENGTHS, TOTAL, HEADS, HEAD_DIM = [5, 1, 12], 18, 3, 8

needs_kernel = pytest.mark.skipif(not varlen._has_kernel(), reason="this torch has no such kernel")


@pytest.fixture
def capable(monkeypatch):
    monkeypatch.setattr(varlen, "_is_capable", lambda device: True)


def make(dtype, device="cpu", rows=TOTAL, width=HEADS * HEAD_DIM):
    return torch.zeros(rows, width, dtype=dtype, device=device)


@needs_kernel
@pytest.mark.usefixtures("capable")
def test_only_what_the_kernel_takes_is_given_to_it():
    with FakeTensorMode():
        assert varlen.suits_varlen(make(torch.bfloat16, "cuda"), HEADS)
        assert varlen.suits_varlen(make(torch.float16, "cuda"), HEADS)
        assert not varlen.suits_varlen(make(torch.float32, "cuda"), HEADS)
        assert not varlen.suits_varlen(make(torch.bfloat16, "cuda", width=3 * 12), HEADS)
        assert not varlen.suits_varlen(make(torch.bfloat16, "cuda", width=3 * 264), HEADS)
    assert not varlen.suits_varlen(make(torch.bfloat16), HEADS)


@needs_kernel
@pytest.mark.usefixtures("capable")
@pytest.mark.parametrize("query_lengths", [LENGTHS, [1, 1, 1]])
def test_the_kernel_is_called_with_what_it_declares(query_lengths, monkeypatch):
    calls, kernel = [], varlen._flash

    def spy(*arguments):
        calls.append(arguments[5:])
        return kernel(*arguments)

    monkeypatch.setattr(varlen, "_flash", spy)
    # Tensors that have shapes and devices alone.
    with FakeTensorMode():
        query, key = make(torch.bfloat16, "cuda", rows=sum(query_lengths)), make(torch.bfloat16, "cuda")
        context, importance = packed_attention(query, key, key, LENGTHS, num_heads=HEADS, query_lengths=query_lengths)
        assert (context.shape, context.device.type, importance) == (query.shape, "cuda", None)
    assert calls == [(max(query_lengths), 12)]


@needs_kernel
@pytest.mark.usefixtures("capable")
def test_the_importance_is_computed_from_what_the_kernel_leaves(monkeypatch):
    given, kernels = [], types.ModuleType("hf_integration.importance_kernel")

    def record(query, key, log_sums, begins, longest, *, first):
        given.append((query.shape, key.shape, log_sums.shape, begins.shape, longest, first))
        return key.new_empty(len(key), dtype=torch.float32)

    kernels.attention_importance = record
    monkeypatch.setitem(sys.modules, kernels.__name__, kernels)
    for importance in ("received", "first"):
        with FakeTensorMode():
            rows = make(torch.bfloat16, "cuda")
            monkeypatch.setattr(varlen, "has_triton", lambda device: False)
            assert not varlen.suits_varlen(rows, HEADS, importance)
            monkeypatch.setattr(varlen, "has_triton", lambda device: True)
            _, found = packed_attention(rows, rows, rows, LENGTHS, num_heads=HEADS, importance=importance)
            assert found.shape == (TOTAL,)
    shape = (TOTAL, HEADS, HEAD_DIM)
    assert given == [(shape, shape, (HEADS, TOTAL), (4,), 12, first) for first in (False, True)]


@needs_kernel
def test_offsets_are_where_samples_begin():
    assert offsets(LENGTHS, torch.device("cpu")).tolist() == [0, 5, 6, 18]
    assert offsets(LENGTHS, torch.device("cpu")).dtype == torch.int32


@needs_kernel
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_kernel_gives_what_sample_by_sample_attention_gives(dtype):
    torch.manual_seed(0)
    query, key, value = torch.randn(3, TOTAL, HEADS * HEAD_DIM, device="cuda", dtype=dtype)
    assert varlen.suits_varlen(query, HEADS)
    context, _ = packed_attention(query, key, value, LENGTHS, num_heads=HEADS)
    oracle, _ = packed_attention(query.float(), key.float(), value.float(), LENGTHS, num_heads=HEADS)
    torch.testing.assert_close(context.float(), oracle, atol=2e-2, rtol=2e-2)
    alone, _ = packed_attention(query[6:], key[6:], value[6:], LENGTHS[2:], num_heads=HEADS)
    assert torch.equal(context[6:], alone)
