"""Dropout of attention weights: independent, unbiased, and torch's own at the ends."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_integration.attention_dropout import drop_weights

SHAPES = st.lists(st.integers(0, 9), min_size=1, max_size=4)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
PROBABILITIES = st.sampled_from([0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, probability=PROBABILITIES, seed=st.integers(0, 99))
def test_a_weight_is_zero_or_scaled_and_its_gradient_too(shape, dtype, probability, seed):
    torch.manual_seed(seed)
    weights = (torch.rand(shape, dtype=torch.float32) + 0.5).to(dtype).requires_grad_()
    dropped = drop_weights(weights, probability)
    assert dropped.shape == weights.shape
    assert dropped.dtype == dtype
    scale = 0.0 if probability == 1 else 1 / (1 - probability)
    kept = (dropped != 0).to(dtype)
    torch.testing.assert_close(dropped, weights * kept * scale, rtol=1e-2, atol=0)
    dropped.sum().backward()
    torch.testing.assert_close(weights.grad, kept * scale, rtol=1e-2, atol=0)


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.5, 0.97])
def test_weights_are_dropped_as_often_as_asked_and_independently(probability):
    torch.manual_seed(0)
    gone = drop_weights(torch.ones(200_000, 4), probability) == 0
    # By place in a random number; six standard errors of 200 000 draws.
    error = 6 * (probability * (1 - probability) / len(gone)) ** 0.5
    torch.testing.assert_close(gone.double().mean(0), torch.full((4,), probability).double(), rtol=0, atol=error)
    neighbours = torch.corrcoef(gone.double().t())
    torch.testing.assert_close(neighbours, torch.eye(4).double(), rtol=0, atol=6 / len(gone) ** 0.5)


def test_the_generator_of_torch_decides():
    weights = torch.rand(7, 13)
    torch.manual_seed(5)
    first, second = drop_weights(weights, 0.3), drop_weights(weights, 0.3)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    torch.testing.assert_close(drop_weights(weights, 0.3), first, rtol=0, atol=0)
