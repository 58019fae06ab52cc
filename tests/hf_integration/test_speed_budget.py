from __future__ import annotations

import itertools
import json

import pytest
import torch
from torch.utils.data import DataLoader

import hf_integration
from hf_integration import speed_budget
from hf_integration.batching import pad_rows
from mp_plugins import ArgumentError

LENGTHS = [12, 17, 9, 4, 8, 15]


@pytest.fixture
def model(make_pyramid):
    made = make_pyramid()
    made.token_pruner.keep_thresholds.data.fill_(0.6)
    return made


@pytest.fixture
def rows(make_batch):
    batch = make_batch(LENGTHS)
    return [
        {name: values[index, :length].tolist() for name, values in batch.items()} | {"label": index % 3}
        for index, length in enumerate(LENGTHS)
    ]


@torch.no_grad()
def spent(model, batch, **settings):
    model.set_speed(**settings)
    return model(**batch).flops.double().mean().item()


def without_labels(rows):
    return [{name: value for name, value in row.items() if name != "label"} for row in rows]


def test_a_budget_of_operations_takes_the_slowest_setting_within_it(model, make_batch):
    batch = make_batch(LENGTHS)
    slow, fast = spent(model, batch, speed=0.0), spent(model, batch, speed=1.0)
    budget = (slow + fast) / 2
    chosen = model.set_budget(flops=budget, data=batch)
    assert chosen.flops <= budget
    assert model.config.speed == chosen.speed
    with torch.no_grad():
        assert model(**batch).flops.double().mean().item() == pytest.approx(chosen.flops)
    # Nothing slower that was tried fits.
    points = model.config.speed_table["points"]
    slower = [point for point in points if point["speed"] < chosen.speed]
    assert slower
    assert all(point["flops"] > budget for point in slower)
    assert points[0]["flops"] == pytest.approx(slow)
    assert model.set_budget(flops=slow).speed == 0.0


def test_labels_decide_among_what_is_within_the_budget(model, rows, make_batch):
    batch = make_batch(LENGTHS)
    model.set_speed(exit_threshold=0.6)
    with torch.no_grad():
        answers = model(**batch).logits.argmax(-1).tolist()
    labelled = [{**row, "label": answer} for row, answer in zip(rows, answers, strict=True)]
    chosen = model.set_budget(flops=1e12, data=labelled, knob="exit_threshold")
    points = model.config.speed_table["points"]
    best = max(point["accuracy"] for point in points)
    assert (chosen.accuracy, best) == (1.0, 1.0)
    assert chosen.exit_threshold == next(point["exit_threshold"] for point in points if point["accuracy"] == best)
    assert {point["keep_scale"] for point in points} == {1.0}


def test_several_labels_are_counted_each(make_pyramid, make_batch):
    model = make_pyramid(problem_type="multi_label_classification")
    batch = make_batch(LENGTHS)
    with torch.no_grad():
        labels = (model(**batch).logits > 0).float()
    labels[0, 0] = 1 - labels[0, 0]
    model.set_budget(flops=1e12, data={**batch, "labels": labels})
    assert model.config.speed_table["points"][0]["accuracy"] == pytest.approx(1 - 1 / labels.numel())


def test_times_are_medians_of_calls(model, rows, monkeypatch):
    # Every call takes two seconds, but for one slow moment.
    ticks = itertools.count()
    calls = []

    def seconds(timed, inputs):
        calls.append(timed.config.speed)
        return len(inputs) * (1e3 if next(ticks) == 0 else 2.0)

    monkeypatch.setattr(speed_budget, "_seconds", seconds)
    chosen = model.set_budget(ms=2000, data=without_labels(rows))
    assert (chosen.speed, chosen.ms) == (0.0, 2000.0)
    assert len(calls) == 3 * 17
    assert calls[:17] == calls[17:34] == sorted(calls[:17])
    model.train()
    model.set_budget(ms=2000)
    assert model.training


def test_measured_times_are_positive_and_of_this_batch(model, make_batch):
    chosen = model.set_budget(ms=1e6, data=make_batch(LENGTHS))
    assert 0 < chosen.ms < 1e5
    assert chosen.accuracy is None
    assert chosen.speed == 0.0


def test_a_budget_out_of_reach_tells_the_least_and_changes_nothing(model, make_batch):
    model.set_speed(0.3)
    before = model.config.to_dict()
    for budget in ({"flops": 1.0}, {"ms": 1e-9}):
        with pytest.raises(ArgumentError, match=r"` must be at least [\d.e+-]+, the least that any setting takes"):
            model.set_budget(**budget, data=make_batch(LENGTHS))
    assert model.config.to_dict() == before
    model.set_budget(flops=1e12, data=make_batch(LENGTHS))
    least = min(point["flops"] for point in model.config.speed_table["points"])
    with pytest.raises(ArgumentError) as caught:
        model.set_budget(flops=least * 0.9)
    assert f"{least:.4g}" in str(caught.value)


