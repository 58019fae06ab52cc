"""The arithmetic behind the tables of the model benchmark, and its parts on tiny models."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pyramid
import pytest
import torch
from mp_models.choosing import Point, best_within, choose, frontier, points_of, records_of
from mp_models.contenders import Answers, Contender, bfloat16, int8
from mp_models.keeping import ModelShelf
from mp_models.measuring import Timing, time_in_turns
from mp_models.results import Baselines, Measured, TaskResult, baselines, measured_targets
from mp_models.shapes import SHAPES, FixedRate, shaped, shapes_table, with_own_share
from mp_models.tables import (
    contenders_table,
    equal_accuracy_table,
    plot,
    targets_table,
    training_table,
    variants_table,
)
from mp_models.targets import AVERAGE, TARGETS, Outcome, Target, outcomes
from mp_models.weights import prepacking_rows, prepacking_table
from transformers import BertConfig, BertForSequenceClassification

from hf_integration import attach, prepack
from hf_integration.early_exit import ExitEvidence
from hf_integration.flops import baseline_flops
from hf_integration.measuring import spread

SHAPE = {
    "vocab_size": 60, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 24,
    "max_position_embeddings": 40, "num_labels": 3,
}  # fmt: skip


def bert():
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(**SHAPE)).eval()


def rows(count=9):
    return [
        {"input_ids": [(7 * row + place) % 59 + 1 for place in range(2 + row)], "labels": row % 3}
        for row in range(count)
    ]


def exiting():
    torch.manual_seed(0)
    model = attach(bert(), exit_threshold=0.0).eval()
    for head in model.internal_classifiers.heads:
        torch.nn.init.normal_(head.weight, std=0.3)
    return model


def result(**changes):
    measured = {
        "BERT": Measured(0.9, None, Timing(10, (1.0, 3.0, 2.0)), Timing(5, (5.0,))),
        "ours": Measured(0.896, 0.5, Timing(10, (0.2, 0.5, 0.25)), Timing(5, (1.0,))),
    }
    curve = [Point(1.0, 0.0, 0.9, 2.0), Point(1.0, 0.1, 0.895, 0.5), Point(0.5, 0.1, 0.89, 1.0)]
    fields = {
        "title": "task", "facts": {}, "work": Baselines(4.0, 5.0, 8.0), "reference": "BERT", "ours": "ours",
        "curve_reference": Point(0.0, 0.0, 0.9, 4.0),
        "measured": measured, "chosen": {"ours": Point(1.0, 0.1, 0.95, 0.4)}, "curves": {"ours": curve},
    }  # fmt: skip
    return TaskResult(**{**fields, **changes})


def test_ratios_are_those_of_medians_and_of_means():
    made = result()
    assert made.loss("ours") == pytest.approx(0.4)
    assert made.less_work("ours") == 8.0
    assert made.less_work("ours", "maximum") == 16.0
    assert made.less_work("BERT") is None
    assert made.faster("ours", "batch") == 8.0  # 2 s over 0.25 s
    assert made.faster("ours", "one") == 5.0
    assert made.targets() == pytest.approx({"loss": 0.4, "gflops": 8.0, "batch": 8.0, "one": 5.0})


def test_a_task_without_times_has_no_targets():
    measured = {"BERT": Measured(0.9), "ours": Measured(0.9, 1.0)}
    made = result(measured=measured)
    assert made.targets() is None
    assert made.faster("ours", "batch") is None
    assert measured_targets({"r8": made}) == {}
    assert "| - |" in contenders_table(made)


def test_equal_accuracy_takes_the_least_work_that_loses_no_more():
    points = result().equal_accuracy()["ours"]
    assert [None if point is None else point.gflops for point in points] == [None, None, None, 2.0, 2.0, 0.5, 0.5]
    assert "0.500 (8.00x)" in equal_accuracy_table(result())


def test_what_no_setting_reaches_is_never():
    made = result(curves={"ours": [Point(1.0, 0.1, 0.5, 0.5)]})
    assert made.equal_accuracy()["ours"] == [None] * 7
    assert "never" in equal_accuracy_table(made)


@pytest.mark.parametrize(
    ("what", "limit", "value", "met"),
    [
        ("loss", 0.5, 0.5 + 1e-9, True),
        ("loss", 0.5, 0.504, True),
        ("loss", 0.5, 0.506, False),
        ("loss", 0.5, -1.0, True),
        ("gflops", 12.0, 12.0, True),
        ("gflops", 12.0, 11.999, False),
        ("one", 7.0, math.nan, False),
    ],
)
def test_verdicts(what, limit, value, met):
    outcome = Outcome(Target("r8", what, limit), value)
    assert outcome.met is met
    assert outcome.verdict == ("met" if met else "MISSED")


def test_the_average_is_taken_over_the_ratios_of_both_tasks_only():
    r8 = {"loss": 0.4, "gflops": 16.0, "batch": 9.0, "one": 7.0}
    other = {"loss": -0.2, "gflops": 6.0, "batch": 4.0, "one": 3.0}
    found = {(one.target.task, one.target.what): one for one in outcomes({"r8": r8, "20ng": other, "tweets": r8})}
    assert set(found) == {(target.task, target.what) for target in TARGETS}
    assert found[AVERAGE, "gflops"].value == 11.0
    assert found[AVERAGE, "loss"].value == pytest.approx(0.1)
    assert not found[AVERAGE, "one"].target.limit > found[AVERAGE, "one"].value
    alone = outcomes({"r8": r8})
    assert {one.target.task for one in alone} == {"r8"}
    assert targets_table(alone, {"r8": "Reuters R8"}).count("| met |") == 4


def walk(*accuracies, scale=1.0):
    return [Point(scale, step / 10, accuracy, 1.0 - step / 10) for step, accuracy in enumerate(accuracies)]


def test_a_choice_stops_before_the_first_miss():
    assert choose(walk(0.9, 0.9, 0.89, 0.7, 0.95), 0.88).exit_threshold == 0.2
    assert choose(walk(0.9, 0.9), 0.88).exit_threshold == 0.1


def test_a_miss_within_its_noise_ends_no_choice():
    points = [replace(point, noise=0.02) for point in walk(0.9, 0.865, 0.9, 0.855, 0.95)]
    assert choose(points, 0.88).exit_threshold == 0.2


def test_a_choice_takes_the_least_work_over_the_walks():
    shallow, deep = walk(0.9, 0.9, 0.9, scale=0.0), walk(0.9, 0.5, scale=1.0)
    assert choose(shallow + deep, 0.88) == shallow[2]
    assert choose(deep + shallow[:1], 0.88) in (deep[0], shallow[0])


def test_a_choice_that_misses_everywhere_is_the_most_accurate_start():
    assert choose(walk(0.5, 0.7, scale=0.0) + walk(0.6, scale=1.0), 0.8) == Point(1.0, 0.0, 0.6, 1.0)


def test_a_choice_may_begin_with_misses_of_the_last_layer():
    assert choose(walk(0.5, 0.9, 0.9, 0.7, 0.95), 0.88).exit_threshold == 0.2


def test_frontier_and_least_work():
    points = [Point(0, 0, 0.8, 1.0), Point(0, 0, 0.7, 2.0), Point(0, 0, 0.9, 3.0), Point(0, 0, 0.9, 4.0)]
    assert [point.gflops for point in frontier(points)] == [1.0, 3.0]
    assert best_within(points, 0.85).gflops == 3.0
    assert best_within(points, 0.95) is None


def test_recorded_points_are_what_the_model_gives_at_that_setting():
    model, documents = exiting(), rows()
    records = records_of(model, documents, (0.0, 1.0))
    assert model.config.keep_scale == 1.0
    found = points_of(model, records, None)
    thresholds = sorted({point.exit_threshold for point in found})
    for threshold in (0.0, thresholds[len(thresholds) // 2], thresholds[-1]):
        model.config.exit_threshold = threshold
        answers = Contender("ours", model).answers(documents, batch_size=2)
        (point,) = points_of(model, {1.0: records[1.0]}, [threshold])
        assert point.accuracy == answers.accuracy(documents)
        assert point.gflops == pytest.approx(float(answers.flops.double().mean()) / 1e9)


@pytest.mark.parametrize("pad_to", [None, 12])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_come_in_the_order_of_the_documents(batch_size, pad_to):
    model, documents = bert(), rows()[::-1]
    with torch.inference_mode():
        wanted = [int(model(torch.tensor([row["input_ids"]])).logits.argmax()) for row in documents]
    answers = Contender("BERT", model, pad_to=pad_to).answers(documents, batch_size)
    assert answers.predicted.tolist() == wanted
    assert answers.flops is None
    right = sum(row["labels"] == answer for row, answer in zip(documents, wanted, strict=True))
    assert answers.accuracy(documents) == right / len(documents)


def test_other_precisions_and_orders_answer_and_leave_the_model_as_it_was():
    model = exiting()
    model.config.exit_threshold = 0.5
    before = Contender("ours", model).answers(rows())
    assert Contender("prepacked", prepack(model)).answers(rows()).predicted.equal(before.predicted)
    for change in (bfloat16, int8):
        changed = Contender("changed", change(model)).answers(rows())
        assert changed.predicted.shape == before.predicted.shape
        assert changed.flops is not None
    assert Contender("ours", model).answers(rows()).predicted.equal(before.predicted)


def test_every_contender_is_timed_in_every_round():
    calls = []
    model = bert()

    def spy(**batch):
        calls.append(tuple(batch["input_ids"].shape))
        return model(**batch)

    documents = rows(5)
    times = time_in_turns([Contender("first", spy), Contender("second", model)], documents, 2, rounds=3, title="a test")
    assert [len(timing.rounds) for timing in times.values()] == [3, 3]
    # The two longest warm it up, then three batches of like length in each round.
    assert calls == [(2, 6), *3 * [(2, 3), (2, 5), (1, 6)]]
    assert times["first"].speed == 5 / times["first"].seconds


def test_a_sample_is_spread_over_the_lengths():
    documents = rows(100)
    taken = [len(row["input_ids"]) for row in spread(documents, 10)]
    assert taken == [7 + 10 * step for step in range(10)]
    assert spread(documents, 100) == sorted(documents, key=lambda row: len(row["input_ids"]))


def test_baselines_pad_as_they_say():
    config, lengths = BertConfig(**SHAPE), [3, 9, 4, 5]
    made = baselines(lengths, config, batch_size=2, max_tokens=12)

    def gflops(*tokens):
        return float(baseline_flops(torch.tensor(tokens), config).mean()) / 1e9

    assert made.unpadded == pytest.approx(gflops(3, 4, 5, 9))
    assert made.longest == pytest.approx(gflops(4, 4, 9, 9))
    assert made.maximum == pytest.approx(gflops(12, 12, 12, 12))


def test_a_kept_model_is_not_made_again(tmp_path):
    made = []

    class Tokenizer:
        def save_pretrained(self, folder):
            (folder / "tokenizer.txt").write_text("a tokenizer")

    def make(work):
        made.append(work)
        return bert(), [{"stage": "finetune", "seconds": 1.0}]

    for expected_earlier in (False, True):
        kept = ModelShelf(tmp_path, Tokenizer()).get("task-bert", {"epochs": 1}, make)
        assert kept.earlier is expected_earlier
        assert kept.record["stages"] == [{"stage": "finetune", "seconds": 1.0}]
        torch.testing.assert_close(kept.model.classifier.weight, bert().classifier.weight)
    assert len(made) == 1
    assert ModelShelf(tmp_path, Tokenizer()).get("task-bert", {"epochs": 2}, make).name != kept.name
    assert len(made) == 2


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
def test_shapes_leave_what_they_say(shape, monkeypatch):
    monkeypatch.setattr("mp_models.shapes._EXITS", (1, 2))
    monkeypatch.setattr("mp_models.shapes._PRUNING", (1, 2))
    shape = type(shape)(shape.keep_rates[-2:], shape.stay_rate)
    answers = Contender("shape", shaped(bert(), shape)).answers(rows(30))
    assert bool((answers.exit_layer < 3).any()) is (shape.stay_rate < 1)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows(30)])
    stayed = answers.exit_layer == 3
    kept = answers.tokens_kept[stayed, 1]
    share = 0.25 if shape.keep_rates else 1.0
    assert kept.tolist() == (lengths[stayed] * share).ceil().long().tolist()


def test_fixed_rates_let_about_so_many_go():
    pooled = torch.randn(4000, 48, generator=torch.Generator().manual_seed(0))
    leaves = FixedRate(None, 0.4).judge(ExitEvidence(3, torch.zeros(4000, 1, 2), pooled)) < 0.5
    assert 0.35 < float(leaves.double().mean()) < 0.45


def test_tables_and_plot(tmp_path):
    made = result()
    assert "| ours | 89.60 % | 0.40 | 0.500 | 8.00x, 10.00x, 16.00x | 40.0 | 8.00x |" in contenders_table(made)
    plot({"r8": made}, tmp_path / "curves.svg")
    assert "<svg" in (tmp_path / "curves.svg").read_text(encoding="utf-8")
    row = {
        "name": "entropy", "keep_scale": 0.5, "exit_threshold": 0.125, "accuracy": 0.9, "loss_points": 0.1,
        "less_work": 3.0,
    }  # fmt: skip
    assert "| entropy | 0.5 | 0.125 | 90.00 % | 0.10 | 3.00x |" in variants_table([row], "exit criterion")
    shapes = with_own_share(
        [
            {"shape": name, "batch_size": 1, "work_left": work, "time_left": time}
            for name, work, time in (("whole", 0.9, 0.45), ("narrow", 0.45, 0.27), ("flat", 0.45, 0.45))
        ]
    )
    shown = shapes_table(shapes, "BERT-base")
    # From the first one, not from plain BERT.
    assert "| narrow | 1 | 0.450 | 0.270 | 1.20 | met |" in shown
    assert "| flat | 1 | 0.450 | 0.450 | 2.00 | MISSED |" in shown
    data = json.loads(json.dumps(made.data()))
    assert data["contenders"]["ours"]["less_work"]["unpadded"] == 8.0
    # Of the curve, only what no other point beats.
    assert [point["gflops"] for point in data["curves"]["ours"]] == [0.5, 2.0]


@pytest.mark.parametrize(("earlier", "resumed"), [(True, False), (False, True)])
def test_the_table_of_trainings_tells_an_interrupted_one(earlier, resumed):
    stages = [{"stage": name, "seconds": taken, "device": "CPU"} for name, taken in (("soft", 61.4), ("hard", 20.0))]
    made = {"stages": stages, "made_at": "2026-11-25 20:07", "load": 0.5, "earlier": earlier, "resumed": resumed}
    table = training_table(result(facts={"models": {"ours": made}}))
    assert "soft 61, hard 20" in table
    assert "| CPU |" in table
    assert ("interrupted" in table) is resumed
    assert ("2026-11-25 20:07" in table) is earlier


def test_answers_of_nobody():
    assert math.isnan(Answers(torch.empty(0, dtype=torch.int64)).accuracy([]))


@pytest.mark.parametrize("line", [["--rounds", "0"], ["--parts", "--data"], ["--max-tokens", "2"], ["--data", "imdb"]])
def test_wrong_usage_is_refused(line, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["pyramid.py", *line])
    with pytest.raises(SystemExit) as stopped:
        pyramid.arguments()
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_prepacked_weights_are_timed_by_the_length_of_a_text():
    made = prepacking_rows(bert(), (3, 5), rounds=1)
    assert [row["tokens"] for row in made] == [3, 5]
    assert all(row["in rows"] > 0 and row["prepacked"] > 0 for row in made)
    shown = prepacking_table([{"tokens": 8, "in rows": 0.08, "prepacked": 0.032}])
    assert "| 8 | 80 ms | 32 ms | 2.50x |" in shown
