"""How much each opinion counts at an exit, fitted on held-out texts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

import hf_integration
from hf_integration.early_exit import InternalClassifiers
from hf_integration.opinions import fit_opinions

LABELS = 3


@pytest.fixture
def classifiers():
    config = hf_integration.MagicPyramidConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=2)
    made = InternalClassifiers(config, LABELS, lexical=True)
    for head in made.heads:
        torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    return made


def features_of(classifiers, texts, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(texts, len(classifiers.depths), classifiers.pooled + LABELS, generator=generator)


def cross_entropy(labels):
    return lambda logits: functional.cross_entropy(logits[:, 0], labels)


def test_opinions_count_equally_before_they_are_fitted(classifiers):
    assert classifiers.opinion_weights.tolist() == [[0.5, 0.5]] * 2
    config = hf_integration.MagicPyramidConfig(num_hidden_layers=2, lexical_exits=False)
    assert InternalClassifiers(config, LABELS, lexical=True).opinion_weights.tolist() == [[1.0]] * 2


def test_who_is_right_counts_and_who_guesses_does_not(classifiers):
    features = features_of(classifiers, 600)
    own = classifiers.own_answers(features).detach()
    # At the first exit the words know, at the second the states do.
    words = features[:, 0, classifiers.pooled :].argmax(-1)
    fit_opinions(classifiers, features, cross_entropy(words))
    states_count, words_count = classifiers.opinion_weights[0].tolist()
    assert words_count > 3
    assert states_count < 0.2
    fit_opinions(classifiers, features, cross_entropy(own[:, 1].argmax(-1)))
    states_count, words_count = classifiers.opinion_weights[1].tolist()
    assert states_count > 3 * words_count


def test_the_fit_is_where_a_search_finds_the_least_loss(classifiers):
    features = features_of(classifiers, 200)
    labels = torch.randint(0, LABELS, (200,), generator=torch.Generator().manual_seed(5))
    # Right two times of three, by either opinion.
    opinions = classifiers.opinions(features).detach()
    labels = torch.where(torch.arange(200) % 3 == 0, labels, opinions[:, 1].sum(1).argmax(-1))
    fit_opinions(classifiers, features, cross_entropy(labels))
    grid = torch.linspace(0, 1.5, 76)
    losses = {
        (float(first), float(second)): float(
            functional.cross_entropy(first * opinions[:, 1, 0] + second * opinions[:, 1, 1], labels)
            + ((first - 0.5) ** 2 + (second - 0.5) ** 2) / 400
        )
        for first in grid
        for second in grid
    }
    assert classifiers.opinion_weights[1].tolist() == pytest.approx(min(losses, key=losses.get), abs=0.02)


def test_no_opinion_counts_against_itself(classifiers):
    features = features_of(classifiers, 300)
    fit_opinions(classifiers, features, cross_entropy(features[:, 0, classifiers.pooled :].argmin(-1)))
    assert (classifiers.opinion_weights >= 0).all()


def test_a_broken_classifier_keeps_its_weights(classifiers):
    features = features_of(classifiers, 50)
    features[3, 1] = float("nan")
    fit_opinions(classifiers, features, cross_entropy(torch.zeros(50, dtype=torch.int64)))
    assert classifiers.opinion_weights[1].tolist() == [0.5, 0.5]
    assert classifiers.opinion_weights[0].tolist() != [0.5, 0.5]


def test_weights_are_what_answers_are_made_of(classifiers):
    features = features_of(classifiers, 5)
    classifiers.opinion_weights.copy_(torch.tensor([[0.2, 0.9], [0.0, 2.0]]))
    own, words = classifiers.own_answers(features), features[:, :, classifiers.pooled :]
    expected = torch.stack((0.2 * own[:, 0] + 0.9 * words[:, 0], 2 * words[:, 1]), dim=1)
    torch.testing.assert_close(classifiers.every_depth(features), expected)
    torch.testing.assert_close(classifiers(1, features[:, 1]), expected[:, 1])


def test_they_are_stored_with_the_model(make_pyramid, tmp_path):
    model = make_pyramid()
    model.internal_classifiers.opinion_weights[2] = torch.tensor([0.1, 0.7])
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert torch.equal(again.internal_classifiers.opinion_weights, model.internal_classifiers.opinion_weights)
