"""The peer in ONNX Runtime answers as the model that it was made of."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from mp_models.onnx_int8 import OnnxInt8
from transformers import BertConfig, BertForSequenceClassification

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxruntime", "onnxscript")),
    reason="onnx, onnxruntime and onnxscript are not all installed",
)


@pytest.mark.filterwarnings("default")
def test_it_answers_much_as_the_model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertForSequenceClassification(BertConfig(**sizes, intermediate_size=64, num_labels=5)).eval()
    for parameter in bert.parameters():
        parameter.data.mul_(5)
    ids = torch.randint(1, 99, (6, 17))
    mask = (torch.arange(17) < torch.tensor([[17], [3], [9], [1], [12], [5]])).long()
    peer = OnnxInt8(bert, threads=1)
    with torch.no_grad():
        expected, deaf = (bert(input_ids=ids, attention_mask=given).logits for given in (mask, None))
    received = peer(input_ids=ids, attention_mask=mask).logits
    error = (received - expected).norm()
    # As far as 8 bits reach, and nearer than a graph would be that does not read the mask.
    assert error < 0.2 * expected.norm()
    assert error < 0.5 * (deaf - expected).norm()
