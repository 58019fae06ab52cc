"""Which threshold is picked from what the exits said."""

from __future__ import annotations

import pytest
import torch

import hf_integration
from hf_integration import exit_selection
from hf_integration.exit_selection import RecordedExits
from mp_plugins import ArgumentError


def recorded(model, exit_right, full_right):
    """Return records of one exit, at which sample i leaves above the threshold ``(i + 1) / n``: the last one never."""
    samples, layers = len(exit_right), model.config.num_hidden_layers
    counts = torch.full((samples, layers), 5)
    return RecordedExits(
        uncertainty=torch.arange(1, samples + 1)[:, None] / samples,
        predicted=1 - torch.tensor(exit_right).long()[:, None],
        full=1 - torch.tensor(full_right).long(),
        labels=torch.zeros(samples, dtype=torch.long),
        depths=torch.tensor([0, layers]),
        attended=counts,
        kept=counts,
    )


@pytest.fixture
def choose(monkeypatch, make_pyramid):
    """Choose a threshold from given records: ``choose(exit_right, full_right, **options)``."""

    def chosen(exit_right, full_right, **options):
        model = make_pyramid(exit_layers=[0])
        records = recorded(model, exit_right, full_right)
        monkeypatch.setattr(exit_selection, "record_exits", lambda *_, **__: records)
        return hf_integration.choose_exit_threshold(model, [], **options)

    return chosen


def test_the_loss_is_counted_from_the_reference(choose):
    exit_right = [1, 1, 1, 1, 1, 0, 0, 1, 1, 1]
    full_right = [1, 1, 1, 1, 1, 1, 0, 1, 1, 1]
    assert choose(exit_right, full_right, max_drop=0.0).threshold == pytest.approx(0.5, abs=0.1)
    assert choose(exit_right, full_right, max_drop=0.0, reference_accuracy=0.8).threshold == 1
    nothing = choose(exit_right, full_right, max_drop=0.0, reference_accuracy=1.0)
    assert nothing.threshold == 0
    assert nothing.accuracy == nothing.full_accuracy == pytest.approx(0.9)
    assert nothing.mean_exit_layer > 0


def test_exits_that_are_better_than_the_last_layer_count_for_it(choose):
    exit_right, full_right = [1] * 10, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    choice = choose(exit_right, full_right, max_drop=0.0, reference_accuracy=0.9)
    assert (choice.threshold, choice.accuracy) == (1, 1)
    assert choice.mean_exit_layer == pytest.approx(0.4)  # of ten samples one runs through all four layers
    assert choice.full_accuracy == pytest.approx(0.7)


def test_the_second_miss_ends_the_search(choose):
    exit_right, full_right = [1, 1, 0, 0, 1, 1, 1, 1, 1, 1], [0, 1, 1, 1, 1, 1, 0, 0, 0, 1]
    # Accuracies by threshold: 0.6 without exits, 0.7, 0.7, 0.6, 0.5, 0.5, 0.5, 0.6, 0.7, 0.8, 0.8.
    choice = choose(exit_right, full_right, max_drop=0.0, reference_accuracy=0.7)
    assert choice.threshold == pytest.approx(0.3, abs=0.1)
    assert choice.accuracy == pytest.approx(0.7)


@pytest.mark.parametrize("accuracy", [-0.1, 1.5, float("nan")])
def test_a_reference_out_of_range_is_refused(choose, accuracy):
    with pytest.raises(ArgumentError, match="`reference_accuracy` must be from 0 to 1"):
        choose([1], [1], max_drop=0.1, reference_accuracy=accuracy)
