"""Magic Pyramids whose linear maps torch has quantized dynamically."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import hf_integration

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ao.quantization, "quantize_dynamic"), reason="this torch does not quantize dynamically any more"
)


def int8(model):
    with warnings.catch_warnings():
        # Its successor is another package.
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {torch.nn.Linear}, dtype=torch.qint8)


@torch.no_grad()
@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_neutral_is_as_far_from_the_exact_answers_as_the_plain_model(make_bert, make_batch, execution):
    plain, batch = make_bert(), make_batch([9, 1, 17, 4, 12, 8])
    exact, usual = plain(**batch).logits, int8(plain)(**batch).logits
    quantized = int8(hf_integration.attach(plain, execution=execution))
    assert not any(type(module) is torch.nn.Linear for module in quantized.modules())
    error, usual_error = ((logits - exact).norm() for logits in (quantized(**batch).logits, usual))
    assert 0 < error <= 2 * usual_error


@torch.no_grad()
@pytest.mark.parametrize("execution", ["compact", "masked"])
def test_it_exits_and_prunes(make_pyramid, make_batch, execution):
    quantized = int8(make_pyramid(execution=execution, exit_threshold=0.25, keep_threshold=0.8))
    output = quantized(**make_batch([12, 17, 9, 4, 8, 15]))
    assert len(set(output.exit_layer.tolist())) > 1
    assert len(set((output.tokens_kept[:, 2] / output.tokens_kept[:, 0]).tolist())) > 2
    # What is in the internal classifiers stays as it was, so that exits at the embeddings decide as before.
    assert quantized.internal_classifiers.heads[0].weight.dtype == torch.float32