def test_what_was_measured_is_saved_with_the_model(model, make_batch, tmp_path):
    model.set_budget(flops=1e12, data=make_batch(LENGTHS))
    least = min(point["flops"] for point in model.config.speed_table["points"])
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["speed_table"] == model.config.speed_table
    loaded = hf_integration.MagicPyramidForSequenceClassification.from_pretrained(tmp_path)
    loaded.set_budget(flops=least)
    assert loaded.config.exit_threshold > 0
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    found = hf_integration.MagicPyramidConfig.from_pretrained(again)
    assert (found.speed, found.exit_threshold) == (loaded.config.speed, loaded.config.exit_threshold)


def test_a_table_that_does_not_hold_any_more_is_refused(model, make_batch, monkeypatch):
    with pytest.raises(ArgumentError, match="`data` must be given where no speed was measured yet"):
        model.set_budget(ms=5)
    model.set_budget(ms=1e6, data=make_batch(LENGTHS))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    with pytest.raises(ArgumentError, match="other threads than"):
        model.set_budget(ms=1e6)
    model.set_budget(flops=1e12)
    model.set_speed(keep_threshold=0.9)
    with pytest.raises(ArgumentError, match="other keep_threshold than"):
        model.set_budget(flops=1e12)
    model.config.speed_table = {"points": [{"speed": 1}]}
    with pytest.raises(ArgumentError, match="`speed_table` must be what set_budget stored"):
        model.set_budget(flops=1e12)


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({}, "ms"),
        ({"ms": 1, "flops": 1}, "ms"),
        ({"ms": 0}, "ms"),
        ({"flops": float("nan")}, "flops"),
        ({"ms": 1, "knob": "depth"}, "knob"),
        ({"ms": 1, "data": []}, "data"),
        ({"ms": 1, "data": [{"text": "raw"}]}, "data"),
        ({"ms": 1, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_are_named(model, rows, arguments, argument):
    with pytest.raises(ArgumentError, match=f"`{argument}`"):
        model.set_budget(**{"data": rows, **arguments})


def test_loaders_give_their_own_batches(model, rows):
    loader = DataLoader(rows, batch_size=4, collate_fn=lambda some: pad_rows(some, pad_token_id=0))
    by_loader = model.set_budget(flops=1e12, data=loader)
    assert model.set_budget(flops=1e12, data=rows).flops == pytest.approx(by_loader.flops)
    with pytest.raises(ArgumentError, match="`data` must hold at least one batch"):
        model.set_budget(flops=1e12, data=DataLoader([]))


def test_heads_that_read_every_token_are_set_by_pruning(make_plain, make_inputs, family):
    model = hf_integration.attach(make_plain(family, "ForTokenClassification"))
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    batch = make_inputs(family, [12, 17])
    model.set_budget(flops=1e12, data=batch)
    table = model.config.speed_table["points"]
    assert table[-1]["flops"] < table[0]["flops"]
    assert model.set_budget(flops=table[-1]["flops"]).keep_scale > 0
    assert model.config.exit_threshold == 0
    with pytest.raises(ArgumentError, match="`knob` must be 'speed' or 'keep_scale'"):
        model.set_budget(flops=1e12, data=batch, knob="exit_threshold")


def test_a_regression_head_is_set_by_pruning_too(make_pyramid, make_batch):
    model = make_pyramid(num_labels=1)
    model.token_pruner.keep_thresholds.data.fill_(0.8)
    batch = {**make_batch(LENGTHS), "labels": torch.zeros(len(LENGTHS))}
    with pytest.raises(ArgumentError, match="regression head"):
        model.set_budget(flops=1e12, data=batch)
    assert model.set_budget(flops=1e12, data=batch, knob="keep_scale").accuracy is None


def test_training_on_forgets_the_measurement(model, rows, make_batch, tmp_path):
    from transformers import TrainingArguments

    model.set_budget(flops=1e12, data=make_batch(LENGTHS))
    arguments = TrainingArguments(
        str(tmp_path), max_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True
    )
    hf_integration.MagicPyramidTrainer(
        model=model, args=arguments, train_dataset=rows, data_collator=lambda some: pad_rows(some, pad_token_id=0)
    ).train()
    assert model.config.speed_table is None
