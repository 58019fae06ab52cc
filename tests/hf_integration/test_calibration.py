from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from torch.utils.data import DataLoader

import hf_integration
from hf_integration import fixed_sequence
from hf_integration.batching import pad_rows
from hf_integration.exit_selection import RecordedExits
from hf_integration.fixed_sequence import largest_passing, passing_settings
from hf_integration.risk_bounds import binomial_upper_bound, loss_p_value, samples_needed
from mp_plugins import ArgumentError, UnsupportedError

LEVEL = 0.1


def binomial_tail(successes, trials, probability):
    return sum(math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k) for k in range(successes + 1))


def test_the_upper_bound_of_a_probability_is_where_the_tail_is_the_level():
    for successes, trials in ((0, 1), (0, 30), (7, 30), (29, 30)):
        bound = binomial_upper_bound(successes, trials, 0.05)
        assert binomial_tail(successes, trials, bound) == pytest.approx(0.05)
    assert binomial_upper_bound(30, 30, 0.05) == 1.0


@pytest.mark.parametrize("samples", [70, 40], ids=["gains and harm", "harm alone"])
def test_the_test_keeps_its_level_whatever_the_gains(samples):
    """The exact chance of a wrong pass at the edge of the hypothesis, by enumeration of the counts."""
    max_loss, counts = 0.1, range(21)
    passing = {
        (harmed, gained)
        for harmed in counts
        for gained in counts
        if loss_p_value(harmed, gained, samples, max_loss, nuisance_level=LEVEL / 5) <= LEVEL
    }
    assert passing
    for gain in (0.0, 0.01, 0.03):
        harm = gain + max_loss
        chance = {
            (i, j): math.comb(samples, i)
            * math.comb(samples - i, j)
            * harm**i
            * gain**j
            * (1 - harm - gain) ** (samples - i - j)
            for i in counts
            for j in counts
        }
        # What was not enumerated counts as wrong.
        not_enumerated = 1 - sum(chance.values())
        assert sum(chance[pair] for pair in passing) + not_enumerated <= LEVEL


def test_gains_make_up_for_harm_when_there_are_many_samples():
    def p_value(harmed, gained):
        return loss_p_value(harmed, gained, 5000, 0.005, nuisance_level=0.01)

    assert p_value(40, 0) > 0.5
    assert p_value(40, 40) < 0.05 < p_value(150, 150)
    assert p_value(60, 90) < p_value(40, 40)


def test_the_fewest_samples_are_those_of_the_binomial():
    needed = samples_needed(0.005, 0.05, nuisance_level=0.01)
    # (1 - 0.005) ** n <= 0.05
    assert needed == 598
    assert samples_needed(0.005, 0.05, nuisance_level=0.01, harm_rate=0.01, gain_rate=0.005) is None
    more = samples_needed(0.005, 0.05, nuisance_level=0.01, harm_rate=0.004, gain_rate=0.002)
    assert 2000 < more < 10000


