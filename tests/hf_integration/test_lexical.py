from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

import hf_integration
from hf_integration.lexical import LexicalClassifier, make_bags, token_rarity
from hf_integration.lexical_training import cross_fitted_logits, fit_lexical, weigh_texts
from hf_integration.packing import Packing, unpad
from mp_plugins import ArgumentError

VOCABULARY = 11
TEXTS = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=12), min_size=1, max_size=9)


def packed(texts):
    packing = Packing(tuple(len(text) for text in texts), torch.arange(len(texts)))
    return torch.tensor([token for text in texts for token in text]), packing


def weights_of(text, rarity):
    found = {token: math.log1p(count) * rarity[token] for token, count in Counter(text).items()}
    norm = math.sqrt(sum(weight**2 for weight in found.values()))
    return {token: weight / norm for token, weight in found.items()}


@given(TEXTS)
def test_rarity_counts_texts(texts):
    ids, packing = packed(texts)
    found = token_rarity(ids, packing, VOCABULARY)
    for token in range(VOCABULARY):
        texts_with_it = sum(token in text for text in texts)
        assert found[token].item() == pytest.approx(1 + math.log((1 + len(texts)) / (1 + texts_with_it)))


@given(TEXTS, st.integers(0, 99))
def test_logits_are_weighted_sums_over_the_different_tokens(texts, seed):
    torch.manual_seed(seed)
    classifier = LexicalClassifier(VOCABULARY, 3)
    classifier.table.normal_()
    classifier.bias.normal_()
    classifier.rarity.uniform_(1, 3)
    ids, packing = packed(texts)
    expected = [
        sum(weight * classifier.table[token] for token, weight in weights_of(text, classifier.rarity.tolist()).items())
        for text in texts
    ]
    found = classifier(ids, packing)
    torch.testing.assert_close(found, torch.stack(expected) + classifier.bias, atol=1e-5, rtol=1e-5)


@given(TEXTS)
def test_bags_of_a_text_have_length_one(texts):
    ids, packing = packed(texts)
    bags = make_bags(ids, packing, torch.ones(VOCABULARY))
    assert bags.sizes.tolist() == [len(set(text)) for text in texts]
    squares = torch.zeros(len(texts)).index_add(0, bags.texts, bags.weights.square())
    torch.testing.assert_close(squares, torch.ones(len(texts)))


