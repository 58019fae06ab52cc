"""Sentence encoders of the library sentence-transformers, with token pruning."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import hf_integration
from hf_integration.demo_checkpoint import checkpoint_path
from hf_integration.prepacking import is_prepacked

pytestmark = pytest.mark.checkpoint

TEXTS = [
    "Crude oil prices rose after the cartel cut its quotas for the winter.",
    "Yes",
    "The company said its net profit for the quarter fell to 4.1 million dollars from 5.0 million a year earlier, "
    "because of higher costs and a weaker dollar, and that it expects no growth before the spring.",
    "",
    "Wheat exports were halted by a strike in the ports.",
]


@pytest.fixture(scope="module")
def plain():
    return SentenceTransformer(checkpoint_path(), device="cpu")


@pytest.fixture
def encoder():
    hf_integration.install()
    return SentenceTransformer(checkpoint_path(), device="cpu")


@pytest.fixture
def pruned(encoder):
    encoder[0].auto_model.config.keep_threshold = 0.8
    return encoder


def test_an_untouched_encoder_gives_the_plain_one_s_embeddings(plain, encoder):
    assert isinstance(encoder[0].auto_model, hf_integration.MagicPyramidModel)
    np.testing.assert_allclose(encoder.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)


def test_embeddings_of_a_pruned_encoder_do_not_depend_on_the_batch(plain, pruned):
    embeddings = pruned.encode(TEXTS, batch_size=len(TEXTS))
    assert (1 - (embeddings * plain.encode(TEXTS)).sum(1) > 1e-3).any()
    np.testing.assert_allclose(pruned.encode(TEXTS, batch_size=1), embeddings, atol=1e-5)
    states = pruned.encode(TEXTS, output_value="token_embeddings")
    mean = torch.stack([state.mean(0) for state in states])
    np.testing.assert_allclose(torch.nn.functional.normalize(mean).numpy(), embeddings, atol=1e-5)


def test_a_pruned_encoder_is_saved_and_loaded_with_its_settings(pruned, tmp_path):
    embeddings = pruned.encode(TEXTS)
    pruned.save_pretrained(str(tmp_path))
    hf_integration.uninstall()
    loaded = SentenceTransformer(str(tmp_path), device="cpu")
    assert loaded[0].auto_model.config.keep_threshold == 0.8
    np.testing.assert_array_equal(loaded.encode(TEXTS), embeddings)


def test_prepacked_encoders_give_the_same_embeddings(plain, pruned):
    for encoder in (plain, pruned):
        packed = hf_integration.prepack(encoder)
        assert isinstance(packed, SentenceTransformer)
        assert is_prepacked(packed)
        np.testing.assert_allclose(packed.encode(TEXTS), encoder.encode(TEXTS), atol=1e-5)


def test_a_pruned_encoder_learns_the_embeddings_of_the_plain_one(plain, pruned):
    wanted = torch.from_numpy(plain.encode(TEXTS))
    features = pruned.tokenizer(TEXTS, padding=True, return_tensors="pt")
    optimizer = torch.optim.AdamW(pruned.parameters(), lr=5e-5)
    losses = []
    for _ in range(8):
        loss = 1 - (pruned(dict(features))["sentence_embedding"] * wanted).sum(1).mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]