def population(size, harm, seed):
    """Exit records of a model whose deeper exits err less; uncertain answers are wrong more often."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.rand(*shape, generator=generator)

    hard = draw(size, 1)
    uncertainty = (hard * torch.tensor([1.4, 1.1, 0.8]) * (0.5 + draw(size, 3))).clamp(0, 1)
    labels = torch.zeros(size, dtype=torch.int64)
    full = (draw(size) < 0.05).long()
    # An exit differs from the last layer with a chance that grows with its uncertainty.
    differs = draw(size, 3) < harm * uncertainty**2
    predicted = torch.where(differs, 1 - full[:, None], full[:, None])
    counts = torch.full((size, 4), 10)
    return RecordedExits(uncertainty, predicted, full, labels, torch.tensor([0, 1, 2, 4]), counts, counts)


def rows_of(records, chosen):
    fields = ["uncertainty", "predicted", "full", "labels", "attended", "kept"]
    fields += [] if records.reference is None else ["reference"]
    return RecordedExits(**{name: getattr(records, name)[chosen] for name in fields}, depths=records.depths)


@pytest.mark.parametrize(
    ("samples", "max_loss", "harm"), [(1200, 0.02, 0.4), (200, 0.03, 0.3)], ids=["gains and harm", "harm alone"]
)
def test_the_loss_stays_under_the_bound_as_often_as_promised(monkeypatch, samples, max_loss, harm):
    monkeypatch.setattr(fixed_sequence, "loss_p_value", functools.cache(loss_p_value))
    thresholds, splits = [step / 40 for step in range(1, 41)], 400
    whole = population(100_000, harm, seed=1)
    losses = {threshold: whole.full_accuracy - whole.accuracy(threshold) for threshold in [0.0, *thresholds]}
    assert losses[1.0] > 2 * max_loss, "the fastest setting must be one that has to be refused"
    generator = torch.Generator().manual_seed(2)
    chosen = []
    for _ in range(splits):
        # With replacement: independent draws, of which the losses above are exactly the expectations.
        drawn = rows_of(whole, torch.randint(len(whole.labels), (samples,), generator=generator))
        chosen.append(largest_passing(drawn, thresholds, max_loss, LEVEL)[0])
    failures = sum(losses[threshold] > max_loss for threshold in chosen)
    # More failures than this have a chance of one in a thousand if the promise holds with equality.
    allowed = next(k for k in range(splits) if binomial_tail(k, splits, LEVEL) >= 0.999)
    assert failures <= allowed
    # And it is worth something: the usual choice uses up a third of what is tolerated, and saves layers.
    typical = sorted(chosen)[splits // 2]
    assert losses[typical] > max_loss / 3
    assert whole.depth(typical).double().mean() < 3.5


def pruned(full, extra_harm, seed):
    """Records of the same texts under pruning, which answers some of them otherwise at every depth."""
    generator = torch.Generator().manual_seed(seed)
    flipped = torch.rand(len(full.labels), generator=generator) < extra_harm
    return replace(
        full,
        full=torch.where(flipped, 1 - full.full, full.full),
        predicted=torch.where(flipped[:, None], 1 - full.predicted, full.predicted),
        reference=full.full,
    )


def test_pruning_and_exits_together_keep_the_promise(monkeypatch):
    monkeypatch.setattr(fixed_sequence, "loss_p_value", functools.cache(loss_p_value))
    max_loss, splits, samples = 0.02, 300, 1200
    thresholds = [step / 20 for step in range(1, 21)]
    full = population(100_000, 0.4, seed=1)
    # The middle one loses a quarter of what is tolerated by itself, the last one twice as much as is tolerated.
    whole = {0.0: full, 0.5: pruned(full, 0.0055, seed=4), 1.0: pruned(full, 0.045, seed=5)}
    accuracy = {(scale, t): whole[scale].accuracy(t) for scale in whole for t in [0.0, *thresholds]}
    losses = {setting: full.full_accuracy - reached for setting, reached in accuracy.items()}
    assert 0 < losses[0.5, 0.0] < max_loss < losses[1.0, 0.0]
    generator = torch.Generator().manual_seed(2)
    wrong, combined = 0, 0
    for _ in range(splits):
        chosen = torch.randint(samples * 50, (samples,), generator=generator)
        passed = passing_settings({s: rows_of(w, chosen) for s, w in whole.items()}, thresholds, max_loss, LEVEL)
        assert passed[0].keep_scale == 0.0
        # Any that passes may be taken, so none may be wrong.
        wrong += any(losses[found.keep_scale, found.exit_threshold] > max_loss for found in passed)
        combined += any(found.keep_scale > 0 and found.exit_threshold > 0 for found in passed)
    allowed = next(k for k in range(splits) if binomial_tail(k, splits, LEVEL) >= 0.999)
    assert wrong <= allowed
    # And it is worth something.
    assert combined > splits / 2


@pytest.fixture
def texts(make_batch):
    def make(model, lengths, wrong=0):
        """Rows whose labels are what the model answers without exits, but for the first ``wrong``."""
        batch = make_batch(lengths)
        with torch.no_grad():
            labels = model(**batch).logits.argmax(-1)
        labels[:wrong] = (labels[:wrong] + 1) % 3
        rows = []
        for index, length in enumerate(lengths):
            row = {name: values[index, :length].tolist() for name, values in batch.items()}
            rows.append({**row, "labels": int(labels[index])})
        return rows

    return make


def test_calibrate_sets_what_it_reports(make_pyramid, texts):
    model = make_pyramid()
    rows = texts(model, [3 + index % 9 for index in range(80)], wrong=8)
    report = hf_integration.calibrate(model, rows, max_loss=0.4, confidence=0.9)
    assert 0 < report.exit_threshold == model.config.exit_threshold
    assert report.p_value <= 0.1
    assert report.samples == 80
    assert report.full_accuracy == 0.9
    assert not report.is_too_small
    assert report.loss == pytest.approx(report.full_accuracy - report.accuracy)
    assert report.mean_flops < report.full_flops
    batch = pad_rows(rows, pad_token_id=0)
    labels = batch.pop("labels")
    with torch.no_grad():
        out = model(**batch)
    assert (out.logits.argmax(-1) == labels).double().mean().item() == pytest.approx(report.accuracy)
    assert out.exit_layer.double().mean().item() == pytest.approx(report.mean_exit_layer)
    assert out.flops.mean().item() == pytest.approx(report.mean_flops, rel=1e-5)


@pytest.mark.parametrize("pruner", ["attention", "cls-attention"])
def test_calibrate_chooses_pruning_and_exits_together(make_pyramid, texts, pruner):
    # Without what tokens say alone, which lets all of these leave before there is anything to prune.
    model = make_pyramid(token_pruner=pruner, lexical_exits=False)
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    model.set_speed(0.0)
    rows = texts(model, [3 + index % 9 for index in range(120)], wrong=8)
    model.set_speed(1.0)
    settings = {"max_loss": 0.4, "confidence": 0.9}
    report = hf_integration.calibrate(model, rows, **settings, keep_scales=[0.5, 1.0])
    assert (report.exit_threshold, report.keep_scale) == (model.config.exit_threshold, model.config.keep_scale)
    assert report.keep_scale > 0
    assert report.p_value <= 0.1 / 3
    assert report.full_accuracy == pytest.approx(1 - 8 / 120)
    batch = pad_rows(rows, pad_token_id=0)
    labels = batch.pop("labels")
    with torch.no_grad():
        out = model(**batch)
        assert (out.logits.argmax(-1) == labels).double().mean().item() == pytest.approx(report.accuracy)
        assert out.flops.mean().item() == pytest.approx(report.mean_flops, rel=1e-5)
        model.set_speed(0.0)
        assert model(**batch).flops.mean().item() == pytest.approx(report.full_flops, rel=1e-5)
    # More than either alone, which is among what was tried.
    alone = hf_integration.calibrate(model, rows, max_loss=0.4, confidence=1 - 0.1 / 3)
    assert report.mean_flops <= alone.mean_flops


def test_pruning_that_loses_too_much_by_itself_is_not_taken(make_pyramid, texts):
    model = make_pyramid(keep_threshold=1e9)
    model.set_speed(0.0)
    model.config.exit_threshold = 0.0
    rows = texts(model, [12] * 100)
    model.config.keep_scale = 1.0
    with torch.no_grad():
        batch = pad_rows(rows, pad_token_id=0)
        labels = batch.pop("labels")
        assert (model(**batch).logits.argmax(-1) == labels).double().mean() < 0.9
    report = hf_integration.calibrate(model, rows, max_loss=0.1, confidence=0.9, keep_scales=[1.0])
    assert report.keep_scale == model.config.keep_scale == 0.0


def test_shuffled_loaders_are_compared_text_by_text(make_pyramid, texts):
    model = make_pyramid(keep_threshold=0.3)
    rows = texts(model, [3 + index % 5 for index in range(60)])
    collate = functools.partial(pad_rows, pad_token_id=0)
    torch.manual_seed(0)
    shuffled = DataLoader(rows, batch_size=7, collate_fn=collate, shuffle=True)
    settings = {"max_loss": 0.3, "confidence": 0.9, "keep_scales": [1.0]}
    reports = [hf_integration.calibrate(make_pyramid(keep_threshold=0.3), d, **settings) for d in (rows, shuffled)]
    assert reports[0].harmed == reports[1].harmed
    assert reports[0].exit_threshold == reports[1].exit_threshold


def test_calibrate_takes_loaders_and_lifts_the_limit_on_layers(make_pyramid, texts):
    model, other = make_pyramid(), make_pyramid(max_layers=2)
    rows = texts(model, [3 + index % 5 for index in range(40)])
    loader = DataLoader(rows, batch_size=7, collate_fn=functools.partial(pad_rows, pad_token_id=0))
    settings = {"max_loss": 0.3, "confidence": 0.9}
    assert hf_integration.calibrate(model, rows, **settings) == hf_integration.calibrate(other, loader, **settings)
    assert other.config.max_layers == other.config.num_hidden_layers


def test_too_few_samples_leave_the_model_without_exits_and_say_how_many(make_pyramid, texts):
    model = make_pyramid(exit_threshold=0.5)
    model.set_speed(exit_threshold=0.0)
    rows = texts(model, [4, 6, 5])
    model.set_speed(exit_threshold=0.5)
    with pytest.warns(UserWarning, match="3 calibration samples are too few.* takes at least 598"):
        report = hf_integration.calibrate(model, rows)
    assert report.is_too_small
    assert (report.exit_threshold, report.loss, report.p_value) == (0.0, 0.0, 0.0)
    assert model.config.exit_threshold == 0.0
    assert report.mean_exit_layer == 4
    assert report.mean_flops == report.full_flops


def test_own_thresholds_are_all_that_is_tried(make_pyramid, texts):
    model = make_pyramid()
    rows = texts(model, [3 + index % 9 for index in range(60)])
    report = hf_integration.calibrate(model, rows, max_loss=0.95, confidence=0.5, thresholds=[0.25, 0.75])
    assert report.exit_threshold == 0.75
    assert report.samples_for_more is None


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"max_loss": 0.0}, "max_loss"),
        ({"max_loss": float("nan")}, "max_loss"),
        ({"confidence": 1.0}, "confidence"),
        ({"thresholds": [0.5, 0.2]}, "thresholds"),
        ({"thresholds": []}, "thresholds"),
        ({"thresholds": [0.5, 1.5]}, "thresholds"),
        ({"keep_scales": []}, "keep_scales"),
        ({"keep_scales": [1.0, 0.5]}, "keep_scales"),
        ({"keep_scales": [0.5, 1.5]}, "keep_scales"),
        ({"batch_size": 0}, "batch_size"),
        ({"dataset": []}, "dataset"),
        ({"dataset": [{"text": "raw"}]}, "dataset"),
        ({"dataset": [{"input_ids": [1, 2]}]}, "dataset"),
        ({"dataset": [{"input_ids": [1, 2], "labels": 3}]}, "dataset"),
        ({"dataset": [{"input_ids": [1, 2], "labels": -100}]}, "dataset"),
    ],
)
def test_bad_arguments_are_named_and_the_model_is_left_alone(make_pyramid, arguments, argument):
    model = make_pyramid(exit_threshold=0.3)
    rows = [{"input_ids": [1, 2, 3], "label": 0}]
    with pytest.raises(ArgumentError, match=f"`{argument}` must"):
        hf_integration.calibrate(model, **{"dataset": rows, **arguments})
    assert model.config.exit_threshold == 0.3


def test_models_that_cannot_be_calibrated_are_refused(make_pyramid):
    rows = [{"input_ids": [1, 2, 3], "labels": 0}]
    with pytest.raises(ArgumentError, match="`model` must have trained internal classifiers"):
        hf_integration.calibrate(make_pyramid(trained=False), rows)
    with pytest.raises(ArgumentError, match="`keep_scales` must be None for a model without a pruner"):
        hf_integration.calibrate(make_pyramid(token_pruner=None), rows, keep_scales=[1.0])
    with pytest.raises(UnsupportedError, match="not for multi_label_classification"):
        hf_integration.calibrate(make_pyramid(problem_type="multi_label_classification"), rows)
    with pytest.raises(UnsupportedError, match="not for regression"):
        hf_integration.calibrate(make_pyramid(num_labels=1), rows)