def corpus(count=60, classes=3, seed=0):
    """Texts of which most tokens are of the class's own third of the vocabulary, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    own = torch.randint(0, 3, (count, 6), generator=generator) + 3 * labels[:, None]
    other = torch.randint(0, VOCABULARY, (count, 3), generator=generator)
    return torch.cat((own, other), dim=1).tolist(), labels


def class_loss(labels):
    return lambda logits, rows: functional.cross_entropy(logits, labels[rows])


def test_the_solution_is_the_minimum():
    texts, labels = corpus()
    ids, packing = packed(texts)
    classifier = LexicalClassifier(VOCABULARY, 3)
    fit_lexical(classifier, weigh_texts(classifier, ids, packing.length_tensor), class_loss(labels))
    rarity = classifier.rarity.tolist()
    # The whole problem once more, written densely.
    dense = torch.zeros(len(texts), VOCABULARY, dtype=torch.float64)
    for row, text in enumerate(texts):
        for token, weight in weights_of(text, rarity).items():
            dense[row, token] = weight
    table = classifier.table.double().requires_grad_()
    bias = classifier.bias.double().requires_grad_()
    penalty = table.square().sum() / (2 * 100 * len(texts))
    objective = functional.cross_entropy(dense @ table + bias, labels) + penalty
    objective.backward()
    assert table.grad.abs().max() < 2e-4
    assert bias.grad.abs().max() < 2e-4
    assert objective.item() < 0.7 * math.log(3)


def test_cross_fitting_asks_who_has_not_seen_the_text():
    texts, labels = corpus(23)
    ids, packing = packed(texts)
    classifier = LexicalClassifier(VOCABULARY, 3)
    bags = weigh_texts(classifier, ids, packing.length_tensor)
    found = cross_fitted_logits(classifier, bags, class_loss(labels))
    assert not classifier.is_trained()
    # Whatever the class of the texts of a fold, what is said of them stays.
    changed = labels.clone()
    changed[2::5] = (labels[2::5] + 1) % 3
    again = cross_fitted_logits(classifier, bags, class_loss(changed))
    assert torch.equal(found[2::5], again[2::5])
    assert not torch.equal(found[1::5], again[1::5])


@pytest.mark.parametrize("count", [1, 2])
def test_very_few_texts_are_no_error(count):
    texts, labels = corpus(count)
    ids, packing = packed(texts)
    classifier = LexicalClassifier(VOCABULARY, 3)
    bags = weigh_texts(classifier, ids, packing.length_tensor)
    assert cross_fitted_logits(classifier, bags, class_loss(labels)).isfinite().all()
    fit_lexical(classifier, bags, class_loss(labels))
    assert classifier.table.isfinite().all()


@pytest.fixture(scope="session")
def speaking(make_pyramid):
    """A model whose lexical classifier has something to say, and exits on it."""

    def make(**fields):
        model = make_pyramid(exit_threshold=0.6, keep_threshold=0.8, **fields)
        generator = torch.Generator().manual_seed(3)
        model.lexical_classifier.table.copy_(torch.randn(99, 3, generator=generator))
        model.lexical_classifier.rarity.copy_(1 + torch.rand(99, generator=generator))
        return model

    return make


@settings(max_examples=20, deadline=None)
@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 5))
def test_a_text_is_answered_alone_as_in_a_batch_and_masked_as_compact(speaking, make_batch, lengths, seed):
    model = speaking()
    batch = make_batch(lengths, seed)
    with torch.no_grad():
        together = model(**batch)
        model.config.execution = "masked"
        masked = model(**batch)
        model.config.execution = "compact"
        for row, length in enumerate(lengths):
            alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()})
            torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-4, rtol=1e-4)
            assert alone.exit_layer[0] == together.exit_layer[row]
    torch.testing.assert_close(masked.logits, together.logits, atol=1e-4, rtol=1e-4)
    assert torch.equal(masked.exit_layer, together.exit_layer)


def test_what_it_says_reaches_every_exit(speaking, make_batch):
    model, batch = speaking(), make_batch([9, 14])
    pooled = model.exit_states(**batch).pooled
    live = batch["attention_mask"] != 0
    said = model.lexical_classifier(batch["input_ids"][live], unpad(live)[1])
    for exit_features in pooled.unbind(1):
        torch.testing.assert_close(exit_features[:, -3:], said)


def test_an_exit_says_the_mean_of_both_opinions(speaking, make_batch):
    model, batch = speaking(), make_batch([9, 14])
    features = model.exit_states(**batch).pooled
    heads = model.internal_classifiers.heads
    expected = [
        (head(those[:, :96]) + those[:, 96:]) / 2 for head, those in zip(heads, features.unbind(1), strict=True)
    ]
    torch.testing.assert_close(model.internal_classifiers.every_depth(features), torch.stack(expected, dim=1))
    torch.testing.assert_close(model.internal_classifiers(2, features[:, 2]), expected[2])


def test_it_is_stored_with_the_model(speaking, make_batch, tmp_path):
    model, batch = speaking(), make_batch([9, 14])
    model.save_pretrained(tmp_path)
    loaded = hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits)


def test_embeddings_say_nothing_about_tokens(speaking, make_pyramid, make_batch):
    batch = make_batch([9, 14])
    model = speaking()
    embeddings = model.get_input_embeddings()(batch.pop("input_ids")).detach()
    with pytest.raises(ArgumentError, match="`inputs_embeds` must not be given"):
        model(**batch, inputs_embeds=embeddings)
    model.set_speed(0.0)
    assert model(**batch, inputs_embeds=embeddings).logits.shape == (2, 3)
    # One that says nothing yet reads nothing.
    assert make_pyramid(trained=False, exit_threshold=0.6)(**batch, inputs_embeds=embeddings).logits.shape == (2, 3)


def test_models_without_it(make_pyramid, make_batch):
    model = make_pyramid(lexical_exits=False, exit_threshold=0.6)
    assert model.lexical_classifier is None
    assert model.exit_states(**make_batch([9, 14])).pooled.shape == (2, 4, 96)
    assert make_pyramid(exit_layers=[]).lexical_classifier is None
    with pytest.raises(ArgumentError, match="`lexical_exits` must be True or False"):
        make_pyramid(lexical_exits=1)
