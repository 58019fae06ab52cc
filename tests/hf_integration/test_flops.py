from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import hf_integration
from mp_plugins import ArgumentError


def counted(model, batch):
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), counter:
        output = model(**batch)
    return counter.get_total_flops(), output


def test_plain_bert_agrees_with_torchs_counter(make_bert, make_batch):
    bert = make_bert()
    total, _ = counted(bert, make_batch([13, 13]))
    assert hf_integration.baseline_flops(torch.tensor([13, 13]), bert.config).sum().item() == total


@pytest.mark.parametrize("changes", [{}, {"keep_threshold": 0.8}, {"keep_threshold": 0.8, "exit_threshold": 0.25}])
def test_what_ran_agrees_with_torchs_counter(make_pyramid, make_batch, changes):
    model = make_pyramid(**changes)
    lengths = [12, 17, 9, 4, 8, 15]
    total, output = counted(model, make_batch(lengths))
    pooling = 0
    if "exit_threshold" in changes:
        tokens = torch.cat((torch.tensor(lengths)[:, None], output.tokens_kept[:, :-1]), dim=1)
        # Pooling, and three lexical logits from each token, are no matrix products.
        pooling = 2 * 32 * tokens.sum().item() + 2 * 3 * sum(lengths)
    assert output.flops.double().sum().item() - pooling == pytest.approx(total, rel=1e-6)


def test_baselines_pad_as_they_say(make_pyramid):
    config = make_pyramid().config
    lengths = torch.tensor([3, 10])
    bare = hf_integration.baseline_flops(lengths, config)
    longest = hf_integration.baseline_flops(lengths, config, padding="longest")
    fixed = hf_integration.baseline_flops(lengths, config, padding="max_length", max_length=32)
    assert longest[0] == longest[1] == bare[1]
    assert fixed[0] == fixed[1] > longest[0] > bare[0]
    with pytest.raises(ArgumentError, match="`max_length` must be given"):
        hf_integration.baseline_flops(lengths, config, padding="max_length")
    with pytest.raises(ArgumentError, match="`padding` must be"):
        hf_integration.baseline_flops(lengths, config, padding="all")
